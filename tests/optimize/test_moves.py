"""Moves on words of a prompt, against plain definitions on lists."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fuse_index.optimize.methods.moves import (
    Ids,
    Word,
    combinations_of_swaps,
    crossings,
    exchanges,
    grafts,
    joined,
    omissions,
    placed,
)

WORD = st.sampled_from([(1,), (2,), (3, 4), (5,)])
NEW = st.sampled_from([(6,), (7, 8), (9,)])
sentences = st.lists(WORD, max_size=7)


def flat(words: list[Word]) -> Ids:
    return tuple(token for word in words for token in word)


@given(sentences)
def test_words_are_joined(words):
    assert joined(words) == flat(words)


@given(st.data(), sentences)
def test_words_are_put_in_every_position_or_gap(data, words):
    best = [data.draw(st.lists(NEW, max_size=3)) for _ in range(len(words) + 1)]
    swapped = placed(words, best[:-1], taken=1)
    assert swapped == [
        flat([new if at == here else word for at, word in enumerate(words)])
        for here in range(len(words))
        for new in best[here]
    ]
    inserted = placed(words, best, taken=0)
    expected = []
    for here in range(len(words) + 1):
        for new in best[here]:
            grown = list(words)
            grown.insert(here, new)
            expected.append(flat(grown))
    assert inserted == expected


@given(sentences, st.integers(0, 4))
def test_every_run_of_words_is_left_out_but_never_all(words, most):
    expected = [
        flat([word for at, word in enumerate(words) if not begin <= at < begin + size])
        for size in range(1, most + 1)
        for begin in range(len(words) - size + 1)
        if size < len(words)
    ]
    assert omissions(words, most) == expected


@given(sentences)
def test_different_words_that_stand_apart_are_exchanged(words):
    expected = []
    for one, two in combinations(range(len(words)), 2):
        changed = list(words)
        changed[one], changed[two] = changed[two], changed[one]
        if two > one + 1 and changed != words:
            expected.append(flat(changed))
    assert exchanges(words) == expected


def test_edits_by_hand():
    a, b, c = (1,), (2, 3), (4,)
    assert exchanges([a, b, a]) == []
    assert exchanges([a, b, c]) == [(4, 2, 3, 1)]
    assert omissions([a, b], 3) == [(2, 3), (1,)]
    assert omissions([a, b, c], 2) == [(2, 3, 4), (1, 4), (1, 2, 3), (4,), (1,)]
    assert omissions([a], 3) == []


def brute_force(own: list[Word], giver: list[Word]) -> set[Ids]:
    """Replace every span of one by every span of the other between equal neighbours."""
    begin, end = (-1,), (-2,)
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
def test_crossings_are_all_parts_between_equal_words(own, giver):
    assert set(crossings(own, giver)) == brute_force(own, giver)


def words_of(text: str) -> list[Word]:
    """A word a letter's number, so that tests can be read."""
    return [(len(word), ord(word[0])) for word in text.split()]


def test_parts_of_others_are_put_between_the_same_words():
    own, giver = words_of("a red star above a circle"), words_of("a small blue star beside a ring")
    made = set(crossings(own, giver))
    assert flat(words_of("a small blue star above a circle")) in made
    assert flat(words_of("a red star beside a ring")) in made


def test_the_best_swaps_are_made_at_once():
    base, first, second, longer = (
        words_of(text) for text in ("a red star", "the red star", "a red ring", "a big red star")
    )
    better = [(first, 2.0), (second, 1.0), (longer, 0.5)]
    assert combinations_of_swaps(base, better, 4) == [flat(words_of("the red ring"))]
    assert combinations_of_swaps(base, better, 1) == []


@given(st.data(), st.lists(WORD, min_size=1, max_size=6), st.integers(0, 4))
def test_combinations_take_the_best_swap_of_each_of_the_best_positions(data, words, most):
    swaps = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(words) - 1), NEW, st.integers(0, 99)),
            unique_by=(lambda swap: swap[:2], lambda swap: swap[2]),
            max_size=8,
        )
    )
    better = []
    for at, new, total in swaps:
        changed = list(words)
        changed[at] = new
        better.append((changed, float(total)))
    best: dict[int, tuple[float, Word]] = {}
    for at, new, total in sorted(swaps, key=lambda swap: swap[2]):
        best.setdefault(at, (total, new))
    order = sorted(best, key=lambda at: best[at][0])[:most]
    expected = []
    for size in range(2, len(order) + 1):
        changed = list(words)
        for at in order[:size]:
            changed[at] = best[at][1]
        expected.append(flat(changed))
    assert combinations_of_swaps(words, better, most) == expected


@given(st.lists(st.integers(0, 9), max_size=5), sentences, st.integers(0, 9))
def test_beginnings_and_endings_are_grafted(ids, giver, most):
    sizes = [size for size in range(1, most + 1) if size <= len(giver)]
    before = [(*flat(giver[:size]), *ids) for size in sizes]
    behind = [(*ids, *flat(giver[len(giver) - size :])) for size in sizes]
    assert grafts(tuple(ids), giver, most) == [*before, *behind]
