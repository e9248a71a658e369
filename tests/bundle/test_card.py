"""The card: what it says, and that nothing in it can be turned into markup."""

from __future__ import annotations

import dataclasses

import pytest

from fuse_index.bundle import Manifest
from fuse_index.bundle.card import number, quality_rows, render_card
from tests.bundle.test_manifest import MANIFEST

REPORT = {
    "fallback": {"words": 4000, "cosine": 0.25, "relative_error": None},
    "1x1": {"cosine": 0.5, "words": 3, "odd": 1e-5},
    "4x4": {"words": 1},
}


def manifest(**changes) -> Manifest:
    return dataclasses.replace(MANIFEST, **changes)


def test_quality_table_has_known_columns_first_and_groups_in_order():
    header, rows = quality_rows(manifest(quality=REPORT))
    assert header == ["group", "words", "relative error", "cosine", "odd"]
    assert rows == [
        ["1x1", "3", "-", "0.500", "1e-05"],
        ["fallback", "4,000", "-", "0.250", "-"],
        ["4x4", "1", "-", "-", "-"],
    ]


def test_card_says_what_from_what_and_how_good():
    card = render_card(manifest(quality={**REPORT, "overall": 0.125}, left_out={"too long": 12345}))
    assert card.startswith("---\nlibrary_name: fuse_index\n")
    assert "# Gradients of org/target-encoder for org/source-lm" in card
    assert "| embeddings | 12 x 3 | 9 x 2 |" in card
    assert "| too long | 12,345 |" in card
    assert "| 1x1 | 3 | - | 0.500 | 1e-05 |" in card
    assert "- overall: 0.125" in card
    assert "| ridge | 0.100 |" in card
    assert "Adapter.from_pretrained" in card


def test_card_opens_with_use_then_says_how_made_what_fits_and_what_is_refused():
    card = render_card(manifest(quality=REPORT, published={"license": "mit", "name": "me/bundle"}))
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# Gradients of org/target-encoder for org/source-lm",
        "## Use",
        "## How it was made",
        "## What it fits",
        "## Quality on held-out words",
        "## License",
    ]
    install, code = (part.split("\n", 1)[1] for part in card.split("```")[1::2])
    assert install == "pip install fuse-index\n"
    assert code == (
        "from fuse_index import Adapter, load_model\n\n"
        'source, target = load_model("org/source-lm"), load_model("org/target-encoder")\n'
        'adapter = Adapter.from_pretrained("me/bundle", source.identity(), target.identity())\n'
    )
    assert f"| embedding hash | `{MANIFEST.source.embedding_hash[:16]}` |" in card
    assert "Refused are another tokenizer" in card


def test_identity_card_says_so():
    files = {"words.safetensors": MANIFEST.files["words.safetensors"]}
    groups = MANIFEST.groups[:1]
    card = render_card(manifest(identity=True, files=files, groups=groups))
    assert "one model with itself" in card


def test_text_from_outside_is_escaped():
    card = render_card(manifest(left_out={"<script>|`x`\n# [a](b)": 1}))
    assert "\\<script\\>\\|\\`x\\` \\# \\[a\\]\\(b\\)" in card


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1234, "1,234"), (0.0, "0.000"), (0.12345, "0.123"), (True, "true"), ("a", "a")],
)
def test_numbers_for_people(value, text):
    assert number(value) == text
