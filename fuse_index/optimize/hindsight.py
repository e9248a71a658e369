"""Anchors for free: what candidates that were scored say about others in their place.

The losses of the candidates of earlier steps are known. Where a prediction was wrong for them, it
will be wrong alike for tokens or words that are like them: the errors are carried over by
kriging, which is Gaussian-process regression with the prediction as its mean (Rasmussen and
Williams 2006, equation 2.38).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.optimize.methods.base import Context
    from fuse_index.optimize.state import Ids

FEWEST = 4
"""Scored candidates of a place below which its prediction stays as it is."""
_TRUST = 0.3
"""Standard deviations of the changes that one of the prediction counts."""
_NOISE = 0.3
"""Variance of a change that likeness does not explain, that of the changes being 1."""


def directions(vectors: Tensor) -> Tensor:
    """Return the unit vectors from the mean of ``(N, d)`` vectors to each: ``(N, d)`` float32."""
    rows = vectors.float()
    return torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1)


def corrected(change: Tensor, known: Tensor, values: Tensor, units: Sequence[Tensor]) -> Tensor:
    """Correct a prediction by the candidates that were scored.

    The covariance of the errors for two candidates is ``exp(cosine - 1)`` plus a constant.

    Args:
        change: ``(N,)``, predicted for every candidate, in any unit.
        known: ``(n,)`` int64, the candidates that were scored.
        values: ``(n,)``, the changes they made, up to a constant.
        units: one or more ``(N, d)`` :func:`directions` of the candidates' vectors; the cosines
            are averaged.

    Returns:
        ``(N,)``, in the unit of ``values``; ``change`` itself where fewer than four are known, or
        all of these changed alike.
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


class Hindsight:
    """Remembers what single swaps of a prompt changed, place by place.

    Args:
        context: of the run.
        most: swaps remembered in each place, the latest.
    """

    def __init__(self, context: Context, most: int) -> None:
        self._context, self._most = context, most
        self._pending: dict[Ids, tuple[int, int, float]] = {}
        self._known: dict[int, dict[int, float]] = {}
        self._vectors: tuple[Tensor, ...] = ()
        self._units: list[Tensor] = []

    def note(self, row: Sequence[int], slot: int, unit: int, total: float) -> None:
        """Note a candidate that is about to be scored.

        Args:
            row: the candidate.
            slot: the place that was swapped.
            unit: which token or word stands there now.
            total: the loss of the prompt it was made from.
        """
        self._pending[tuple(row)] = slot, unit, total

    def learn(self, here: Ids | None = None) -> None:
        """Take up what the last step scored.

        Args:
            here: the prompt worked on now. If it is one of the candidates, what its place's swaps
                changed is counted from it on.
        """
        scored, self._context.recent = self._context.recent, None
        if scored is not None:
            rows = zip(scored.prompts.to_lists(), scored.totals.tolist(), strict=True)
            for row, total in rows:
                found = self._pending.get(tuple(row))
                if found is not None and np.isfinite(total):
                    slot, unit, before = found
                    own = self._known.setdefault(slot, {})
                    own.pop(unit, None)
                    own[unit] = total - before
                    if len(own) > self._most:
                        del own[next(iter(own))]
        if here is None:
            return
        if here in self._pending:
            slot, unit, _ = self._pending[here]
            own = self._known.get(slot, {})
            moved = own.get(unit, 0.0)
            self._known[slot] = {key: value - moved for key, value in own.items()}
        self._pending.clear()

    def correct(self, slot: int, change: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        """Correct what is predicted for ``N`` candidates in a place; see :func:`corrected`.

        Args:
            slot: the place.
            change: ``(N,)``.
            vectors: one or more ``(N, d)`` of the candidates, the same at every call.
        """
        if _places(vectors) != _places(self._vectors):
            self._vectors, self._units = tuple(vectors), [directions(own) for own in vectors]
        own = self._known.get(slot, {})
        known = torch.tensor(list(own), dtype=torch.int64)
        return corrected(change, known, torch.tensor(list(own.values())), self._units)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        self.learn()
        rows = [(slot, unit) for slot, own in self._known.items() for unit in own]
        changes = [change for own in self._known.values() for change in own.values()]
        pending = list(self._pending.items())
        return {
            "hindsight.units": torch.tensor(rows, dtype=torch.int64).reshape(-1, 2),
            "hindsight.changes": torch.tensor(changes, dtype=torch.float64),
            "hindsight.pending": torch.tensor(
                [(*where[:2], len(row)) for row, where in pending], dtype=torch.int64
            ).reshape(-1, 3),
            "hindsight.totals": torch.tensor([w[2] for _, w in pending], dtype=torch.float64),
            "hindsight.rows": torch.tensor([i for row, _ in pending for i in row]).long(),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned."""
        self._known, self._pending = {}, {}
        changes = tensors["hindsight.changes"].tolist()
        for (slot, unit), change in zip(tensors["hindsight.units"].tolist(), changes, strict=True):
            self._known.setdefault(slot, {})[unit] = change
        ids, totals = tensors["hindsight.rows"].tolist(), tensors["hindsight.totals"].tolist()
        begin = 0
        for (slot, unit, length), total in zip(
            tensors["hindsight.pending"].tolist(), totals, strict=True
        ):
            self.note(ids[begin : begin + length], slot, unit, total)
            begin += length


def _places(vectors: Sequence[Tensor]) -> list[int]:
    """Where tensors lie in memory: the same as long as they are held and not changed."""
    return [own.data_ptr() for own in vectors]
