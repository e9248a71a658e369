"""How words lie in packed and padded token rows, and which adapter each of them uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import ShapeError

Counts = NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True, eq=False)
class WordLayout:
    """Words of a ragged batch of prompts: token counts, groups, and the prompt each belongs to.

    *Packed* rows hold the tokens of all words one after another, ``(rows, width)``. *Padded* rows
    hold one prompt each, ``(prompts, length, width)``, its words from position ``start`` on.

    Attributes:
        groups: ``(n,)`` int64, the adapter of every word.
        source_offsets: ``(n + 1,)`` int64, packed source rows of every word.
        target_offsets: ``(n + 1,)`` int64, packed target rows of every word.
        prompt_offsets: ``(b + 1,)`` int64, words of every prompt.
        source_rows: packed source rows in all, known on the host.
        target_rows: packed target rows in all, known on the host.
    """

    groups: Tensor
    source_offsets: Tensor
    target_offsets: Tensor
    prompt_offsets: Tensor
    source_rows: int
    target_rows: int

    @classmethod
    def from_counts(
        cls,
        source_counts: Counts,
        target_counts: Counts,
        groups: Counts,
        words_per_prompt: Counts | None = None,
        device: torch.device | str = "cpu",
    ) -> WordLayout:
        """Lay out words by their token counts.

        Args:
            source_counts: ``(n,)``, source tokens ``p`` of every word.
            target_counts: ``(n,)``, target tokens ``q`` of every word.
            groups: ``(n,)``, the adapter of every word.
            words_per_prompt: ``(b,)``, summing to n; ``None`` is one prompt.
            device: where the tensors go.

        Raises:
            ShapeError: the arrays do not have one entry per word, or a count is negative.
        """
        p = _counts("source_counts", source_counts)
        q = _counts("target_counts", target_counts)
        g = _counts("groups", groups)
        words = _counts(
            "words_per_prompt", [len(p)] if words_per_prompt is None else words_per_prompt
        )
        if not len(p) == len(q) == len(g) == int(words.sum()):
            raise ShapeError(
                f"WordLayout: {len(p)} source counts, {len(q)} target counts, {len(g)} groups and "
                f"{int(words.sum())} words in prompts",
                expected="one entry per word in each",
            )
        return cls(
            groups=torch.from_numpy(g).to(device),
            source_offsets=torch.from_numpy(_offsets(p)).to(device),
            target_offsets=torch.from_numpy(_offsets(q)).to(device),
            prompt_offsets=torch.from_numpy(_offsets(words)).to(device),
            source_rows=int(p.sum()),
            target_rows=int(q.sum()),
        )

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def prompts(self) -> int:
        """Number of prompts, b."""
        return len(self.prompt_offsets) - 1

    @property
    def device(self) -> torch.device:
        """Where the layout's tensors are."""
        return self.groups.device

    def to(self, device: torch.device | str) -> WordLayout:
        """Return the same layout on another device."""
        return WordLayout(
            self.groups.to(device),
            self.source_offsets.to(device),
            self.target_offsets.to(device),
            self.prompt_offsets.to(device),
            self.source_rows,
            self.target_rows,
        )

    @cached_property
    def source_lengths(self) -> Tensor:
        """``(b,)`` int64: source tokens of every prompt."""
        return self.source_offsets[self.prompt_offsets].diff()

    @cached_property
    def target_lengths(self) -> Tensor:
        """``(b,)`` int64: target tokens of every prompt."""
        return self.target_offsets[self.prompt_offsets].diff()

    def pack_source(self, padded: Tensor, start: int = 0) -> Tensor:
        """Take the words' rows out of padded source rows: ``(b, L, w) -> (source_rows, w)``."""
        return _pack(padded, self.source_lengths, self.source_rows, start, "source")

    def pack_target(self, padded: Tensor, start: int = 0) -> Tensor:
        """Take the words' rows out of padded target rows: ``(b, L, w) -> (target_rows, w)``."""
        return _pack(padded, self.target_lengths, self.target_rows, start, "target")

    def pad_source(self, packed: Tensor, length: int, start: int = 0) -> Tensor:
        """Put packed source rows where they belong, zeros elsewhere: ``(b, length, w)``."""
        return _pad(
            packed,
            self.source_lengths,
            self.source_rows,
            length=length,
            start=start,
            side="source",
        )

    def pad_target(self, packed: Tensor, length: int, start: int = 0) -> Tensor:
        """Put packed target rows where they belong, zeros elsewhere: ``(b, length, w)``."""
        return _pad(
            packed,
            self.target_lengths,
            self.target_rows,
            length=length,
            start=start,
            side="target",
        )


def _counts(name: str, values: Counts) -> NDArray[np.int64]:
    array = np.asarray(values, dtype=np.int64)
    if array.ndim != 1 or bool((array < 0).any()):
        raise ShapeError(
            f"WordLayout: {name} of shape {array.shape}, least value {array.min(initial=0)}",
            expected="a vector of numbers that are not negative",
        )
    return array


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _positions(lengths: Tensor, rows: int, length: int, start: int) -> Tensor:
    """``(rows,)``: where each packed row lies in ``(b * length)`` padded ones.

    The index has a size known on the host, so that nothing waits for a GPU.
    """
    prompts = torch.arange(len(lengths), device=lengths.device)
    prompt = torch.repeat_interleave(prompts, lengths, output_size=rows)
    first = lengths.cumsum(0) - lengths
    within = torch.arange(rows, device=lengths.device) - first[prompt]
    return prompt * length + start + within


def _pack(padded: Tensor, lengths: Tensor, rows: int, start: int, side: str) -> Tensor:
    if padded.ndim != 3 or padded.shape[0] != len(lengths):
        raise ShapeError(
            f"padded {side} rows of shape {tuple(padded.shape)}",
            expected=f"({len(lengths)} prompts, length, width)",
        )
    _check_length(lengths, padded.shape[1], start, side)
    index = _positions(lengths, rows, padded.shape[1], start)
    return padded.reshape(-1, padded.shape[2]).index_select(0, index)


def _pad(
    packed: Tensor, lengths: Tensor, rows: int, *, length: int, start: int, side: str
) -> Tensor:
    if packed.ndim != 2 or packed.shape[0] != rows:
        raise ShapeError(
            f"packed {side} rows of shape {tuple(packed.shape)}", expected=f"({rows}, width)"
        )
    _check_length(lengths, length, start, side)
    index = _positions(lengths, rows, length, start)
    flat = packed.new_zeros(len(lengths) * length, packed.shape[1])
    return flat.index_copy(0, index, packed).reshape(len(lengths), length, packed.shape[1])


def _check_length(lengths: Tensor, length: int, start: int, side: str) -> None:
    # On a GPU the lengths are not looked at: that would make the host wait.
    if lengths.device.type == "cpu" and len(lengths) and int(lengths.max()) + start > length:
        raise ShapeError(
            f"a prompt of {int(lengths.max())} {side} tokens from position {start} in padded rows "
            f"of length {length}",
            expected=f"a length of at least {int(lengths.max()) + start}",
        )
