"""``fuse-index search``: the words of a bundle nearest to given words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags
from fuse_index.common.bounds import MAX_WIDTH
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from fuse_index.index import Metric, WordIndex
    from fuse_index.models.embeddings import Embeddings


def search_command(
    bundle: _flags.Bundle,
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="One word or several.")],
    model: _flags.Vectors = "target",
    metric: Annotated[str, typer.Option(help="cosine, l2 or ip (inner product).")] = "cosine",
    top: Annotated[int, typer.Option(max=MAX_WIDTH, help="How many words to show for each.")] = 10,
    source: _flags.SourcePlace = None,
    target: _flags.TargetPlace = None,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Show the words of BUNDLE whose vectors are nearest to those of WORD.

    A word that is not in the bundle is tokenized by the models and searched all the same. Scores
    are exact, and higher is nearer: for l2 they are negative squared distances.
    """
    from fuse_index.build import IndexModel
    from fuse_index.bundle import read_bundle
    from fuse_index.bundle.identity import require_model
    from fuse_index.common.reading import choose
    from fuse_index.index import Metric, WordIndex
    from fuse_index.models.embeddings import load_embeddings

    how = choose(Metric, metric, "--metric")
    read = read_bundle(bundle, parts=("words",))
    loaded: dict[str, Embeddings] = {}
    with _console.ProgressBar() as bar:
        for side in choose(IndexModel, model, "--model").sides:
            bar("loading embeddings", 0, None)
            identity = getattr(read.manifest, side)
            place = {"source": source, "target": target}[side] or identity.name
            loaded[side] = load_embeddings(place, local_files_only=offline)
            require_model(side, identity, loaded[side].identity, str(bundle))
    tables = {side: embeddings.table for side, embeddings in loaded.items()}
    index = WordIndex.of_tokens(
        read.table, source=tables.get("source"), target=tables.get("target")
    )
    if not 1 <= top < len(index):
        raise OptionError(
            f"--top {top}", expected=f"1 to {len(index) - 1}, one less than the bundle's words"
        )
    results = _search(index, words, loaded, how, top)
    report = {"bundle": str(bundle), "model": model, "metric": metric, "results": results}
    _console.answer(json, report, lambda: _show(results, list(loaded), how))


def _search(
    index: WordIndex,
    words: list[str],
    loaded: Mapping[str, Embeddings],
    metric: Metric,
    top: int,
) -> list[dict[str, Any]]:
    """Search all words at once; a word is never among its own neighbours."""
    import torch

    row_of = {word: row for row, word in enumerate(index.words)}
    tokens = {word: _tokens(word, loaded) for word in words}
    vectors = torch.stack([_vector(tokens[word], loaded) for word in words])
    ids, scores = index.search(vectors, top + 1, metric=metric)
    spelled = {side: embeddings.words for side, embeddings in loaded.items()}
    results = []
    for word, found, values in zip(words, ids.tolist(), scores.tolist(), strict=True):
        own = row_of.get(word)
        pairs = [pair for pair in zip(found, values, strict=True) if pair[0] != own][:top]
        results.append(
            {
                "word": word,
                "in_bundle": own is not None,
                "tokens": {
                    side: [spelled[side].token(token) or f"<{token}>" for token in row]
                    for side, row in tokens[word].items()
                },
                "nearest": [
                    {
                        "word": index.words[row],
                        "score": score,
                        "count": int(index.counts[row]),
                        "tokens": {
                            side.name: len(side.tokens[row]) for side in index.vectors.sides
                        },
                    }
                    for row, score in pairs
                ],
            }
        )
    return results


def _tokens(word: str, loaded: Mapping[str, Embeddings]) -> dict[str, list[int]]:
    if not word or len(word.split()) != 1:
        raise OptionError(f"word {word!r}", expected="one word without white space")
    found = {}
    for side, embeddings in loaded.items():
        (ids,) = embeddings.words.encode_words([word]).to_lists()
        if not ids:
            raise OptionError(f"word {word!r} has no token in the {side}", remedy="try another")
        found[side] = ids
    return found


def _vector(tokens: Mapping[str, list[int]], loaded: Mapping[str, Embeddings]) -> torch.Tensor:
    import torch

    return torch.cat([loaded[side].table[ids].mean(0) for side, ids in tokens.items()])


def _show(results: list[dict[str, Any]], sides: list[str], metric: Metric) -> None:
    for result in results:
        spelled = "; ".join(f"{side} {' '.join(row)}" for side, row in result["tokens"].items())
        known = "" if result["in_bundle"] else ", not in the bundle"
        rows = [
            [
                found["word"],
                f"{found['score']:.4f}",
                f"{found['count']:,}",
                *(str(found["tokens"][side]) for side in sides),
            ]
            for found in result["nearest"]
        ]
        _console.print_table(
            ["word", metric.value, "count", *(f"{side} tokens" for side in sides)],
            rows,
            title=f"{result['word']}{known} ({spelled})",
        )
