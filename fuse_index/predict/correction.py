"""Correction of predictions by Gaussian-process regression on scored candidates.

The losses of earlier candidates are known. Where a prediction was wrong for them, it is wrong alike
for similar tokens or words: kriging, Gaussian-process regression with the prediction as its mean,
carries the residuals over (Rasmussen and Williams 2006, equation 2.38).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.words.ragged import Ragged

Ids = tuple[int, ...]

FEWEST = 4
"""Scored candidates of a position below which its prediction stays as it is."""
_TRUST = 0.3
"""Standard deviations of the changes that one of the prediction counts."""
_NOISE = 0.3
"""Variance of a change that similarity does not explain, that of the changes being 1."""


def directions(vectors: Tensor) -> Tensor:
    """Return the unit vectors from the mean of ``(N, d)`` vectors to each: ``(N, d)`` float32."""
    rows = vectors.float()
    return torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1)


def corrected(change: Tensor, known: Tensor, values: Tensor, units: Sequence[Tensor]) -> Tensor:
    """Correct a prediction by scored candidates.

    The covariance of the errors for two candidates is ``exp(cosine - 1)`` plus a constant.

    Args:
        change: ``(N,)``, predicted for every candidate, in any unit.
        known: ``(n,)`` int64, the candidates that were scored.
        values: ``(n,)``, the changes of the loss they made, up to a constant.
        units: one or more ``(N, d)`` :func:`directions` of the candidates' vectors; the cosines
            are averaged.

    Returns:
        ``(N,)``, in the unit of ``values``; ``change`` itself where fewer than four are known, or
        all of these changed the loss alike.
    """
    values = values.to(change)
    spread = values.std() if len(values) > 1 else values.new_zeros(())
    width = change.std()
    if len(known) < FEWEST or not spread > 0 or not width > 0:
        return change
    known = known.to(change.device)
    prior = _TRUST * (change - change.mean()) / width
    alike = torch.zeros(len(known), len(change), device=change.device)
    for own in units:
        rows = own.to(change)
        alike += rows[known] @ rows.T / len(units)
    covariance = torch.exp(alike - 1) + 1  # (n, N)
    system = covariance[:, known].double()
    system += _NOISE * torch.eye(len(known), dtype=system.dtype, device=system.device)
    errors = (values - values.mean()) / spread - prior[known]
    weights = torch.linalg.solve(system, errors.double()).to(change)
    found: Tensor = (prior + weights @ covariance) * spread + values.mean()
    return found


class ResidualKriging:
    """Changes of the loss by single replacements of a prompt, by position.

    Args:
        most: replacements remembered in each position, the latest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pending: dict[Ids, tuple[int, int, float]] = {}
        self._known: dict[int, dict[int, float]] = {}
        self._vectors: tuple[Tensor, ...] = ()
        self._units: list[Tensor] = []

    def note(
        self, rows: Ragged, positions: NDArray[np.int64], units: NDArray[np.int64], total: float
    ) -> None:
        """Note candidates with one replacement, before they are scored.

        Args:
            rows: ``n`` candidates.
            positions: ``(n,)``, the position that was replaced.
            units: ``(n,)``, the unit that stands there now.
            total: the loss of the prompt they were made from.
        """
        for row, position, unit in zip(
            rows.to_lists(), positions.tolist(), units.tolist(), strict=True
        ):
            self._pending[tuple(row)] = position, unit, total

    def learn(self, rows: Ragged, totals: NDArray[np.float64]) -> None:
        """Learn the losses of noted candidates.

        Args:
            rows: ``n`` scored prompts.
            totals: ``(n,)``.
        """
        for row, total in zip(rows.to_lists(), totals.tolist(), strict=True):
            found = self._pending.get(tuple(row))
            if found is None or not np.isfinite(total):
                continue
            position, unit, before = found
            known = self._known.setdefault(position, {})
            known.pop(unit, None)
            known[unit] = total - before
            if len(known) > self._most:
                del known[next(iter(known))]

    def move_to(self, ids: Ids) -> None:
        """Set the prompt that is worked on now, and forget the noted candidates.

        If it is one of them, the changes in its position are counted from it on.
        """
        if ids in self._pending:
            position, unit, _ = self._pending[ids]
            known = self._known.get(position, {})
            moved = known.get(unit, 0.0)
            self._known[position] = {key: value - moved for key, value in known.items()}
        self._pending.clear()

    def correct(self, position: int, change: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        """Correct the prediction for ``N`` candidates in a position; see :func:`corrected`.

        Args:
            position: the position.
            change: ``(N,)``.
            vectors: one or more ``(N, d)`` of the candidates, the same at every call.
        """
        if _addresses(vectors) != _addresses(self._vectors):
            self._vectors, self._units = tuple(vectors), [directions(own) for own in vectors]
        own = self._known.get(position, {})
        known = torch.tensor(list(own), dtype=torch.int64)
        return corrected(change, known, torch.tensor(list(own.values())), self._units)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        rows = [(position, unit) for position, own in self._known.items() for unit in own]
        changes = [change for own in self._known.values() for change in own.values()]
        pending = list(self._pending.items())
        return {
            "kriging.units": torch.tensor(rows, dtype=torch.int64).reshape(-1, 2),
            "kriging.changes": torch.tensor(changes, dtype=torch.float64),
            "kriging.pending": torch.tensor(
                [(*where[:2], len(row)) for row, where in pending], dtype=torch.int64
            ).reshape(-1, 3),
            "kriging.totals": torch.tensor([w[2] for _, w in pending], dtype=torch.float64),
            "kriging.rows": torch.tensor([i for row, _ in pending for i in row]).long(),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` returned."""
        self._known, self._pending = {}, {}
        changes = tensors["kriging.changes"].tolist()
        for (position, unit), change in zip(
            tensors["kriging.units"].tolist(), changes, strict=True
        ):
            self._known.setdefault(position, {})[unit] = change
        ids, totals = tensors["kriging.rows"].tolist(), tensors["kriging.totals"].tolist()
        begin = 0
        for (position, unit, length), total in zip(
            tensors["kriging.pending"].tolist(), totals, strict=True
        ):
            self._pending[tuple(ids[begin : begin + length])] = position, unit, total
            begin += length


def _addresses(vectors: Sequence[Tensor]) -> list[int]:
    """Addresses of tensors: equal as long as the tensors are held."""
    return [own.data_ptr() for own in vectors]
