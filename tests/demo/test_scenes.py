"""Scenes: the same from the same seed, splits without a common combination, true geometry."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.demo import Split, make_scene
from fuse_index.demo.lexicon import COLOURS, SHAPES
from fuse_index.demo.scene import Item, Scene, places_of, relations_of
from fuse_index.demo.splits import pairs_of
from fuse_index.demo.variants import near_miss
from fuse_index.errors import OptionError

SPLITS = list(Split)


def pairs(scene):
    return {(item.shape, item.colour) for item in scene.items}


def test_the_same_arguments_give_the_same_scene():
    first = [make_scene(Split.TEST, i, seed=3) for i in range(20)]
    assert first == [make_scene(Split.TEST, i, seed=3) for i in range(20)]
    assert first != [make_scene(Split.TEST, i, seed=4) for i in range(20)]
    assert first != [make_scene(Split.VALIDATION, i, seed=3) for i in range(20)]
    assert len({str(scene) for scene in first}) == 20


def test_a_scene_of_a_seed_stays_what_it_is():
    """Golden: the packaged weights were trained on this world."""
    scene = make_scene(Split.TRAIN, 1)
    assert scene.graph.facts() == {
        ("diamond",),
        ("diamond", "large"),
        ("diamond", "left"),
        ("diamond", "turquoise"),
    }
    assert scene.background == "beige"


def test_splits_share_no_pair_and_cover_every_pair():
    found = [set(pairs_of(split)) for split in SPLITS]
    for one, two in itertools.combinations(found, 2):
        assert not one & two
    assert set.union(*found) == set(itertools.product(SHAPES, COLOURS))
    assert [len(part) for part in found] == [80, 10, 10]


@pytest.mark.parametrize("split", SPLITS)
def test_every_shape_and_colour_is_in_every_split(split):
    shapes, colours = zip(*pairs_of(split), strict=True)
    assert set(shapes) == set(SHAPES)
    assert set(colours) == set(COLOURS)


def test_scenes_keep_to_their_splits():
    train, validation, test = (set(pairs_of(split)) for split in SPLITS)
    for index in range(300):
        assert pairs(make_scene(Split.TRAIN, index)) <= train
        shown = pairs(make_scene(Split.TEST, index))
        assert shown & test
        assert not shown & validation
        shown = pairs(make_scene(Split.VALIDATION, index))
        assert shown & validation
        assert not shown & test


@given(st.integers(0, 10**9), st.sampled_from(SPLITS), st.sampled_from([1, 2, 3]))
def test_things_are_inside_and_apart_and_no_shape_comes_twice(index, split, count):
    scene = make_scene(split, index, things=count)
    assert len(scene.items) == count == len({item.shape for item in scene.items})
    for item in scene.items:
        assert item.radius <= item.x <= 1 - item.radius
        assert item.radius <= item.y <= 1 - item.radius
    for a, b in itertools.combinations(scene.items, 2):
        assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius


@given(st.integers(0, 10**9), st.sampled_from(SPLITS))
def test_the_graph_is_true_and_its_relations_are_geometry(index, split):
    scene = make_scene(split, index)
    where = {item.shape: item for item in scene.items}
    assert scene.graph.facts() <= scene.truths
    assert len(scene.graph.relations) == len(scene.items) - 1
    for subject, relation, other in scene.graph.relations:
        a, b = where[subject], where[other]
        if relation == "left of":
            assert b.x - a.x > abs(b.y - a.y)
        else:
            assert relation == "above"
            assert b.y - a.y > abs(b.x - a.x)
    if len(scene.items) == 1:
        assert scene.graph.things[0].places


def item(x, y, shape="circle"):
    return Item(shape, "red", "", x, y, 0.1, 0.0)


@pytest.mark.parametrize(
    ("x", "y", "places"),
    [
        (0.2, 0.5, ("left",)),
        (0.8, 0.8, ("bottom", "right")),
        (0.5, 0.2, ("top",)),
        (0.5, 0.5, ("centre",)),
        (0.38, 0.5, ()),
    ],
)
def test_places(x, y, places):
    assert places_of(item(x, y)) == places


def test_relations():
    near = item(0.3, 0.5)
    assert relations_of(near, item(0.8, 0.5, "star")) == [("circle", "left of", "star")]
    assert relations_of(near, item(0.3, 0.1, "star")) == [("star", "above", "circle")]
    assert set(relations_of(near, item(0.7, 0.9, "star"))) == {
        ("circle", "left of", "star"),
        ("circle", "above", "star"),
    }


def test_the_background_is_a_truth_that_the_graph_leaves_out():
    scene = Scene((item(0.5, 0.5),), "navy")
    assert scene.truths - scene.graph.facts() == {("background", "navy")}


@given(st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_near_misses_differ_and_stay_in_the_split(index, split):
    scene = make_scene(split, index)
    other = near_miss(scene, split, random.Random(index))
    assert other != scene
    assert other == near_miss(scene, split, random.Random(index))
    allowed = set(pairs_of(split)) | set(pairs_of(Split.TRAIN))
    assert pairs(other) <= allowed


def test_near_misses_mostly_have_another_graph():
    rng = random.Random(0)
    scenes = [make_scene(Split.TRAIN, i) for i in range(200)]
    same = sum(near_miss(s, Split.TRAIN, rng).graph == s.graph for s in scenes)
    assert same <= 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"index": -1}, "scene number -1"), ({"index": 0, "things": 4}, "things=4")],
)
def test_numbers_outside_their_range(arguments, text):
    with pytest.raises(OptionError, match=re.escape(text)):
        make_scene(Split.TRAIN, **arguments)
