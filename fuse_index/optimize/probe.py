"""Probe sampling: a cheap draft ranks the candidates, so that the problem scores only a few.

"Accelerating Greedy Coordinate Gradient and General Prompt Optimization via Probe Sampling" (Zhao
et al. 2024). There the draft is a model with the target's tokenizer. Here it is any objectives of
any models: they read the prompts as text, as the problem's own models do.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, InstanceOf

from fuse_index.common.bounds import MAX_NUMBER
from fuse_index.common.options import Share, options
from fuse_index.errors import OptionError
from fuse_index.optimize.items import ActiveItems, Mask
from fuse_index.optimize.problem import Problem, Term
from fuse_index.optimize.scoring import Scorer
from fuse_index.optimize.state import Ids, Losses
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

_LEAST = 4
"""Candidates of the smallest probe set: of fewer, an agreement of ranks says nothing."""


@options(label="probe")
class Probe:
    """Options of probe sampling.

    Attributes:
        terms: the draft: objectives with weights, and their models. They need no adapter.
        share: of a step's candidates, how many make up the probe set.
        reduction: the more, the fewer candidates the draft passes on.
    """

    terms: tuple[InstanceOf[Term], ...]
    share: Share = 1 / 16
    reduction: Annotated[float, Field(strict=True, ge=1, le=MAX_NUMBER)] = 8.0

    def __post_init__(self) -> None:
        if not self.terms:
            raise OptionError("probe: no terms", expected="the draft's objectives")


class ProbeSampler:
    """Chooses which candidates of a problem are scored, and scores them.

    Args:
        probe: the draft, and how far it is trusted.
        scorer: of the problem.
        generator: draws the probe sets.

    Attributes:
        draft: the draft as a problem of the same source.
        draft_scorer: its scorer.

    Raises:
        OptionError: the draft's items would change.
    """

    def __init__(self, probe: Probe, scorer: Scorer, generator: torch.Generator) -> None:
        self.probe, self.scorer, self.generator = probe, scorer, generator
        problem = scorer.problem
        self.draft = Problem(problem.source, probe.terms, tokens=problem.tokens)
        if ActiveItems(self.draft.items).changing:
            raise OptionError(
                "probe: an objective with items_per_step or progressive items",
                expected="a draft of which all items count",
            )
        self._items = problem.items
        self._drafted = Spent()
        self.draft_scorer = Scorer(
            self.draft, self._drafted, batch_size=scorer.batch_size, remember=scorer.remember
        )

    def score(
        self,
        prompts: Ragged,
        weights: Losses,
        base: Ids | None = None,
        counting: Mask | None = None,
    ) -> tuple[NDArray[np.int64], Losses]:
        """Score the prompts that look best to the draft, a random few, and those known already.

        Args:
            prompts: ``n`` distinct rows of source ids.
            weights: ``(terms,)`` of the problem.
            base: the prompt they were made from, if from one.
            counting: ``(losses,)``, which losses count; by default all.

        Returns:
            ``(m,)`` which rows were scored, in order, and their losses ``(m, losses)``.
        """
        known = self.scorer.remembers(prompts, counting)
        fresh = np.flatnonzero(~known)
        size = max(_LEAST, round(self.probe.share * len(fresh)))
        if len(fresh) > size:
            draft = self._draft_totals(prompts.select(fresh), base)
            probe = torch.randperm(len(fresh), generator=self.generator)[:size].numpy()
            scored = self.scorer.score(prompts.select(fresh[probe]), base, counting)
            everything = self._items.everything() if counting is None else counting
            totals = self._items.combined(scored, everything) @ weights
            alpha = agreement(draft[probe], totals)
            count = filtered_size(len(fresh), alpha, self.probe.reduction)
            best = np.argsort(draft, kind="stable")[:count]  # what the draft ranks best
            fresh = fresh[np.union1d(probe, best)]
        rows = np.sort(np.concatenate([np.flatnonzero(known), fresh]))
        return rows, self.scorer.score(prompts.select(rows), base, counting)

    def _draft_totals(self, prompts: Ragged, base: Ids | None) -> Losses:
        before = self._drafted.scored
        items = self.draft.items
        losses = self.draft_scorer.score(prompts, base)
        losses = items.combined(losses, items.everything())
        self.scorer.spent.draft += self._drafted.scored - before
        self.scorer.spent.add_flops(self._drafted.model_flops)
        self._drafted.model_flops.clear()
        totals = losses @ self.draft.weights
        return np.where(np.isfinite(losses).all(axis=1), totals, np.inf)

    def describe(self) -> dict[str, Any]:
        """Return draft and options as a JSON object."""
        probe = self.probe
        terms = self.draft.describe()["terms"]
        return {"terms": terms, "share": probe.share, "reduction": probe.reduction}


def agreement(draft: Losses, totals: Losses) -> float:
    """Return how far two rankings agree: ``(1 + rho) / 2`` with Spearman's ``rho``.

    Zhao et al.'s ``1 - 3 sum d^2 / (n (n^2 - 1))`` where no values are equal; equal ones share
    their mean rank. 1/2 where one side does not rank at all.

    Args:
        draft: ``(n,)``, infinite values rank last.
        totals: ``(n,)``, as well.
    """
    a, b = (mean_ranks(values) for values in (draft, totals))
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    if not norm:
        return 0.5
    return float(np.clip((1 + (a @ b) / norm) / 2, 0, 1))


def mean_ranks(values: Losses) -> Losses:
    """``(n,)`` ranks from 0 to n - 1; equal values get the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    means = last - (counts - 1) / 2
    return np.asarray(means[group], dtype=np.float64)


def filtered_size(count: int, alpha: float, reduction: float) -> int:
    """Return how many of ``count`` candidates the draft passes on: ``(1 - alpha) B / R``.

    At least one, at most all.
    """
    return min(count, max(1, int((1 - alpha) * count / reduction)))
