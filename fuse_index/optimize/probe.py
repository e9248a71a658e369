"""Probe sampling: a cheap draft ranks the candidates, so that the problem scores only a few.

"Accelerating Greedy Coordinate Gradient and General Prompt Optimization via Probe Sampling" (Zhao
et al. 2024). There the draft is a model with the target's tokenizer. Here it is any objectives of
any models: they read the prompts as text, as the problem's own models do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, InstanceOf

from fuse_index.common.options import Share, options
from fuse_index.errors import OptionError
from fuse_index.optimize.problem import Problem, Term
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.optimize.state import Ids, Losses

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
    reduction: Annotated[float, Field(strict=True, ge=1)] = 8.0

    def __post_init__(self) -> None:
        if not self.terms:
            raise OptionError("probe: no terms", expected="the draft's objectives")


class ProbeSampler:
    """Chooses which candidates of a problem are scored, and scores them.

    Args:
        probe: the draft, and how far it is trusted.
        scorer: of the problem.
        generator: draws the probe sets.
        batch_size: the draft's prompts of one forward pass, at most; None chooses by device.
        remember: prompts whose draft losses are remembered.

    Attributes:
        draft: the draft as a problem of the same source.
        draft_scorer: its scorer.
    """

    def __init__(
        self,
        probe: Probe,
        scorer: Scorer,
        generator: torch.Generator,
        *,
        batch_size: int | None = None,
        remember: int = 1 << 17,
    ) -> None:
        self.probe = probe
        self.scorer = scorer
        self.generator = generator
        problem = scorer.problem
        self.draft = Problem(problem.source, probe.terms, tokens=problem.tokens)
        self._drafted = Spent()
        self.draft_scorer = Scorer(
            self.draft, self._drafted, batch_size=batch_size, remember=remember
        )

    def score(
        self, prompts: Ragged, weights: Losses, base: Ids | None = None
    ) -> tuple[NDArray[np.int64], Losses]:
        """Score the prompts that look best to the draft, a random few, and those known already.

        Args:
            prompts: ``n`` distinct rows of source ids.
            weights: ``(terms,)`` of the problem.
            base: the prompt they were made from, if from one.

        Returns:
            ``(m,)`` which rows were scored, in order, and their losses ``(m, terms)``.
        """
        known = self.scorer.remembers(prompts)
        fresh = np.flatnonzero(~known)
        size = max(_LEAST, round(self.probe.share * len(fresh)))
        if len(fresh) > size:
            fresh = self._chosen(prompts, fresh, size, weights, base)
        rows = np.sort(np.concatenate([np.flatnonzero(known), fresh]))
        return rows, self.scorer.score(prompts.select(rows), base)

    def _chosen(
        self,
        prompts: Ragged,
        fresh: NDArray[np.int64],
        size: int,
        weights: Losses,
        base: Ids | None,
    ) -> NDArray[np.int64]:
        """The probe set, scored, and what the draft ranks best."""
        draft = self._draft_totals(prompts.select(fresh), base)
        probe = torch.randperm(len(fresh), generator=self.generator)[:size].numpy()
        totals = self.scorer.score(prompts.select(fresh[probe]), base) @ weights
        alpha = agreement(draft[probe], totals)
        count = filtered_size(len(fresh), alpha, self.probe.reduction)
        best = np.argsort(draft, kind="stable")[:count]
        chosen: NDArray[np.int64] = fresh[np.union1d(probe, best)]
        return chosen

    def _draft_totals(self, prompts: Ragged, base: Ids | None) -> Losses:
        before = self._drafted.scored
        losses = self.draft_scorer.score(prompts, base)
        self.scorer.spent.draft += self._drafted.scored - before
        totals = losses @ self.draft.weights
        return np.where(np.isfinite(losses).all(axis=1), totals, np.inf)

    def describe(self) -> dict[str, Any]:
        """Return draft and options as a JSON object."""
        described = self.draft.describe()
        return {
            "terms": described["terms"],
            "share": self.probe.share,
            "reduction": self.probe.reduction,
        }


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
