"""Word vectors, computed from token embeddings on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fuse_index.errors import OptionError, ShapeError, VocabularyError
from fuse_index.index.options import Representation
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

_CHUNK_BYTES = 64 << 20
_TINY = 1e-30
_LARGEST = 1e15
"""Most that a value of a vector may be: squared norms and products stay finite in float32."""
_MANY = 1 / 8
"""Candidates, in units of the tokens in use, from which on all tokens are scored at once."""


@dataclass(frozen=True, eq=False)
class Side:
    """One model's view of the words.

    Attributes:
        name: "source", "target", or the name of a further model.
        tokens: ``n`` rows of token ids.
        table: ``(vocabulary, d)`` embeddings, float32 on the CPU.
        weight: factor of this model's part of a joint query.
    """

    name: str
    tokens: Ragged
    table: Tensor
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or not self.table.dtype.is_floating_point:
            raise ShapeError(
                f"embeddings of the {self.name} of shape {tuple(self.table.shape)} and dtype "
                f"{self.table.dtype}",
                expected="(vocabulary, width), floating",
            )
        table = self.table.detach().to(device="cpu", dtype=torch.float32).contiguous()
        object.__setattr__(self, "table", table)
        values = self.tokens.values
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(table):
            raise ShapeError(
                f"token ids of the {self.name} from {values.min()} to {values.max()}",
                expected=f"0 to {len(table) - 1}, the rows of its embedding table",
            )
        if len(self.tokens) and int(self.tokens.lengths.min()) == 0:
            raise VocabularyError(
                f"word {int(self.tokens.lengths.argmin())} has no token in the {self.name}",
                expected="at least one token a word",
            )

    def with_words(self, tokens: Ragged) -> Side:
        """Return the side with more words at the end."""
        return replace(self, tokens=Ragged.concatenate([self.tokens, tokens]))


def sides_of(
    table: WordTable,
    *,
    source: Tensor | None = None,
    target: Tensor | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Side]:
    """Return the models of a word table whose embeddings are given.

    Args:
        table: the words and their tokens in both models.
        source: ``(source vocabulary, d_src)``; ``None`` leaves the source out.
        target: ``(target vocabulary, d_tgt)``; ``None`` leaves the target out.
        weights: factor of each model in joint queries; 1 where none is given.

    Raises:
        OptionError: neither is given.
    """
    given = [("source", table.source, source), ("target", table.target, target)]
    sides = [
        Side(name, tokens, embeddings, float((weights or {}).get(name, 1.0)))
        for name, tokens, embeddings in given
        if embeddings is not None
    ]
    if not sides:
        raise OptionError("no embedding table", expected="that of the source, the target or both")
    return sides


@dataclass(frozen=True, eq=False)
class PackedSide:
    """A side without the tokens that no word has.

    Attributes:
        rows: ``(used + 1, d)``: embeddings of the used tokens; the last is zero, for padding.
        columns: ``(k, n)`` int32: rows of every word's tokens, padded.
        scale: ``(n,)``: 1 / token count, or 1 where words are padded.
        part: the side's part of a vector.
        slots: parts of width d in a vector: 1 for the mean, k where words are padded.
    """

    rows: Tensor
    columns: Tensor
    scale: Tensor
    part: slice
    slots: int


class WordVectors:
    """Vectors of ``n`` words over one model or the concatenation of several.

    A vector is the mean of token embeddings, or their padded concatenation, model after model. It
    is made when it is needed, unless :meth:`keep` stores them all.

    Args:
        sides: the models; all with the same words.
        representation: what stands for a word.
    """

    def __init__(self, sides: Sequence[Side], representation: Representation) -> None:
        sizes = {side.name: len(side.tokens) for side in sides}
        if not sides or len(sizes) < len(sides) or len(set(sizes.values())) != 1:
            raise ShapeError(
                f"models with words {[(side.name, len(side.tokens)) for side in sides]}",
                expected="one or more models of distinct names with the same words",
            )
        if not len(sides[0].tokens):
            raise VocabularyError("an index of 0 words", expected="at least one word")
        self.sides = tuple(sides)
        self.representation = representation
        self.packed: list[PackedSide] = []
        for side in sides:
            self.packed.append(_pack(side, representation, self.width))
        self.kept: Tensor | None = None
        """``(n, width)``: all vectors, where they are stored."""
        self.has_tables = True
        """Whether token embeddings are held: without them the vectors are kept."""

    def __len__(self) -> int:
        return len(self.sides[0].tokens)

    @property
    def width(self) -> int:
        """Columns of a vector: those of all models together."""
        return int(self.packed[-1].part.stop) if self.packed else 0

    @property
    def bytes(self) -> int:
        """Bytes held here: token embeddings, token ids, and the vectors that are kept."""
        kept = 0 if self.kept is None else self.kept.nbytes
        return kept + self.bytes_of_ids + sum(packed.rows.nbytes for packed in self.packed)

    @property
    def bytes_of_ids(self) -> int:
        """Bytes of the token ids alone."""
        return sum(packed.columns.nbytes + packed.scale.nbytes for packed in self.packed)

    @property
    def chunk(self) -> int:
        """Words whose vectors fit into a few tens of megabytes."""
        return max(1024, _CHUNK_BYTES // (4 * self.width))

    def keep(self, tables: bool = True) -> None:
        """Store all vectors, so that comparing a few words again is a single gather.

        Args:
            tables: whether the token embeddings are held too, by which other searches are fast.
        """
        if self.kept is None:
            self.kept = self.matrix()
        if not tables:
            self.packed = [replace(packed, rows=packed.rows[:0].clone()) for packed in self.packed]
            self.has_tables = False

    def rows(self, ids: Tensor) -> Tensor:
        """Make vectors: ``(m,)`` word ids to ``(m, width)`` float32."""
        if self.kept is not None:
            return self.kept.index_select(0, ids)
        parts = []
        for packed in self.packed:
            tokens = packed.columns.index_select(1, ids).t().contiguous()  # (m, k)
            if self.representation is Representation.MEAN:
                total = functional.embedding_bag(tokens, packed.rows, mode="sum")
                parts.append(total.mul_(packed.scale[ids, None]))
            else:
                parts.append(functional.embedding(tokens, packed.rows).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the vectors of all words, :attr:`chunk` at a time."""
        for ids in torch.split(torch.arange(len(self)), self.chunk):
            yield self.rows(ids)

    def matrix(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """All vectors: ``(n, width)``."""
        out = torch.empty(len(self), self.width, device=device, dtype=dtype)
        for part, rows in zip(torch.split(out, self.chunk), self.chunks(), strict=True):
            part.copy_(rows)
        return out

    @cached_property
    def squares(self) -> Tensor:
        """``(n,)``: squared norms, summed in float64, kept in float32."""
        return torch.cat([rows.double().square().sum(1).float() for rows in self.chunks()])

    @cached_property
    def inverse_norms(self) -> Tensor:
        """``(n,)``: 1 / norm; a zero vector has a cosine of 0 with everything."""
        return torch.where(self.squares > 0, self.squares.clamp(min=_TINY).rsqrt(), 0.0)

    def inner(self, queries: Tensor, ids: Tensor) -> Tensor:
        """Multiply queries with the vectors of given words.

        Where vectors are not kept this goes through the scores of their tokens.

        Args:
            queries: ``(b, width)`` float32.
            ids: ``(b, m)`` int64, none negative.

        Returns:
            ``(b, m)``.
        """
        if self.kept is not None:
            return _products(self.kept, queries, ids, self.chunk)
        total = torch.zeros(ids.shape)
        for packed in self.packed:
            tokens = packed.columns.t()[ids]  # (b, m, k)
            parts = queries[:, packed.part]
            scores = _token_scores(packed, parts.view(len(parts), packed.slots, -1), tokens)
            total += scores.sum(2).mul_(packed.scale[ids])
        return total

    def nearness(self, queries: Tensor, ids: Tensor) -> Tensor:
        """``-|q - x|^2`` of given words, without cancellation: ``(b, m)``."""
        step = max(1, self.chunk // max(ids.shape[1], 1))
        parts = []
        for chosen, asked in zip(torch.split(ids, step), torch.split(queries, step), strict=True):
            words = self.rows(chosen.flatten()).view(*chosen.shape, -1)  # (b, m, width)
            parts.append((words - asked[:, None]).square_().sum(2).neg_())
        return torch.cat(parts)


def _products(rows: Tensor, queries: Tensor, ids: Tensor, chunk: int) -> Tensor:
    """``(b, m)``: queries ``(b, width)`` times the rows that ``ids`` ``(b, m)`` name.

    numpy does the work of a single query, see :func:`_token_scores`.
    """
    if len(ids) == 1:
        few = np.take(rows.numpy(), ids.numpy()[0], axis=0)
        return torch.from_numpy(np.einsum("ij,j->i", few, queries.numpy()[0]))[None]
    step = max(1, chunk // max(ids.shape[1], 1))
    parts = []
    for chosen, asked in zip(torch.split(ids, step), torch.split(queries, step), strict=True):
        words = rows.index_select(0, chosen.flatten()).view(*chosen.shape, -1)
        parts.append(torch.bmm(words, asked[..., None])[..., 0])
    return torch.cat(parts)


def _token_scores(packed: PackedSide, queries: Tensor, tokens: Tensor) -> Tensor:
    """Score the tokens of candidates: queries ``(b, slots, d)``, tokens and result ``(b, m, k)``.

    numpy does the work of a single query: it is too little to be worth waking threads for, which
    on a busy machine takes longer than the work itself.
    """
    b, slots = len(queries), packed.slots
    if b == 1 and slots == 1:
        unique, places = np.unique(tokens.numpy(), return_inverse=True)
        rows = np.take(packed.rows.numpy(), unique, axis=0)
        found = np.einsum("ij,j->i", rows, queries.numpy()[0, 0])[places.reshape(tokens.shape)]
        return torch.from_numpy(np.ascontiguousarray(found))
    if b * tokens.shape[1] < _MANY * len(packed.rows):
        embedded = functional.embedding(tokens, packed.rows)  # (b, m, k, d)
        return torch.einsum("bmkd,bkd->bmk", embedded, queries.expand(-1, tokens.shape[2], -1))
    table = torch.matmul(queries, packed.rows.t())  # (b, slots, tokens)
    index = tokens.long().transpose(1, 2)  # (b, k, m)
    return table.expand(-1, tokens.shape[2], -1).gather(2, index).transpose(1, 2)


def _pack(side: Side, representation: Representation, start: int) -> PackedSide:
    used, places = np.unique(side.tokens.values, return_inverse=True)
    ragged = Ragged(side.tokens.offsets, places.reshape(-1))
    columns = np.ascontiguousarray(ragged.padded(fill=len(used)).T.astype(np.int32))
    rows = torch.zeros(len(used) + 1, side.table.shape[1])
    rows[:-1] = side.table[torch.from_numpy(used)]
    largest = float(rows.abs().max())
    if not largest <= _LARGEST:  # true for NaN, too
        raise ShapeError(
            f"embeddings of the {side.name} up to {largest:.3g} in float32",
            expected=f"finite values, at most {_LARGEST:g}",
        )
    mean = representation is Representation.MEAN
    lengths = torch.from_numpy(side.tokens.lengths).float()
    scale = 1.0 / lengths if mean else torch.ones_like(lengths)
    slots = 1 if mean else len(columns)
    part = slice(start, start + slots * rows.shape[1])
    return PackedSide(rows, torch.from_numpy(columns), scale, part, slots)
