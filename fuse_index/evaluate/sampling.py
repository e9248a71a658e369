"""Drawing what the gradient signal is measured on: texts, word positions, candidate words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import CorpusError, VocabularyError
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.words.table import WordTable

_TRIES_FOR_ANOTHER_TEXT = 16


@dataclass(frozen=True)
class Task:
    """One text, the word position that is substituted, and the candidates.

    Attributes:
        words: the words of the text.
        tokens: the target's tokens of every word, as inside running text.
        position: the word that is substituted, counted from 0.
        row: that word's row in the word table.
        candidates: ``(m,)`` int64 rows of the word table, without ``row``.
        other: another text, for the similarity loss.
    """

    words: tuple[str, ...]
    tokens: Ragged
    position: int
    row: int
    candidates: NDArray[np.int64]
    other: str

    @property
    def before(self) -> NDArray[np.int64]:
        """The target's tokens before the position."""
        return self.tokens.values[: self.tokens.offsets[self.position]]

    @property
    def after(self) -> NDArray[np.int64]:
        """The target's tokens after the position."""
        return self.tokens.values[self.tokens.offsets[self.position + 1] :]


def draw_tasks(
    table: WordTable,
    model: Model,
    texts: Sequence[str],
    *,
    samples: int,
    candidates: int,
    seed: int,
) -> list[Task]:
    """Draw ``samples`` tasks; the same for every loss of one target.

    A text can be measured if it has two words or more, one of them in the table, if its tokens are
    those of its words (so that substituting tokens is substituting words), and if it fits into the
    model's positions with the longest candidate.

    Args:
        table: where positions and candidates come from.
        model: the target.
        texts: what to draw from, without replacement.
        samples: how many texts.
        candidates: how many words of the table for each.
        seed: of the draw.

    Raises:
        VocabularyError: the table has too few words.
        CorpusError: too few texts can be measured.
    """
    if len(table) <= candidates:
        raise VocabularyError(
            f"{candidates} candidates from a table of {len(table)} words",
            expected=f"at most {len(table) - 1}",
            remedy="lower --candidates",
        )
    rng = np.random.default_rng([seed, 0])
    tasks: list[Task] = []
    for words, tokens, known in _measurable(table, model, texts, rng):
        position, row = known[int(rng.integers(len(known)))]
        drawn = rng.choice(len(table) - 1, size=candidates, replace=False).astype(np.int64)
        drawn += drawn >= row  # every row but the word's own
        tasks.append(Task(words, tokens, position, row, drawn, other_text(words, texts, rng)))
        if len(tasks) == samples:
            return tasks
    raise CorpusError(
        f"{len(tasks)} of {len(texts)} texts can be measured",
        expected=f"at least {samples} of two words or more, with a word of the bundle, that fit "
        "the model's positions",
        remedy="give more texts, or lower --samples",
    )


def _measurable(
    table: WordTable, model: Model, texts: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[tuple[str, ...], Ragged, list[tuple[int, int]]]]:
    """Yield texts in random order that can be measured.

    Yields:
        The words, their tokens, and (position, row) of the words in the table.
    """
    row_of = {word: row for row, word in enumerate(table.words)}
    special = len(model.frame.head) + len(model.frame.tail)
    room = int(table.target.lengths.max()) + special
    limit = model.positions
    for index in rng.permutation(len(texts)):
        words = tuple(texts[int(index)].split())
        known = [(i, row_of[word]) for i, word in enumerate(words) if word in row_of]
        if len(words) < 2 or not known:
            continue
        tokens = model.words.encode_words(words)
        too_long = limit is not None and len(tokens.values) + room > limit
        if too_long or int(tokens.lengths.min()) == 0:
            continue
        (whole,) = model.words.encode_running([" ".join(words)])
        if np.array_equal(whole, tokens.values):
            yield words, tokens, known


def other_text(text: tuple[str, ...], texts: Sequence[str], rng: np.random.Generator) -> str:
    """Draw another text for the similarity loss.

    Raises:
        CorpusError: no text differs from this one.
    """
    for _ in range(_TRIES_FOR_ANOTHER_TEXT):
        words = texts[int(rng.integers(len(texts)))].split()
        if words and tuple(words) != text:
            return " ".join(words)
    raise CorpusError(
        f"no text differs from {' '.join(text)!r}",
        expected="texts that are not all the same",
        remedy="give more texts",
    )
