"""What prompts are worth: their losses, those of terms, and totals, by the items that count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fuse_index.objectives.weights import balanced_weights
from fuse_index.optimize.items import ActiveItems, Mask
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.scoring import Scorer
from fuse_index.optimize.state import Ids, Losses, Scored, State
from fuse_index.optimize.survival import PromptCheck
from fuse_index.predict.gradients import Gradients
from fuse_index.words.ragged import Ragged


class Valuation:
    """Values prompts.

    Args:
        problem: the losses.
        scorer: computes and remembers them.
        check: which prompts may be kept; None keeps all.

    Attributes:
        items: which of them count now.
        weights: ``(terms,)``, of the terms now.
    """

    def __init__(self, problem: Problem, scorer: Scorer, check: PromptCheck | None) -> None:
        self.problem, self.scorer, self._check = problem, scorer, check
        self.items = ActiveItems(problem.items)
        self.weights: Losses = problem.weights.copy()

    def losses(
        self, prompts: Ragged, base: Ids | None = None, counting: Mask | None = None
    ) -> Losses:
        """Score prompts by the losses that count: ``(n, losses)``; see :meth:`Scorer.score`."""
        counting = self.items.active if counting is None else counting
        return self.scorer.score(prompts, base, None if self.problem.items.simple else counting)

    def scored(
        self,
        prompts: Ragged,
        losses: Losses,
        *,
        checked: bool = True,
        counting: Mask | None = None,
    ) -> Scored:
        """Combine the losses of prompts.

        Args:
            prompts: ``n`` rows of source ids.
            losses: ``(n, losses)``.
            checked: whether they must survive as text to be kept.
            counting: ``(losses,)``, those that count; by default the active items.
        """
        groups = self.problem.items
        terms = groups.combined(losses, self.items.active if counting is None else counting)
        totals = terms @ self.weights
        totals = np.where(np.isfinite(terms).all(axis=1), totals, np.inf)
        items = None if groups.simple else losses
        if checked and self._check is not None:
            return Scored(prompts, terms, totals, self._check, self._check.prepare, items)
        return Scored(prompts, terms, totals, items=items)

    def again(self, states: Sequence[State]) -> list[State]:
        """Value prompts that are kept by the items that count now."""
        rows = Ragged.from_lists([state.ids for state in states])
        scored = self.scored(rows, self.losses(rows), checked=False)
        return [scored.state(i) for i in range(len(scored))]

    def on_pool(self, ids: Ids) -> Scored:
        """Value a prompt by all items that have been added."""
        row = Ragged.from_lists([ids])
        losses = self.losses(row, counting=self.items.pool)
        return self.scored(row, losses, counting=self.items.pool)

    def loss_weights(self, prompts: Ragged) -> Losses:
        """Return the weights of losses at prompts, the derivatives of the total.

        Args:
            prompts: ``n`` rows of source ids.

        Returns:
            ``(n, losses)``.
        """
        return self._shares(prompts) * self.problem.items.spread(self.weights)

    def _shares(self, prompts: Ragged) -> Losses:
        """What each loss counts in that of its term: ``(n, losses)``."""
        groups = self.problem.items
        losses = self.losses(prompts) if groups.depends else None
        return groups.shares(losses, self.items.active, len(prompts))

    def balance(self, prompts: Ragged, gradients: Gradients) -> None:
        """Scale the weights so that every term's gradient at prompts counts as its weight says."""
        shares = self._shares(prompts)
        alone = [np.zeros_like(shares) for _ in self.weights]
        for own, span in zip(alone, self.problem.items.spans, strict=True):
            own[:, span] = shares[:, span]
        norms = gradients.norms(prompts, alone)
        self.weights[:] = balanced_weights(norms, self.problem.weights.tolist())

    def may_keep(self, ids: Ids) -> bool:
        """Whether a prompt survives as text, where it must."""
        return self._check is None or self._check(ids)

    def is_new(self, prompts: Ragged) -> NDArray[np.bool_]:
        """``(n,)``: which prompts have a loss that counts and was not computed."""
        return ~self.scorer.remembers(prompts, self.items.active)

    def meets_pool(self, ids: Ids) -> bool:
        """Whether a prompt meets the items after which the next one is added."""
        waiting = self.items.waiting()
        self.scorer.spent.scored += self.problem.passes(waiting)
        row = Ragged.from_lists([ids])
        for index in np.flatnonzero(waiting).tolist():
            contents = self.problem.targets[index].read(row).contents
            self.scorer.spent.run_forward(self.problem.losses[index], contents.lengths)
        return self._meets(ids, np.flatnonzero(waiting).tolist())

    def is_satisfied(self, ids: Ids) -> bool:
        """Whether a prompt has what every objective wants that can end a run, if one can."""
        return self._meets(ids, [i for i, loss in enumerate(self.problem.losses) if loss.ends_run])

    def _meets(self, ids: Ids, losses: Iterable[int]) -> bool:
        row = Ragged.from_lists([ids])
        pairs = [(self.problem.losses[i], self.problem.targets[i]) for i in losses]
        found = [loss.is_satisfied(target.read(row).contents) for loss, target in pairs]
        answers = [bool(answer.all()) for answer in found if answer is not None]
        return bool(answers) and all(answers)

    def by_item(self, state: State) -> dict[str, tuple[float | None, ...]]:
        """Return the losses of a prompt for every item, by the name of their term."""
        if self.problem.items.simple:
            return {}
        pairs = zip(self.problem.names, self.problem.items.by_term(state.items), strict=True)
        return {
            name: tuple(None if np.isnan(value) else value for value in own)
            for name, own in pairs
            if own
        }
