"""The words of a row that only the tokenizers can convert, by matching from both ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fuse_index.words.tokenization import WordTokenizer


def align_words(
    text: str,
    source_ids: Sequence[int],
    target_ids: Sequence[int],
    source: WordTokenizer,
    target: WordTokenizer,
) -> tuple[list[int], list[int]]:
    """Split a row's tokens on both sides into words.

    The text's white-space words are tokenized one by one by both tokenizers. From the beginning and
    from the end they are matched with the row's tokens as far as these go; what is left in the
    middle (ids that are not what the tokenizer would give the text, words that break the law) is
    one word.

    Args:
        text: the decoded text of ``source_ids``.
        source_ids: the row in the source.
        target_ids: the target's tokens of the text.
        source: the source's tokenizer.
        target: the target's tokenizer.

    Returns:
        The source and the target tokens of every word; they sum to the lengths of the rows.
    """
    words = text.split()
    sides = [
        (list(ids), _rows(tokenizer, text, words))
        for ids, tokenizer in ((source_ids, source), (target_ids, target))
    ]
    fronts = [_matched(ids, rows) for ids, rows in sides]
    backs = [_matched(ids[::-1], [row[::-1] for row in rows[::-1]]) for ids, rows in sides]
    head = min(len(front) for front in fronts) - 1
    tail = min(len(words) - head, *(len(back) - 1 for back in backs))
    sizes = [len(ids) for ids, _ in sides]
    while any(f[head] + b[tail] > n for f, b, n in zip(fronts, backs, sizes, strict=True)):
        tail -= 1
    columns = []
    rest = [n - f[head] - b[tail] for f, b, n in zip(fronts, backs, sizes, strict=True)]
    for front, back, middle in zip(fronts, backs, rest, strict=True):
        counts = [after - before for before, after in pairwise(front[: head + 1])]
        counts += [middle] if any(rest) else []
        columns.append(counts + [b - a for a, b in pairwise(back[: tail + 1])][::-1])
    return columns[0], columns[1]


def _rows(tokenizer: WordTokenizer, text: str, words: list[str]) -> list[list[int]]:
    """Tokens of every word; the first as it stands at the beginning of the text."""
    if not words:
        return []
    rows = tokenizer.encode_words(words).to_lists()
    first = text[: text.index(words[0]) + len(words[0])]
    return [tokenizer.encode_text(first), *rows[1:]]


def _matched(ids: list[int], rows: list[list[int]]) -> list[int]:
    """Positions in ``ids`` up to which one, two, ... rows match it, beginning with 0."""
    bounds = [0]
    for row in rows:
        end = bounds[-1] + len(row)
        if ids[bounds[-1] : end] != row:
            break
        bounds.append(end)
    return bounds
