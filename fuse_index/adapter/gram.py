"""Transform-domain Gram matrices, accumulated chunk by chunk in float64.

For word tensors ``X`` (source) and ``Y`` (target) of one group the t-product least-squares problem
splits, after a DFT along the tube, into one matrix problem per face ``f`` (Kilmer & Martin 2011):
minimize ``||X_f G_f - Y_f||``. Its solution needs only ``A_f = X_f^H X_f`` and ``B_f = X_f^H Y_f``:
sums over words, whose size does not depend on the number of words.

Faces ``f`` and ``k - f`` are conjugates, so only ``0 <= f <= k // 2`` are formed, and all of it in
real arithmetic. Faces ``0`` and ``k / 2`` are real. A complex face ``a + ib`` (target ``c + id``)
takes three real products instead of four (Gauss's trick)::

    T1 = a^T [a, c]     T2 = b^T [b, d]     T3 = (a - b)^T [a + b, c + d]
    [A, B] = (T1 + T2) + i (T3 - T1 + T2)

Of every Gram matrix only the blocks on and above the diagonal are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fuse_index.adapter._workers import Workers
from fuse_index.adapter.stream import Buffer

# Tiles of the products that are computed on their own: large enough for a core to multiply at full
# speed, small enough for many cores. Fixed, so that the bits do not depend on the threads.
_TILE_ROWS, _TILE_COLUMNS = 256, 512


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
        products: row of ``source`` on the left, and of ``source`` and ``target`` on the right.
        weights: of the faces; a face of weight 2 takes three consecutive products.
    """

    source: Tensor
    target: Tensor
    products: tuple[tuple[int, int, int], ...]
    weights: tuple[int, ...]


