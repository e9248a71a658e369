"""Scene-graph F1 by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.demo import FULL, Split, graph_of_sentence, make_scene, make_sentences
from fuse_index.errors import ShapeError
from fuse_index.evaluate import Agreement, score_graphs
from fuse_index.evaluate.graphs import fact_agreement

SCENE = {("circle",), ("circle", "red"), ("star",), ("circle", "above", "star")}
TRUE = SCENE | {("background", "navy")}
SAID = {("circle",), ("circle", "red"), ("circle", "small"), ("background", "navy")}

names = st.sampled_from(["circle", "star", "ring"])
facts = st.frozensets(
    st.one_of(st.tuples(names), st.tuples(names, names), st.tuples(names, names, names)),
    max_size=8,
)


def test_agreement_by_hand():
    assert fact_agreement(SAID, SCENE) == Agreement(2 / 4, 2 / 4)
    assert fact_agreement(SAID, SCENE, TRUE) == Agreement(3 / 4, 2 / 4)
    assert fact_agreement(SAID, SCENE, TRUE).f1 == pytest.approx(0.6)
    assert fact_agreement(set(), SCENE) == Agreement(0, 0)
    assert fact_agreement(set(), SCENE).f1 == 0


def test_scores_of_two_captions_by_hand():
    scores = score_graphs([SAID, SCENE], [SCENE, SCENE], [TRUE, TRUE])
    value = {name: score.value for name, score in scores.items()}
    assert value == {
        "graph F1": pytest.approx((0.6 + 1) / 2),
        "graph precision": pytest.approx((3 / 4 + 1) / 2),
        "graph recall": pytest.approx((1 / 2 + 1) / 2),
        "objects F1": pytest.approx((2 / 3 + 1) / 2),  # precision 1, recall 1/2
        "attributes F1": pytest.approx((4 / 5 + 1) / 2),  # precision 2/3, recall 1
        "relations F1": pytest.approx((0 + 1) / 2),
    }
    assert scores["graph F1"].items.tolist() == pytest.approx([0.6, 1.0])


def test_kinds_that_neither_caption_nor_scene_has_do_not_count():
    lone = {("ring",), ("ring", "blue")}
    scores = score_graphs([lone, lone, SAID], [lone, SCENE, SCENE])
    assert scores["relations F1"].items.tolist()[1:] == [0.0, 0.0]
    assert scores["relations F1"].items[0] != scores["relations F1"].items[0]  # NaN
    assert scores["relations F1"].value == 0.0
    # A true fact of a kind the scene's own graph lacks is no mistake, a false one is.
    bare = {("ring",)}
    truths = bare | {("background", "navy")}
    told = score_graphs([truths, {("ring",), ("ring", "red")}], [bare, bare], [truths, truths])
    assert told["attributes F1"].items[0] != told["attributes F1"].items[0]
    assert told["attributes F1"].items[1] == 0.0


@given(facts, facts)
def test_f1_is_the_dice_coefficient_and_symmetric(said, wanted):
    f1 = fact_agreement(said, wanted).f1
    total = len(said) + len(wanted)
    assert f1 == pytest.approx(2 * len(said & wanted) / total if total else 0.0)
    assert f1 == pytest.approx(fact_agreement(wanted, said).f1)


def test_bad_input():
    with pytest.raises(ShapeError, match="1 captions, 2 graphs and 2 sets of truths"):
        score_graphs([SAID], [SCENE, SCENE])
    with pytest.raises(ShapeError, match="at least one"):
        score_graphs([], [])


def test_full_captions_of_the_demo_have_f1_1_and_those_of_other_scenes_do_not():
    scenes = [make_scene(Split.TEST, index) for index in range(40)]
    said = [
        graph_of_sentence(make_sentences(scene, 1, options=FULL)[0].text).facts()
        for scene in scenes
    ]
    wanted, truths = [scene.graph.facts() for scene in scenes], [scene.truths for scene in scenes]
    right = score_graphs(said, wanted, truths)
    assert right["graph precision"].value == 1
    assert right["objects F1"].value == right["attributes F1"].value == 1
    assert right["graph F1"].value > 0.98  # three things may be related along another chain
    wrong = score_graphs(said[1:] + said[:1], wanted, truths)
    assert wrong["graph F1"].value < 0.4
