"""The words of a row that only the tokenizers can convert, by matching from both ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fuse_index.words.tokenizers.tokenization import WordTokenizer


def align_rows(
    texts: Sequence[str],
    source_rows: Sequence[list[int]],
    target_rows: Sequence[list[int]],
    source: WordTokenizer,
    target: WordTokenizer,
) -> list[tuple[list[int], list[int]]]:
    """Split the tokens of rows into words, on both sides.

    A text's white-space words are tokenized one by one by both tokenizers. From the beginning and
    from the end they are matched with the row's tokens as far as these go; what is left in the
    middle (ids that are not what the tokenizer would give the text, words that are not
    compositional) is one word.

    Args:
        texts: ``n`` decoded texts.
        source_rows: their tokens in the source.
        target_rows: the target's tokens of the texts.
        source: the source's tokenizer.
        target: the target's tokenizer.

    Returns:
        For each row the source and the target tokens of every word; they sum to its lengths.
    """
    words = [text.split() for text in texts]
    sides = zip(
        zip(source_rows, _word_rows(source, texts, words), strict=True),
        zip(target_rows, _word_rows(target, texts, words), strict=True),
        strict=True,
    )
    return [_align(side) for side in sides]


_Side = tuple[list[int], list[list[int]]]


def _align(sides: tuple[_Side, _Side]) -> tuple[list[int], list[int]]:
    """The words of one row from its ids and its words' ids on both sides."""
    fronts = [_matched(ids, rows) for ids, rows in sides]
    backs = [_matched(ids[::-1], [row[::-1] for row in rows[::-1]]) for ids, rows in sides]
    head = min(len(front) for front in fronts) - 1
    tail = min(len(sides[0][1]) - head, *(len(back) - 1 for back in backs))
    sizes = [len(ids) for ids, _ in sides]
    while any(f[head] + b[tail] > n for f, b, n in zip(fronts, backs, sizes, strict=True)):
        tail -= 1
    rest = [n - f[head] - b[tail] for f, b, n in zip(fronts, backs, sizes, strict=True)]
    columns = []
    for front, back, middle in zip(fronts, backs, rest, strict=True):
        counts = [after - before for before, after in pairwise(front[: head + 1])]
        counts += [middle] if any(rest) else []
        columns.append(counts + [b - a for a, b in pairwise(back[: tail + 1])][::-1])
    words = [pair for pair in zip(*columns, strict=True) if any(pair)]
    return [p for p, _ in words], [q for _, q in words]


def _word_rows(
    tokenizer: WordTokenizer, texts: Sequence[str], words: Sequence[list[str]]
) -> list[list[list[int]]]:
    """For each text the tokens of its words; the first as it stands at the text's beginning."""
    distinct = sorted({word for row in words for word in row[1:]})
    ids = dict(zip(distinct, tokenizer.encode_words(distinct).to_lists(), strict=True))
    firsts = [
        text[: text.index(row[0]) + len(row[0])] if row else ""
        for text, row in zip(texts, words, strict=True)
    ]
    heads = tokenizer.encode_texts(firsts).to_lists()
    return [
        [head, *(ids[word] for word in row[1:])] if row else []
        for head, row in zip(heads, words, strict=True)
    ]


def _matched(ids: list[int], rows: list[list[int]]) -> list[int]:
    """Positions in ``ids`` up to which one, two, ... rows match it, beginning with 0."""
    bounds = [0]
    for row in rows:
        end = bounds[-1] + len(row)
        if ids[bounds[-1] : end] != row:
            break
        bounds.append(end)
    return bounds
