"""Objectives of several items: what an item may be, and what is none."""

from __future__ import annotations

import pytest

from fuse_index.errors import OptionError
from fuse_index.objectives import (
    ClassifierLabel,
    Combine,
    Fluency,
    ImageSimilarity,
    TargetContinuation,
    TextSimilarity,
    objective_from_json,
)

PAIR = ({"prefix": "A bird: ", "target": " it flies"}, {"target": " it swims", "suffix": "!"})


def test_an_item_has_its_own_fields_and_those_of_the_objective():
    objective = TargetContinuation(items=PAIR, prefix="See. ", loss="mellowmax", weight=2.0)
    first, second = objective.parts
    shared = {"loss": "mellowmax", "weight": 2.0}
    assert first == TargetContinuation(prefix="A bird: ", target=" it flies", **shared)
    assert second == TargetContinuation(prefix="See. ", suffix="!", target=" it swims", **shared)


def test_an_objective_without_items_is_its_only_part():
    for objective in (TargetContinuation(target=" a"), Fluency(), TextSimilarity(texts="a")):
        assert objective.parts == (objective,)
        assert "items" not in objective.to_json()
        assert "combine" not in objective.to_json()


def test_every_kind_takes_items():
    assert [
        part.texts for part in TextSimilarity(items=[{"texts": "a"}, {"texts": "b"}]).parts
    ] == [
        ("a",),
        ("b",),
    ]
    assert [part.label for part in ClassifierLabel(items=[{"label": "x"}, {"label": 0}]).parts] == [
        "x",
        0,
    ]
    pictures = ImageSimilarity(items=[{"images": "a.png"}, {"images": ["b.png", "c.png"]}]).parts
    assert [part.images for part in pictures] == [("a.png",), ("b.png", "c.png")]


def test_items_may_be_objectives_of_the_kind():
    items = [TargetContinuation(target=" a", prefix="x "), {"type": "continuation", "target": " b"}]
    objective = TargetContinuation(items=items)
    assert [part.target for part in objective.parts] == [" a", " b"]
    assert objective.items == ({"target": " a", "prefix": "x "}, {"target": " b"})


def test_items_are_written_down_and_read_again():
    objective = TargetContinuation(items=PAIR, combine="worst", items_per_step=1, progressive=True)
    written = objective.to_json()
    assert written["items"] == list(map(dict, PAIR))
    assert (written["combine"], written["items_per_step"]) == ("worst", 1)
    again = objective_from_json(written)
    assert again == objective
    assert again.combine is Combine.WORST


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"items": []}, "continuation: 0 items; expected at least one"),
        ({"items": "pairs.jsonl"}, r"items\[0\]: 'pairs.jsonl'.*run.read_items"),
        ({"items": [{"target": " a"}, 3]}, r"items\[1\]: 3; expected a mapping of fields"),
        ({"items": [{"target": ""}]}, r"items\[0\]: target ''; expected a text"),
        ({"items": [{"prefix": "a"}]}, r"items\[0\]: target ''; expected a text"),
        ({"items": [{"target": 3}]}, r"items\[0\].target: 3; expected a text"),
        ({"items": [{"targt": " a"}]}, r"items\[0\]: field 'targt' is unknown.*mean 'target'"),
        ({"items": [{"type": "label", "label": 0}]}, r"type 'label'; expected items of one obj"),
        ({"items": [ClassifierLabel(label=0)]}, r"type 'label'; expected items of one objective"),
        ({"items": [{"target": " a", "weight": 2.0}]}, "weight; expected the fields of one item"),
        ({"items": [{"target": " a", "items": []}]}, "items; expected the fields of one item"),
        ({"items": PAIR, "items_per_step": 3}, "items_per_step=3 of 2 items; expected at most 2"),
        ({"items": PAIR, "items_per_step": 0}, "items_per_step=0; expected at least 1"),
        ({"items": PAIR, "combine": "median"}, "combine 'median'; expected one of mean, sum"),
        ({"target": " a", "progressive": True}, "progressive=True without items"),
        ({"target": " a", "combine": "worst"}, "combine=worst without items"),
        ({"target": " a", "items_per_step": 1}, "items_per_step=1 without items"),
    ],
)
def test_what_is_no_item(given, said):
    with pytest.raises(OptionError, match=said):
        TargetContinuation(**given)


def test_similarities_are_never_met_so_none_is_added():
    with pytest.raises(OptionError, match="text: progressive items, of which none is ever met"):
        TextSimilarity(items=[{"texts": "a"}], progressive=True)
