"""Items of objectives: how their losses make those of terms, and which of them count in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.objectives.base import Objective
from fuse_index.objectives.items import Combine, ItemObjective
from fuse_index.optimize.state import Losses

Mask = NDArray[np.bool_]
"""``(losses,)``: which losses count."""


class ItemGroups:
    """Which losses belong to which term, and how those of its items make one.

    Args:
        objectives: of the terms.

    Attributes:
        objectives: of the terms.
        size: losses, one for every item of every term.
        spans: for every term the losses of its items.
        simple: whether no term has several items, so that losses are those of the terms.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        counts = [len(objective.parts) for objective in objectives]
        self.spans = tuple(slice(a, b) for a, b in pairwise(accumulate(counts, initial=0)))
        self.size = sum(counts)
        self.simple = self.size == len(counts)
        self.objectives = tuple(objectives)

    def everything(self) -> Mask:
        """Return the mask of all losses."""
        return np.ones(self.size, dtype=bool)

    def combined(self, losses: Losses, counting: Mask) -> Losses:
        """Return the losses of terms.

        Args:
            losses: ``(n, losses)``; what does not count is not looked at.
            counting: ``(losses,)``, at least one of every term.

        Returns:
            ``(n, terms)``.
        """
        if self.simple:
            return losses
        found = np.empty((len(losses), len(self.spans)))
        for term, (span, objective) in enumerate(zip(self.spans, self.objectives, strict=True)):
            own = losses[:, span][:, counting[span]]
            found[:, term] = _REDUCE[_rule(objective)](own, axis=1)
        return found

    def shares(self, losses: Losses | None, counting: Mask, count: int) -> Losses:
        """Return what each loss counts in that of its term, its derivative.

        Args:
            losses: ``(n, losses)``; needed where :attr:`depends` is true.
            counting: ``(losses,)``, at least one of every term.
            count: ``n``.

        Returns:
            ``(n, losses)``, 0 for what does not count.
        """
        found = np.zeros((count, self.size))
        for span, objective in zip(self.spans, self.objectives, strict=True):
            own, rule = np.flatnonzero(counting[span]) + span.start, _rule(objective)
            if rule is Combine.WORST and len(own) > 1:
                assert losses is not None
                worst = own[losses[:, own].argmax(axis=1)]
                found[np.arange(count), worst] = 1.0
            else:
                found[:, own] = 1.0 / len(own) if rule is Combine.MEAN else 1.0
        return found

    def spread(self, weights: Losses) -> Losses:
        """Return the weights ``(terms,)`` as those of the terms' losses: ``(losses,)``."""
        return np.repeat(weights, [span.stop - span.start for span in self.spans])

    @property
    def depends(self) -> bool:
        """Whether shares depend on the prompt, as those of the worst item do."""
        pairs = zip(self.spans, self.objectives, strict=True)
        return any(
            _rule(own) is Combine.WORST and span.stop - span.start > 1 for span, own in pairs
        )

    def passes(self, counting: Mask) -> int:
        """Return what scoring one prompt costs: a pass for every item of the term with the most."""
        if self.simple:
            return 1
        return max(1, *(int(counting[span].sum()) for span in self.spans))

    def loss_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return a name for every loss from those of the terms."""
        found: list[str] = []
        for name, span, objective in zip(names, self.spans, self.objectives, strict=True):
            count = span.stop - span.start
            found += [f"{name}[{i}]" for i in range(count)] if _has_items(objective) else [name]
        return tuple(found)

    def by_term(self, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield for every term the values of its losses; none where it has no items."""
        for span, objective in zip(self.spans, self.objectives, strict=True):
            yield tuple(values[span]) if _has_items(objective) else ()


class ActiveItems:
    """Which items count now.

    A progressive objective has a pool that grows by an item whenever all in it are met; one with
    ``items_per_step`` draws some of its pool in every step. A search works by the losses of the
    active items; the best prompt is judged on the whole pool.

    Args:
        groups: of the problem.

    Attributes:
        pool: ``(losses,)``: those that may be drawn, by which the best prompt is judged.
        active: ``(losses,)``: those that count in this step.
        draws: whether some objective draws its items.
        grows: whether some objective is progressive.
    """

    def __init__(self, groups: ItemGroups) -> None:
        self._groups = groups
        self._rules = [own if _has_items(own) else None for own in groups.objectives]
        self.pool = groups.everything()
        for span, rule in self._pairs():
            if rule.progressive:
                self.pool[span.start + 1 : span.stop] = False
        self.active = self.pool.copy()
        self.draws = any(rule.items_per_step is not None for _, rule in self._pairs())
        self.grows = any(rule.progressive for _, rule in self._pairs())

    def _pairs(self) -> Iterator[tuple[slice, ItemObjective]]:
        """The losses of every objective with items, and the objective."""
        for span, rule in zip(self._groups.spans, self._rules, strict=True):
            if isinstance(rule, ItemObjective):
                yield span, rule

    @property
    def changing(self) -> bool:
        """Whether the active items change in a run."""
        return self.draws or self.grows

    @property
    def complete(self) -> bool:
        """Whether every item is in the pool."""
        return bool(self.pool.all())

    def draw(self, generator: torch.Generator) -> None:
        """Draw the items of a step; objectives with as many items draw the same ones.

        Args:
            generator: of the random numbers.
        """
        drawn: dict[tuple[int, int], NDArray[np.int64]] = {}
        for span, rule in self._pairs():
            own = np.flatnonzero(self.pool[span])
            if rule.items_per_step is not None:
                key = len(own), min(rule.items_per_step, len(own))
                if key not in drawn:
                    drawn[key] = torch.randperm(key[0], generator=generator)[: key[1]].numpy()
                own = own[drawn[key]]
            self.active[span] = False
            self.active[own + span.start] = True

    def waiting(self) -> Mask:
        """Return which losses must be met before the next item is added."""
        found = np.zeros(self._groups.size, dtype=bool)
        for span, rule in self._pairs():
            if rule.progressive:
                found[span] = self.pool[span]
        return found

    def grow(self) -> None:
        """Add the next item of every progressive objective that has one left."""
        for span, rule in self._pairs():
            left = np.flatnonzero(~self.pool[span])
            if rule.progressive and len(left):
                self.pool[span.start + left[0]] = True
        self.active = self.pool.copy()

    def indices(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the active items of every objective whose items change, by its name."""
        triples = zip(names, self._groups.spans, self._rules, strict=True)
        return {
            name: tuple(np.flatnonzero(self.active[span]).tolist())
            for name, span, rule in triples
            if isinstance(rule, ItemObjective) and (rule.progressive or rule.items_per_step)
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"pool": self.pool.tolist(), "active": self.active.tolist()}

    def load_json(self, value: dict[str, Any]) -> None:
        """Continue from what :meth:`to_json` returned."""
        self.pool = np.array(value["pool"], dtype=bool)
        self.active = np.array(value["active"], dtype=bool)


_REDUCE: dict[Combine, Callable[..., Losses]] = {
    Combine.MEAN: np.mean,
    Combine.SUM: np.sum,
    Combine.WORST: np.max,
}


def _has_items(objective: Objective) -> bool:
    return isinstance(objective, ItemObjective) and objective.items is not None


def _rule(objective: Objective) -> Combine:
    return objective.combine if isinstance(objective, ItemObjective) else Combine.SUM
