"""Prompts with places of words, and the gradients that were taken there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.optimize.gradient import Put, rows_within
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.reader import Reader
    from fuse_index.optimize.state import Ids


@dataclass(frozen=True, eq=False)
class Places:
    """The words of one prompt.

    Attributes:
        ids: the prompt.
        offsets: ``(W + 1,)`` where each word begins.
    """

    ids: Ids
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class Points:
    """Prompts whose gradient is taken, and the place that counts in each."""

    rows: Ragged
    slots: NDArray[np.int64]
    mean_word: bool = False

    def part(self, run: slice) -> Points:
        """Some of the prompts."""
        return Points(rows_within(self.rows, run), self.slots[run], self.mean_word)


@dataclass(frozen=True, eq=False)
class PointGradients:
    """The gradients of the terms of one model, with one place that counts in each row.

    Attributes:
        reader: who reads the prompts for the model.
        sums: ``(R, d)`` float32, summed over the place's tokens; zeros where it does not count.
        counted: ``(R,)`` bool: False where the word joins its neighbour in the model's tokens.
        losses: ``(R,)`` float32.
    """

    reader: Reader
    sums: Tensor
    counted: Tensor
    losses: Tensor


@dataclass(frozen=True, eq=False)
class Spread:
    """Gradients at the anchors of places, not averaged.

    Attributes:
        points: ``R = S * A`` of them, those of the first place first.
        words: ``(S, A)`` int64, which word of the lexicon stands there.
    """

    points: PointGradients
    words: Tensor


@dataclass(frozen=True, eq=False)
class PlaceGradient:
    """The gradient of the terms of one model, by place.

    Attributes:
        reader: who reads the prompts for the model.
        sums: ``(S, d)`` float32, summed over the tokens of each place, averaged over anchors.
        current: ``(S, d)`` float32, the mean embedding of each place's own tokens.
        spread: the gradients at the anchors, where every word weighs them by itself.
    """

    reader: Reader
    sums: Tensor
    current: Tensor
    spread: Spread | None = None


def segment_sums(packed: Tensor, offsets: NDArray[np.int64]) -> Tensor:
    """Sum packed rows ``(tokens, d)`` by segment -> ``(segments, d)``."""
    counts = np.diff(offsets)
    segment = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(packed.device)
    return packed.new_zeros(len(counts), packed.shape[1]).index_add_(0, segment, packed)


def with_mean_word(
    contents: Ragged,
    offsets: NDArray[np.int64],
    first: NDArray[np.int64],
    slots: NDArray[np.int64],
    mean: Tensor,
) -> tuple[Ragged, NDArray[np.int64], Put]:
    """Put one token in the place of a word in every row, and the mean word's vector on it."""
    rows, positions, lengths = [], [], np.diff(offsets)
    starts = contents.offsets
    for row, slot in enumerate(slots):
        word = int(first[row] + min(slot, first[row + 1] - first[row] - 1))
        begin = int(offsets[word] - starts[row])
        end = int(offsets[word + 1] - starts[row])
        ids = contents[row].tolist()
        rows.append([*ids[:begin], ids[begin], *ids[end:]])
        positions.append(begin)
        lengths[word] = 1
    cut = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged.from_lists(rows), cut, Put(np.array(positions, dtype=np.int64), mean)