def face_weights(k: int) -> tuple[int, ...]:
    """Return how many of the ``k`` faces each face of the half spectrum stands for."""
    return tuple(1 if f == 0 or 2 * f == k else 2 for f in range(k // 2 + 1))


def dft_rows(k: int, f: int) -> tuple[list[float], list[float]]:
    """Return the real and imaginary part of row ``f`` of the DFT matrix, exact where it can be."""
    angles = [2 * math.pi * ((f * s) % k) / k for s in range(k)]
    return [_snap(math.cos(x)) for x in angles], [_snap(-math.sin(x)) for x in angles]


def half_spectrum(tokens: Tensor, k: int) -> list[Tensor]:
    """Return the faces ``0 <= f <= k // 2`` of the DFT of ``tokens (p, m, width)``, ``p <= k``.

    Real faces are real, the others complex; each is ``(m, width)``.
    """
    faces = []
    for f, weight in enumerate(face_weights(k)):
        real, imaginary = (
            torch.einsum("s,smn->mn", tokens.new_tensor(row[: len(tokens)]), tokens)
            for row in dft_rows(k, f)
        )
        faces.append(real if weight == 1 else torch.complex(real, imaginary))
    return faces


def from_half_spectrum(faces: list[Tensor], k: int) -> Tensor:
    """Undo :func:`half_spectrum` for ``k`` tokens: ``(k, m, width)``, real."""
    factors, parts = [], []
    for f, (face, weight) in enumerate(zip(faces, face_weights(k), strict=True)):
        cosines, sines = dft_rows(k, f)
        factors.append([weight / k * c for c in cosines])
        parts.append(face.real)
        if weight == 2:
            factors.append([weight / k * s for s in sines])
            parts.append(face.imag)
    stacked = torch.stack([part.flatten() for part in parts])
    mixed = stacked.new_tensor(factors).T @ stacked
    return mixed.view(k, *faces[0].shape)


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


@dataclass(frozen=True)
class _Tile:
    """A part of the sums, and where its factors are found in :class:`Sums`."""

    total: Tensor
    left: int
    rows: slice
    right: int
    columns: slice
    of_target: bool


class GroupGram:
    """Accumulates the normal equations of one problem.

    Chunks in float64 are multiplied in float64. Chunks in float32 are multiplied in float32 and
    added up in float64: twice as fast, and enough where the problem is well conditioned.

    Args:
        k: tube length.
        source_width: width of the source embeddings.
        target_width: width of the target embeddings.
        workers: that multiply.
        device: where to accumulate.

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
    ) -> None:
        self.target_energy = 0.0
        self.single = False
        self._workers = workers
        self._buffers = [(Buffer(), Buffer()), (Buffer(), Buffer())]
        self._recipe = _recipe(k)
        shape = (len(self._recipe.products), source_width)
        self._grams = torch.zeros(*shape, source_width, dtype=torch.float64, device=device)
        self._crosses = torch.zeros(*shape, target_width, dtype=torch.float64, device=device)
        self._tiles = self._make_tiles()
        self._running: list[Future[None]] = []

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
            _energy(target),
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
        self.single |= sums.source.dtype is torch.float32
        before: Sequence[Future[None] | None] = self._running or [None] * len(self._tiles)
        pairs = zip(self._tiles, before, strict=True)
        running = [self._workers.submit(_multiply, tile, sums, last) for tile, last in pairs]
        self._running = running
        return running

    def add_face(self, other: GroupGram, target_tokens: int) -> None:
        """Fold in face 0 of another group's sums, as the fallback's problem weights them.

        Args:
            other: sums of a group of the same widths, or of ``target_tokens`` times the target
                width where the tokens stand side by side.
            target_tokens: target tokens of every word of that group.
        """
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
        faces = range(len(self._recipe.weights))
        return self._workers.map(lambda face: self._system(face, precision), faces)

    def _system(self, face: int, precision: torch.dtype) -> FaceSystem:
        sizes = [2 * weight - 1 for weight in self._recipe.weights]  # products of every face
        used = slice(sum(sizes[:face]), sum(sizes[: face + 1]))
        gram = _finish(self._grams[used], precision)
        return FaceSystem(gram, _finish(self._crosses[used], precision), self._recipe.weights[face])

    def _make_tiles(self) -> list[_Tile]:
        """Cut the products into tiles, of Gram matrices those on and above the diagonal."""
        source_width, target_width = self._crosses.shape[1:]
        height = max(_TILE_ROWS // 2, min(_TILE_ROWS, -(-source_width // 4)))
        tiles = []
        for top in range(0, source_width, height):
            rows = slice(top, top + height)
            for unit, (left, right, cross) in enumerate(self._recipe.products):
                for start in range(top, source_width, _TILE_COLUMNS):
                    columns = slice(start, start + _TILE_COLUMNS)
                    total = self._grams[unit, rows, columns]
                    tiles.append(_Tile(total, left, rows, right, columns, of_target=False))
                for start in range(0, target_width, _TILE_COLUMNS):
                    columns = slice(start, start + _TILE_COLUMNS)
                    total = self._crosses[unit, rows, columns]
                    tiles.append(_Tile(total, left, rows, cross, columns, of_target=True))
        return tiles


def _multiply(tile: _Tile, sums: Sums, previous: Future[None] | None) -> None:
    """Add the product of a chunk to a tile, after that of the chunk before."""
    if previous is not None:
        previous.result()
    left = sums.source[tile.left][:, tile.rows].T
    factors = sums.target if tile.of_target else sums.source
    right = factors[tile.right][:, tile.columns]
    if left.dtype == tile.total.dtype:
        tile.total.addmm_(left, right)
    else:
        tile.total.add_(left @ right)


@lru_cache(maxsize=16)
def _recipe(k: int) -> _Recipe:
    source: list[list[float]] = []
    target: list[list[float]] = []
    products = []
    for f, weight in enumerate(face_weights(k)):
        real, imaginary = dft_rows(k, f)
        i, j = len(source), len(target)
        products.append((i, i, j))
        source.append(real)
        target.append(real)
        if weight == 2:
            total = [x + y for x, y in zip(real, imaginary, strict=True)]
            source += [imaginary, [x - y for x, y in zip(real, imaginary, strict=True)], total]
            target += [imaginary, total]
            products += [(i + 1, i + 1, j + 1), (i + 2, i + 3, j + 2)]
    double = torch.float64
    return _Recipe(
        torch.tensor(source, dtype=double),
        torch.tensor(target, dtype=double),
        tuple(products),
        face_weights(k),
    )


def _energy(tokens: Tensor) -> float:
    return float(torch.linalg.vector_norm(tokens, dtype=torch.float64)) ** 2


def _mix(factors: Tensor, tokens: Tensor, buffer: Buffer) -> Tensor:
    """Return sums of tokens: ``(sums, k)`` and ``(p, m, width)`` give ``(sums, m, width)``."""
    mixed = buffer.take((len(factors), *tokens.shape[1:]), tokens, tokens.dtype)
    used = factors[:, : len(tokens)].to(tokens)
    torch.mm(used, tokens.flatten(1), out=mixed.view(len(factors), -1))
    return mixed


def _finish(sums: Tensor, precision: torch.dtype) -> Tensor:
    """Combine the one or three real products of a face, see the top of this module."""
    if len(sums) == 1:
        return sums[0].to(precision)
    imaginary = sums[2] - sums[0]
    imaginary += sums[1]
    return torch.complex((sums[0] + sums[1]).to(precision), imaginary.to(precision))


def _snap(value: float) -> float:
    nearest = round(2 * value) / 2
    return nearest if abs(value - nearest) < 1e-12 else value
