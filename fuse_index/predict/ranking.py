"""Rankings of units in positions of prompts, and what a predictor of them has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.predict.gradients import Gradients
from fuse_index.predict.indexed import IndexedWords
from fuse_index.predict.spans import Spans
from fuse_index.predict.target import PromptTerms
from fuse_index.predict.units import Units
from fuse_index.predict.weights import Weights
from fuse_index.words.ragged import Ragged


class Predictor(str, Enum):
    """How the gradient of a target ranks units."""

    EMBEDDING = "embedding"
    """The gradient at the target's embeddings, times those of the unit's tokens there. Needs no
    adapter."""
    ADAPTER = "adapter"
    """The gradient pulled back through the adapter, times the unit's embeddings in the source."""
    LAYERS = "layers"
    """The gradients at the hidden states of every layer, times the unit's states there
    (docs/mathematics.md). One gradient a position; the states are computed once. Needs no
    adapter."""
    MIXTURE = "mixture"
    """Words by ``embedding`` and by ``adapter``: half of the candidates each, or the mean of both
    in standard deviations where they are combined with a likelihood."""

    @property
    def needs_adapters(self) -> bool:
        """Whether targets with other tokens than the source need an adapter."""
        return self in (Predictor.ADAPTER, Predictor.MIXTURE)


class Ranking:
    """Predicted changes of the loss for all units in some positions of one prompt.

    Args:
        changes: ``(S, N)`` float32, up to a constant a position; lower is better.
        standing: ``(S,)`` int64, the units that stand in the positions, -1 for one that is no
            candidate; given where the predictions of different positions compare.
    """

    def __init__(self, changes: Tensor, standing: Tensor | None = None) -> None:
        self.changes = changes
        self.standing = standing

    def best(self, count: int) -> Tensor:
        """Return the best units of each position: ``(S, at most count)`` int64 on the CPU."""
        count = min(count, self.changes.shape[1])
        return (-self.changes).topk(count, dim=1).indices.cpu()

    def best_of_all(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the best replacements over all positions, the standing units left out.

        Args:
            count: replacements, at most.

        Returns:
            Indices of positions and units, each ``(at most count,)`` int64 on the CPU, the best
            first.
        """
        assert self.standing is not None
        here = self.standing.to(self.changes.device)[:, None]
        known = here >= 0
        at_standing = self.changes.gather(1, here.clamp(min=0)).where(known, 0.0)
        change = self.changes - at_standing
        index = torch.arange(change.shape[1], device=change.device)
        change = change.masked_fill(index == here, torch.inf)
        count = min(count, change.numel() - int(known.sum()))
        best = (-change.flatten()).topk(count).indices.cpu()
        return best // change.shape[1], best % change.shape[1]

    def at(self, positions: Sequence[int]) -> Ranking:
        """Return the ranking of some of the positions."""
        rows = list(positions)
        standing = None if self.standing is None else self.standing[rows]
        return Ranking(self.changes[rows], standing)

    def corrected(
        self, positions: Sequence[int], correct: Callable[[int, Tensor], Tensor]
    ) -> Ranking:
        """Return the ranking with the changes ``(N,)`` in each of ``S`` positions corrected."""
        rows = map(correct, positions, self.changes)
        return Ranking(torch.stack(list(rows)), self.standing)


class IndexedRanking(Ranking):
    """A ranking by one search in a bundle's word index.

    Args:
        index: the index.
        sums: ``(S, d)`` gradients by model, "source" or "target".
    """

    def __init__(self, index: IndexedWords, sums: dict[str, Tensor]) -> None:
        super().__init__(torch.empty(0))
        self._index, self._sums = index, sums

    def best(self, count: int) -> Tensor:
        """Return the best units of each position."""
        return self._index.top(self._sums, count)


class UnitPredictor(ABC):
    """Predicts the change of the total loss for all units.

    Args:
        gradients: of the problem, counted.
        units: the candidates.
        predictor: how they are ranked.

    Raises:
        OptionError: no term has a gradient, or a target has no adapter that is needed.
    """

    def __init__(self, gradients: Gradients, units: Units, predictor: Predictor) -> None:
        gradients.require(adapters=predictor.needs_adapters)
        self.gradients = gradients
        self.problem: PromptTerms = gradients.problem
        self.units = units
        self.predictor = predictor

    @abstractmethod
    def rank(
        self,
        prompts: Sequence[Spans],
        positions: Sequence[Sequence[int]],
        weights: Weights,
        *,
        every: bool = False,
    ) -> list[list[Ranking]]:
        """Rank all units in positions of prompts.

        Args:
            prompts: ``b`` prompts.
            positions: of each, ``S`` of its units.
            weights: ``(losses,)``.
            every: whether the changes of all units are wanted, so that no index may answer.

        Returns:
            The rankings of each prompt; two for a mixture.
        """

    @abstractmethod
    def at(
        self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights, *, mean: bool
    ) -> Tensor:
        """Predict all units in one position of each of several prompts.

        Args:
            prompts: ``b`` rows of source ids.
            positions: ``(b,)``, which unit of each.
            weights: ``(losses,)``.
            mean: whether the gradient is taken with the mean word in the position, so that the
                unit that stands there does not matter; for words.

        Returns:
            ``(b, N)`` float32 on the source's device, up to a constant a prompt; lower is better.
        """

    @abstractmethod
    def vectors(self) -> list[Tensor]:
        """Return vectors ``(N, d)`` that tell which units are similar, one for each model."""
