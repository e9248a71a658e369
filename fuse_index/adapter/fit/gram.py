"""Transform-domain Gram matrices, accumulated chunk by chunk in float64.

For word tensors ``X`` (source) and ``Y`` (target) of one group the t-product least-squares problem
splits, after a DFT along the tube, into one matrix problem per face ``f`` (Kilmer & Martin 2011):
minimize ``||X_f G_f - Y_f||``. Its solution needs only ``A_f = X_f^H X_f`` and ``B_f = X_f^H Y_f``:
sums over words, whose size does not depend on the number of words.

Faces ``f`` and ``k - f`` are conjugates, so only ``0 <= f <= k // 2`` are formed, and all of it in
real arithmetic. Faces ``0`` and ``k / 2`` are real. A complex face ``a + ib`` (target ``c + id``)
takes three real products instead of four (Gauss's trick) for ``B``::

    T1 = a^T c    T2 = b^T d    T3 = (a + b)^T (d - c)    B = (T1 + T2) + i (T3 + T1 - T2)

and one and a half for the Hermitian ``A``, of which half is enough::

    H = a^T a     F = (a + b)^T (a - b)     A = (2 H - (F + F^T) / 2) + i (F^T - F) / 2

Of symmetric products only the tiles on and above the diagonal are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.fit._spectrum import dft_rows, face_weights
from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.stream import Buffer

# Tiles of the products that are computed on their own: large enough for a core to multiply at full
# speed, small enough for many cores. Fixed, so that the bits do not depend on the threads.
_TILE = 512
# Words whose products are added up in float32 before they are added to the float64 sums.
_FLUSH_WORDS = 2048


@dataclass(frozen=True)
class FaceSystem:
    """One face of the half spectrum of a positive semidefinite system ``gram @ z = right``.

    Attributes:
        gram: ``(n, n)`` real or complex; only the upper triangle counts.
        right: ``(n, m)`` of the same dtype.
        weight: 1, or 2 where the face also stands for its conjugate.
    """

    gram: Tensor
    right: Tensor
    weight: int


@dataclass(frozen=True)
class _Recipe:
    """Which sums of tokens are multiplied with which, for one tube length.

    Attributes:
        source: one row of factors per sum of source tokens, ``(sums, k)``.
        target: the same for target tokens.
        grams: rows of ``source`` on the left and on the right; symmetric where they are the same.
            One of a real face, two of a complex one.
        crosses: row of ``source`` on the left and of ``target`` on the right. One of a real face,
            three of a complex one.
        weights: of the faces.
    """

    source: Tensor
    target: Tensor
    grams: tuple[tuple[int, int], ...]
    crosses: tuple[tuple[int, int], ...]
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Sums:
    """A chunk of words ready to be multiplied.

    Attributes:
        source: ``(sums, m, source width)``, the sums of source tokens that a tube length needs.
        target: ``(sums, m, target width)``.
        energy: sum of the squares of the target embeddings.
    """

    source: Tensor
    target: Tensor
    energy: float


@dataclass
class _Tile:
    """A part of the sums, and where its factors are found in :class:`Sums`.

    ``single`` holds the products of some words in float32 before they are added to ``total``.
    """

    total: Tensor
    left: int
    rows: slice
    right: int
    columns: slice
    of_target: bool
    single: Tensor | None = None


class GroupGram:
    """Accumulates the normal equations of one problem.

    Chunks in float64 are multiplied in float64. Chunks in float32 are multiplied in float32, and
    the products of every few thousand words are added up in float64: twice as fast, and enough
    where the problem is well conditioned. A group takes chunks of one precision only.

    Args:
        k: tube length.
        source_width: width of the source embeddings.
        target_width: width of the target embeddings.
        workers: that multiply.
        device: where to accumulate.
        energy: whether to add up ``target_energy``.

    Attributes:
        target_energy: sum of the squares of all target embeddings so far.
        single: whether some of the products were made in float32.
    """

    def __init__(
        self,
        k: int,
        source_width: int,
        target_width: int,
        *,
        workers: Workers,
        device: torch.device,
        energy: bool = True,
    ) -> None:
        self.target_energy = 0.0
        self._energy = energy
        self.single = False
        self._workers = workers
        self._buffers = [(Buffer(), Buffer()), (Buffer(), Buffer())]
        self._recipe = _recipe(k)
        grams = (len(self._recipe.grams), source_width, source_width)
        crosses = (len(self._recipe.crosses), source_width, target_width)
        self._grams = torch.zeros(grams, dtype=torch.float64, device=device)
        self._crosses = torch.zeros(crosses, dtype=torch.float64, device=device)
        self._tiles = self._make_tiles()
        self._running: list[Future[None]] = []
        self._unflushed = 0  # words whose products are in float32 still

    def prepare(self, source: Tensor, target: Tensor) -> Sums:
        """Return the sums of tokens that :meth:`add` multiplies, valid until the call after next.

        Args:
            source: ``(p, m, source_width)`` float64 or float32, ``p <= k``.
            target: ``(q, m, target_width)`` of the same dtype, ``q <= k``.
        """
        self._buffers.reverse()
        x_buffer, y_buffer = self._buffers[0]
        return Sums(
            _mix(self._recipe.source, source, x_buffer),
            _mix(self._recipe.target, target, y_buffer),
            _energy(target) if self._energy else 0.0,
        )

    def prepare_summed(self, source: Tensor, target: Tensor) -> Sums:
        """Return the sums for words as the fallback's problem takes them (``k = 1``).

        Args:
            source: ``(p, m, source_width)``, summed over ``p`` and counted once per target token.
            target: ``(q, m, target_width)``, summed over ``q``.
        """
        scale = len(target) ** 0.5
        summed = target.sum(0, keepdim=True) / scale
        return Sums(source.sum(0, keepdim=True) * scale, summed, _energy(target))

    def add(self, sums: Sums) -> None:
        """Fold a chunk of words in."""
        for task in self.start(sums):
            task.result()

    def start(self, sums: Sums) -> list[Future[None]]:
        """Start folding a chunk in; it is part of the sums when all of the tasks are done.

        Chunks that are started one after the other are added in this order.
        """
        self.target_energy += sums.energy
        first, last = True, True
        if sums.source.dtype is torch.float32:
            self.single = True
            first = self._unflushed == 0
            self._unflushed += sums.source.shape[1]
            last = self._unflushed >= _FLUSH_WORDS
        if last:
            self._unflushed = 0
        before: Sequence[Future[None] | None] = self._running or [None] * len(self._tiles)
        self._running = [
            self._workers.submit(_multiply, tile, sums, first, last, previous)
            for tile, previous in zip(self._tiles, before, strict=True)
        ]
        return self._running

    def flush(self) -> None:
        """Add what is still in float32 to the sums."""
        if self._unflushed:
            self._workers.map(_flush, self._tiles)
            self._unflushed = 0

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return the sums as arrays, to be kept or sent, and given to :meth:`add_state`."""
        self.flush()
        return {
            "grams": self._grams.cpu().numpy(),
            "crosses": self._crosses.cpu().numpy(),
            "scalars": np.array([self.target_energy, float(self.single)]),
        }

    def add_state(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Fold in the sums of other words of the same problem."""
        self.flush()
        self._grams.add_(torch.from_numpy(state["grams"]).to(self._grams.device))
        self._crosses.add_(torch.from_numpy(state["crosses"]).to(self._crosses.device))
        energy, single = state["scalars"].tolist()
        self.target_energy += energy
        self.single |= bool(single)

    def add_face(self, other: GroupGram, target_tokens: int) -> None:
        """Fold in face 0 of another group's sums, as the fallback's problem weights them.

        Args:
            other: sums of a group of the same widths, or of ``target_tokens`` times the target
                width where the tokens stand side by side.
            target_tokens: target tokens of every word of that group.
        """
        other.flush()
        self.target_energy += other.target_energy
        self.single |= other.single
        self._grams[0].add_(other._grams[0], alpha=target_tokens)
        # the target tokens of other may stand side by side
        cross = other._crosses[0]
        self._crosses[0].add_(cross.view(len(cross), -1, self._crosses.shape[-1]).sum(1))

    def systems(self, precision: torch.dtype = torch.float64) -> list[FaceSystem]:
        """Return the normal equations of every face of the half spectrum.

        Args:
            precision: float64 or float32. The tensors may share memory with the sums.
        """
        self.flush()
        faces = range(len(self._recipe.weights))
        return self._workers.map(lambda face: self._system(face, precision), faces)

    def _system(self, face: int, precision: torch.dtype) -> FaceSystem:
        weights = self._recipe.weights
        gram = sum(weights[:face])  # a real face has one product, a complex one has two
        cross = sum(2 * weight - 1 for weight in weights[:face])
        weight = weights[face]
        return FaceSystem(
            _finish_gram(self._grams[gram : gram + weight], precision),
            _finish_cross(self._crosses[cross : cross + 2 * weight - 1], precision),
            weight,
        )

    def _make_tiles(self) -> list[_Tile]:
        """Cut the products into tiles, of Gram matrices those on and above the diagonal."""
        source_width, target_width = self._crosses.shape[1:]
        size = max(_TILE // 2, min(_TILE, -(-source_width // 2)))
        tiles = []
        for top in range(0, source_width, size):
            full = slice(top, top + size)
            halves = [slice(top, top + size // 2), slice(top + size // 2, top + size)]
            above = [(full, slice(c, c + size)) for c in range(top + size, source_width, size)]
            diagonal = [(half, slice(half.start, top + size)) for half in halves]
            targets = [(full, slice(c, c + size)) for c in range(0, target_width, size)]
            for total, (left, right) in zip(self._grams, self._recipe.grams, strict=True):
                every = [(full, slice(c, c + size)) for c in range(0, source_width, size)]
                for rows, columns in above + diagonal if left == right else every:
                    part = total[rows, columns]
                    tiles.append(_Tile(part, left, rows, right, columns, of_target=False))
            for total, (left, right) in zip(self._crosses, self._recipe.crosses, strict=True):
                for rows, columns in targets:
                    part = total[rows, columns]
                    tiles.append(_Tile(part, left, rows, right, columns, of_target=True))
        return tiles


def _multiply(
    tile: _Tile, sums: Sums, first: bool, last: bool, previous: Future[None] | None
) -> None:
    """Add the product of a chunk to a tile, after that of the chunk before.

    In float32 it is the ``first`` or the ``last`` one of those that are added up in float32.
    """
    if previous is not None:
        previous.result()
    left = sums.source[tile.left][:, tile.rows].T
    factors = sums.target if tile.of_target else sums.source
    right = factors[tile.right][:, tile.columns]
    if left.dtype == tile.total.dtype:
        tile.total.addmm_(left, right)
        return
    if tile.single is None:
        tile.single = torch.empty_like(tile.total, dtype=left.dtype)
    tile.single.addmm_(left, right, beta=0 if first else 1)
    if last:
        _flush(tile)


def _flush(tile: _Tile) -> None:
    assert tile.single is not None
    tile.total.add_(tile.single)


@lru_cache(maxsize=16)
def _recipe(k: int) -> _Recipe:
    source: list[list[float]] = []
    target: list[list[float]] = []
    grams, crosses = [], []
    for f, weight in enumerate(face_weights(k)):
        real, imaginary = dft_rows(k, f)
        i, j = len(source), len(target)
        grams.append((i, i))
        crosses.append((i, j))
        source.append(real)
        target.append(real)
        if weight == 2:
            pairs = list(zip(real, imaginary, strict=True))
            source += [imaginary, [x + y for x, y in pairs], [x - y for x, y in pairs]]
            target += [imaginary, [y - x for x, y in pairs]]
            grams.append((i + 2, i + 3))
            crosses += [(i + 1, j + 1), (i + 2, j + 2)]
    double = torch.float64
    return _Recipe(
        torch.tensor(source, dtype=double),
        torch.tensor(target, dtype=double),
        tuple(grams),
        tuple(crosses),
        face_weights(k),
    )


def _energy(tokens: Tensor) -> float:
    return float(torch.linalg.vector_norm(tokens, dtype=torch.float64)) ** 2


def _mix(factors: Tensor, tokens: Tensor, buffer: Buffer) -> Tensor:
    """Return sums of tokens: ``(sums, k)`` and ``(p, m, width)`` give ``(sums, m, width)``."""
    mixed = buffer.take((len(factors), *tokens.shape[1:]), tokens.device, tokens.dtype)
    used = factors[:, : len(tokens)].to(tokens)
    torch.mm(used, tokens.flatten(1), out=mixed.view(len(factors), -1))
    return mixed


def _finish_gram(products: Tensor, precision: torch.dtype) -> Tensor:
    """Combine the products ``H`` and ``F`` of a face, see the top of this module."""
    if len(products) == 1:
        return products[0].to(precision)
    half, full = products
    transposed = full.T.contiguous()
    imaginary = ((transposed - full) / 2).to(precision)
    return torch.complex((2 * half - (transposed + full) / 2).to(precision), imaginary)


def _finish_cross(products: Tensor, precision: torch.dtype) -> Tensor:
    """Combine the products ``T1``, ``T2`` and ``T3`` of a face."""
    if len(products) == 1:
        return products[0].to(precision)
    first, second, third = products
    return torch.complex((first + second).to(precision), (third + first - second).to(precision))
