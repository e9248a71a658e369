"""Drawing: what a scene says is where it says, in its colour."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fuse_index.demo import Split, draw, make_scene
from fuse_index.demo.drawing import INKS, PAPERS
from fuse_index.demo.lexicon import BACKGROUNDS, COLOURS, SHAPES
from fuse_index.demo.scene import Item, Scene
from fuse_index.errors import OptionError


def picture(shape="circle", colour="red", background="white", size=64, **changes):
    one = Item(shape, colour, "large", 0.5, 0.5, 0.3, 0.0)
    return np.asarray(draw(Scene((dataclasses.replace(one, **changes),), background), size))


def close(pixel, colour, tolerance=13):
    return np.abs(pixel.astype(int) - colour).max() <= tolerance


def test_every_word_of_the_grammar_can_be_drawn():
    assert set(INKS) == set(COLOURS)
    assert set(PAPERS) == set(BACKGROUNDS)


def test_the_same_scene_gives_the_same_picture():
    scene = make_scene(Split.TEST, 5)
    assert np.array_equal(draw(scene), draw(scene))
    assert not np.array_equal(draw(scene), draw(dataclasses.replace(scene, seed=scene.seed + 1)))


@pytest.mark.parametrize("pixels", [8, 64, 200])
def test_size_and_mode(pixels):
    image = draw(make_scene(Split.TRAIN, 0), pixels)
    assert image.size == (pixels, pixels)
    assert image.mode == "RGB"


@pytest.mark.parametrize("colour", sorted(COLOURS))
@pytest.mark.parametrize("background", sorted(BACKGROUNDS))
def test_colours_are_where_they_belong(colour, background):
    shown = picture("square", colour, background)
    assert close(shown[32, 32], INKS[colour])
    for corner in (shown[0, 0], shown[0, -1], shown[-1, 0], shown[-1, -1]):
        assert close(corner, PAPERS[background])


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_shape_lies_inside_its_circle_and_fills_some_of_it(shape):
    shown = picture(shape)
    inked = np.abs(shown.astype(int) - PAPERS["white"]).max(axis=2) > 60
    rows, columns = np.nonzero(inked)
    away = np.hypot(rows - 31.5, columns - 31.5) / 64
    assert away.max() <= 0.3 + 1.5 / 64
    assert 0.2 < inked.sum() / (np.pi * (0.3 * 64) ** 2) < 0.95


def test_shapes_look_different():
    masks = [np.abs(picture(s).astype(int) - 250).max(axis=2) > 60 for s in sorted(SHAPES)]
    for i, one in enumerate(masks):
        for two in masks[i + 1 :]:
            assert (one != two).sum() > 0.1 * max(one.sum(), two.sum())


@pytest.mark.parametrize("shape", ["ring", "moon"])
def test_hollow_shapes_show_the_background(shape):
    shown = picture(shape, background="beige")
    at = (32, 32) if shape == "ring" else (31, 40)
    assert close(shown[at], PAPERS["beige"], 6)


def test_edges_are_anti_aliased():
    shown = picture("circle", background="black").reshape(-1, 3).astype(int)
    ink, paper = shown[64 * 32 + 32], shown[0]
    between = (np.abs(shown - ink).max(1) > 20) & (np.abs(shown - paper).max(1) > 20)
    assert 40 < between.sum() < 250


def test_the_left_is_left_and_the_top_is_top():
    things = (
        Item("square", "red", "", 0.25, 0.2, 0.15, 0.0),
        Item("square", "blue", "", 0.75, 0.8, 0.15, 0.0),
    )
    shown = np.asarray(draw(Scene(things, "white"), 64))
    assert close(shown[13, 16], INKS["red"])
    assert close(shown[51, 48], INKS["blue"])


def test_impossible_sizes():
    with pytest.raises(OptionError, match="pixels=4; expected 8 to 4096"):
        draw(make_scene(Split.TRAIN, 0), 4)
