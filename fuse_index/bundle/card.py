"""The card of a bundle: a README for people, written from the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fuse_index.bundle.identity import ModelIdentity
from fuse_index.bundle.manifest import Manifest

_COLUMNS = (
    "words",
    "held_out",
    "relative_error",
    "cosine",
    "baseline_error",
    "baseline_cosine",
)
_INDEX_COLUMNS = ("kind", "metric", "representation", "recall", "recall_at", "seconds")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@[\w./-]+)?")
"""A model that others find by its name: owner/name, with or without a revision."""
_MARKUP = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>()#+!|~"} | {"\n": " "})


def render_card(manifest: Manifest) -> str:
    """Write the card.

    Args:
        manifest: of the bundle; its ``files`` are not used.

    Returns:
        Markdown with the front matter that model hubs read.
    """
    source, target = manifest.source, manifest.target
    parts = [
        _front_matter(manifest),
        f"# Gradients of {escape(target.name)} for {escape(source.name)}",
        "A fuse_index bundle: it carries gradients of a loss of the target model back to the token "
        "embeddings of the source model, although the two have different tokenizers."
        if not manifest.identity
        else "A fuse_index bundle of one model with itself: gradients pass through unchanged.",
        _use(manifest),
        "## How it was made",
        f"{manifest.words:,} words, counted text `{manifest.corpus_sha256[:16]}`, by fuse_index "
        f"{manifest.package_version}.",
    ]
    if manifest.options:
        parts.append(_pairs("option", "value", manifest.options))
    parts.append(_table(["group", "words"], [[g.name, f"{g.words:,}"] for g in manifest.groups]))
    if manifest.left_out:
        parts.append("Left out:\n\n" + _pairs("reason", "words", manifest.left_out))
    if manifest.fallbacks:
        table = _pairs("group", "why", manifest.fallbacks)
        parts.append("Groups served by the fallback adapter:\n\n" + table)
    if manifest.kinds:
        parts.append("Kinds of maps:\n\n" + _kinds(manifest))
    parts += ["## What it fits", _models(source, target), _REFUSED]
    if manifest.quality:
        parts.append("## Quality on held-out words\n\n" + quality_table(manifest))
    if manifest.indexes:
        parts.append("## Word indexes\n\n" + _indexes(manifest))
    if licence := manifest.published.get("license"):
        parts.append(f"## License\n\n{escape(licence)}, as its publisher says.")
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """Write the YAML that model hubs read; JSON's text is YAML's double-quoted text."""
    lines = ["library_name: fuse_index"]
    if licence := manifest.published.get("license"):
        lines.append(f"license: {json.dumps(licence)}")
    models = [_HUB_ID.fullmatch(model.name) for model in (manifest.source, manifest.target)]
    known = dict.fromkeys(match[1] for match in models if match)
    if known:
        lines += ["base_model:", *(f"- {json.dumps(name)}" for name in known)]
    lines += ["tags:", "- fuse_index", "- fuse-adapter", "- cross-tokenizer-gradients"]
    return "\n".join(["---", *lines, "---"])


def quality_rows(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Lay the quality report out as a table.

    Returns:
        The header, and one row of text per group in the manifest's order, then any other entries.
    """
    report = {key: item for key, item in manifest.quality.items() if isinstance(item, Mapping)}
    found = {column for item in report.values() for column in item}
    columns = [column for column in _COLUMNS if column in found]
    columns += sorted(found - set(columns))
    names = [name for name in manifest.group_names if name in report]
    names += sorted(set(report) - set(names))
    header = ["group", *(column.replace("_", " ") for column in columns)]
    return header, [[name, *(number(report[name].get(c)) for c in columns)] for name in names]


def quality_table(manifest: Manifest) -> str:
    """Render the quality report as Markdown: a table of groups, a list of single figures."""
    header, rows = quality_rows(manifest)
    single = [
        f"- {escape(key)}: {escape(number(item))}"
        for key, item in sorted(manifest.quality.items())
        if not isinstance(item, Mapping)
    ]
    table = _table([escape(h) for h in header], [[escape(c) for c in row] for row in rows])
    return "\n\n".join(part for part in (table if rows else "", "\n".join(single)) if part)


def number(value: Any) -> str:
    """Write a figure for people: integers with commas, short floats, "-" for no value."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def escape(text: str) -> str:
    """Keep text from a manifest from being read as Markdown or HTML."""
    return text.translate(_MARKUP)


def _models(source: ModelIdentity, target: ModelIdentity) -> str:
    both = (source, target)
    rows = [
        ["model", *(escape(model.name) for model in both)],
        ["revision", *(escape(model.revision) or "-" for model in both)],
        ["embeddings", *(f"{model.vocabulary_size:,} x {model.width}" for model in both)],
        ["tokenizer", *(f"`{model.tokenizer_hash[:16]}`" for model in both)],
        ["embedding hash", *(f"`{model.embedding_hash[:16]}`" for model in both)],
    ]
    return _table(["", "source", "target"], rows)


def kind_rows(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Lay out the kinds of maps, with the errors they were chosen by, as a table of text.

    Returns:
        The header, and one row per group; none where all are t-products without intercept.
    """
    if not manifest.kinds:
        return ["group", "kind"], []
    tried = list(dict.fromkeys(kind for own in manifest.selection.values() for kind in own))
    rows = []
    for name in manifest.group_names:
        errors = manifest.selection.get(name, {})
        rows.append([name, manifest.kind_of(name), *(number(errors.get(own)) for own in tried)])
    return ["group", "kind", *tried], rows


def _kinds(manifest: Manifest) -> str:
    header, rows = kind_rows(manifest)
    text = _table([escape(h) for h in header], [[escape(c) for c in row] for row in rows])
    if manifest.selection:
        text += "\n\nOf kinds that were tried, the cross-validated relative error."
    return text


def index_rows(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Lay the word indexes out as a table: the header, and one row of text an index."""
    rows = [
        [name, *(number(report.get(key)) for key in _INDEX_COLUMNS)]
        for name, report in sorted(manifest.indexes.items())
    ]
    return ["index", *(column.replace("_", " ") for column in _INDEX_COLUMNS)], rows


def _indexes(manifest: Manifest) -> str:
    header, rows = index_rows(manifest)
    return _table(header, [[escape(cell) for cell in row] for row in rows])


def _pairs(first: str, second: str, values: Mapping[str, Any]) -> str:
    rows = [[escape(key), escape(number(item))] for key, item in sorted(values.items())]
    return _table([first, second], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _use(manifest: Manifest) -> str:
    place = manifest.published.get("name", "path/to/this/folder")
    source, target = (json.dumps(model.name) for model in (manifest.source, manifest.target))
    return _USE.format(place=json.dumps(place), source=source, target=target)


_USE = """## Use

```sh
pip install fuse-index
```

```python
from fuse_index import Adapter, load_model

source, target = load_model({source}), load_model({target})
adapter = Adapter.from_pretrained({place}, source.identity(), target.identity())
```

`wrap_model(module, tokenizer)` in the place of `load_model` takes a model that is in memory.
`fuse-index inspect FOLDER` verifies the checksums, `fuse-index validate FOLDER` measures how good
the gradient is."""

_REFUSED = """The hashes decide, names do not. Refused are another tokenizer (one added token makes
another), a table of another size, and other embedding values: those of a model whose embeddings
were trained further, or of another revision. What lies above the embeddings may differ: adapters
such as LoRA on the layers, quantization, the head. Of a model that is loaded in fewer bits than it
is stored in, embedding values are not compared."""
