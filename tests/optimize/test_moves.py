"""The shortlist of a picture's captions: crossings, combinations, what was written as a whole."""

from __future__ import annotations

import pytest
from fuse_index.demo.shortlist import _END, Ids, Shortlist, _crossings
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.demo import draw, make_scene
from fuse_index.demo.captioning import Request, SceneCaptioner
from fuse_index.demo.cast import Cast, assemble_cast
from fuse_index.demo.splits import Split

sentences = st.lists(st.sampled_from([(1,), (2,), (3, 4), (5,)]), max_size=7)


@pytest.fixture(scope="module")
def cast() -> Cast:
    return assemble_cast()


@pytest.fixture
def found(cast: Cast) -> Shortlist:
    problem = SceneCaptioner(cast).problem(draw(make_scene(Split.TEST, 0)), Request.PLAIN)
    return Shortlist(problem, cast.lm)


def ids_of(found: Shortlist, text: str) -> Ids:
    return tuple(found.problem.encode(text))


def brute_force(own: list[Ids], giver: list[Ids]) -> set[Ids]:
    """Replace every span of one by every span of the other between equal neighbours."""
    begin, end = ("begin",), ("end",)
    one, two = [begin, *own, end], [begin, *giver, end]
    made = set()
    for i in range(len(one)):
        for m in range(i + 1, len(one)):
            for j in range(len(two)):
                for k in range(j + 1, len(two)):
                    fits = one[i] == two[j] and one[m] == two[k]
                    if fits and one[i + 1 : m] != two[j + 1 : k]:
                        words = [*one[1 : i + 1], *two[j + 1 : k], *one[m:-1]]
                        made.add(tuple(token for word in words for token in word))
    return made


@given(sentences, sentences)
def test_crossings_are_all_parts_between_equal_words(own: list[Ids], giver: list[Ids]) -> None:
    assert set(_crossings([*own, _END], [*giver, _END])) == brute_force(own, giver)


def test_parts_of_others_are_put_between_the_same_words(found: Shortlist) -> None:
    own = ids_of(found, "a red star above a circle")
    giver = ids_of(found, "a small blue star beside a ring")
    found.add([own, giver])
    before = set(found.totals)
    found.cross(50, [own], [giver])
    texts = {found.problem.decode(ids).strip() for ids in set(found.totals) - before}
    assert "a small blue star above a circle" in texts
    assert "a red star beside a ring" in texts
    assert found.forward_passes == len(found.totals)


def test_the_best_swaps_are_made_at_once(found: Shortlist) -> None:
    base, first, second, worse = (
        ids_of(found, text) for text in ("a red star", "the red star", "a red ring", "a blue star")
    )
    found.totals = {base: 3.0, first: 2.0, second: 1.0, worse: 4.0}
    found.combine(base)
    assert set(found.totals) - {base, first, second, worse} == {ids_of(found, "the red ring")}


def test_what_moves_made_was_not_written(found: Shortlist) -> None:
    written = [ids_of(found, text) for text in ("a red star", "a small circle above a ring")]
    found.add(written)
    found.cross(50, written[:1], written[1:])
    assert len(found.totals) > 2
    assert set(found.best_written(10)) == set(written)
    assert found.best_written(1) == [min(written, key=lambda ids: found.totals[ids])]
