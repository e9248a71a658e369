"""Moves on whole words of a prompt: edits, crossings, grafts, and combinations of swaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

Word = tuple[int, ...]
Words = Sequence[Word]
"""A prompt, the source ids of each word apart."""
Ids = tuple[int, ...]

_END: Word = ()
"""Stands behind the last word of every prompt."""


def joined(words: Words) -> Ids:
    """Return the ids of words, one after another."""
    return tuple(chain.from_iterable(words))


def placed(words: Words, best: Sequence[Words], *, taken: int) -> list[Ids]:
    """Put words in every position of a prompt.

    Args:
        words: ``P`` words.
        best: the words to put in each position; ``P`` positions, or the ``P + 1`` gaps.
        taken: words that each of them replaces; 0 inserts.
    """
    return [
        joined([*words[:at], word, *words[at + taken :]])
        for at, own in enumerate(best)
        for word in own
    ]


def omissions(words: Words, most: int) -> list[Ids]:
    """Leave out every run of one to ``most`` words, but never all."""
    return [
        joined([*words[:at], *words[at + size :]])
        for size in range(1, min(most, len(words) - 1) + 1)
        for at in range(len(words) - size + 1)
    ]


def exchanges(words: Words) -> list[Ids]:
    """Exchange every two different words that do not stand together."""
    found = []
    for one, two in combinations(range(len(words)), 2):
        if two - one > 1 and words[one] != words[two]:
            changed = list(words)
            changed[one], changed[two] = words[two], words[one]
            found.append(joined(changed))
    return found


def crossings(prompt: Words, giver: Words) -> list[Ids]:
    """Put one part of another prompt into a prompt, where the same words stand around it.

    A part reaches from one word that both have to another, or to the end of both.
    """
    own, other = [*prompt, _END], [*giver, _END]
    positions: dict[Word, list[int]] = {}
    for at, word in enumerate(other):
        positions.setdefault(word, []).append(at)
    shared = [(i, j) for i, word in enumerate(own) for j in positions.get(word, ())]
    shared.append((-1, -1))
    return [
        joined([*own[: i + 1], *other[j + 1 : k], *own[m:]])
        for i, j in shared
        for m, k in shared
        if m > i and k > j and own[i + 1 : m] != other[j + 1 : k]
    ]


def combinations_of_swaps(
    prompt: Words, better: Sequence[tuple[Words, float]], most: int
) -> list[Ids]:
    """Make the best known swaps of single words at once: the best two, three, up to ``most``.

    Args:
        prompt: the words that were swapped.
        better: other prompts with smaller totals; those that differ in one word count.
        most: swaps made at once.
    """
    swaps: dict[int, tuple[float, Word]] = {}
    for words, total in better:
        if len(words) != len(prompt):
            continue
        changed = [at for at, word in enumerate(words) if word != prompt[at]]
        if len(changed) == 1:
            found = total, words[changed[0]]
            swaps[changed[0]] = min(swaps.get(changed[0], found), found)
    order = sorted(swaps, key=lambda at: swaps[at])[:most]
    rows = []
    for size in range(2, len(order) + 1):
        chosen: Mapping[int, Word] = {at: swaps[at][1] for at in order[:size]}
        rows.append(joined([chosen.get(at, word) for at, word in enumerate(prompt)]))
    return rows


def grafts(ids: Ids, giver: Words, most: int) -> list[Ids]:
    """Put beginnings of a sentence before a prompt, and endings of it behind.

    Args:
        ids: the prompt.
        giver: the sentence.
        most: words of the longest beginning or ending.
    """
    sizes = range(1, min(most, len(giver)) + 1)
    return [
        *((*joined(giver[:size]), *ids) for size in sizes),
        *((*ids, *joined(giver[-size:])) for size in sizes),
    ]
