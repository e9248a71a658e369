"""Predictions for tokens: by gradients at one-hot tokens, through adapters, or by layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import OptionError
from fuse_index.predict.gradients import Gradients, rows_within
from fuse_index.predict.loss_gradients import label_gradient
from fuse_index.predict.ranking import Predictor, Ranking, UnitPredictor
from fuse_index.predict.spans import Spans, span_gradients
from fuse_index.predict.units import TokenUnits
from fuse_index.predict.weights import Weights
from fuse_index.words.ragged import Ragged


class TokenPredictor(UnitPredictor):
    """Predicts the change of the total loss for tokens.

    Args:
        gradients: of the problem, counted.
        units: the tokens.
        predictor: how they are ranked.

    Raises:
        OptionError: no term has a gradient; a target with other tokens has no adapter, or the
            predictor is ``embedding``, which cannot rank the source's tokens there.
    """

    units: TokenUnits

    def __init__(self, gradients: Gradients, units: TokenUnits, predictor: Predictor) -> None:
        super().__init__(gradients, units, predictor)
        targets = self.problem.targets
        other = [targets[i] for i in gradients.terms if not targets[i].same_tokens]
        if predictor is Predictor.EMBEDDING and other:
            raise OptionError(
                f"{other[0].model.name}: predictor 'embedding' for tokens of "
                f"{self.problem.source.name}",
                expected="a model with the same tokens",
                remedy="use predictor 'adapter', or unit 'word'",
            )
        same = [i for i in gradients.terms if targets[i].same_tokens]
        self._layered = same if predictor is Predictor.LAYERS else []

    def rank(
        self,
        prompts: Sequence[Spans],
        positions: Sequence[Sequence[int]],
        weights: Weights,
        *,
        every: bool = False,
    ) -> list[list[Ranking]]:
        """Rank all tokens in positions of prompts; see :meth:`UnitPredictor.rank`."""
        del every
        rows = Ragged.from_lists([own.ids for own in prompts])
        scores = self._scores(rows, weights)
        found = []
        for own, at, values in zip(prompts, positions, scores, strict=True):
            changes = self._of_units(values[list(at)])
            if self._layered:
                repeated = Ragged.from_lists([own.ids] * len(at))
                places = np.array(at, dtype=np.int64)
                found.append([Ranking(changes + self._by_layers(repeated, places, weights))])
            else:
                found.append([Ranking(changes, self.units.standing(own, at))])
        return found

    def at(
        self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights, *, mean: bool
    ) -> Tensor:
        """Predict all tokens in one position of each prompt; see :meth:`UnitPredictor.at`."""
        del mean
        changes = self._of_units(_at(self._scores(prompts, weights), positions))
        if self._layered:
            changes = changes + self._by_layers(prompts, positions, weights)
        return changes

    def vectors(self) -> list[Tensor]:
        """Return the tokens' embeddings in the source."""
        return [self.units.vectors(self.problem.source)]

    def _of_units(self, values: Tensor) -> Tensor:
        """``(..., V)`` of all tokens -> ``(..., N)`` of those that may be used."""
        return values[..., self.units.firsts.to(values.device)]

    def _scores(self, prompts: Ragged, weights: Weights) -> Tensor:
        """``(b, C, V)``: what one gradient a prompt says of all positions.

        Without layers that is all; with layers it is the terms of models with other tokens,
        through their adapters, and what tokens are as labels. Those prompts are counted by layers.
        """
        if not self._layered:
            return self.gradients.tokens(prompts, weights)
        rest = np.array(weights, dtype=np.float64)
        rest[self._layered] = 0.0
        source = self.problem.source
        shape = len(prompts), int(prompts.lengths.max(initial=0)), source.vocabulary_size
        total = torch.zeros(shape, device=source.device)
        if any(rest[i] for i in self.gradients.terms):
            total += self.gradients.tokens(prompts, rest, counted=False)
        for term in self._layered:
            loss = self.problem.losses[term]
            if weights[term] and loss.uses_labels and self.problem.targets[term].is_source:
                self.gradients.spent.run_forward(loss, prompts.lengths)
                total += float(weights[term]) * label_gradient(loss, prompts)
        return total

    def _by_layers(self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights) -> Tensor:
        """``(b, N)``: the terms of models with the source's tokens, in one position a prompt."""
        total = torch.zeros(len(prompts), len(self.units), device=self.problem.source.device)
        self.gradients.count(len(prompts), weights)
        for term in self._layered:
            if weights[term]:
                run = partial(self._layer_scores, term, prompts, positions)
                taken = [own for _, own in self.gradients.rows.map(len(prompts), run)]
                total += float(weights[term]) * torch.cat(taken).to(total.device)
        return total

    def _layer_scores(
        self, term: int, prompts: Ragged, positions: NDArray[np.int64], run: slice
    ) -> Tensor:
        """``(R, N)``: one term, in one position of some prompts."""
        loss = self.problem.losses[term]
        at = positions[run]
        spans = np.stack([at, at + 1], axis=1)
        rows, scale = rows_within(prompts, run), self.gradients.residual_scale
        self.gradients.spent.run_gradient(loss, rows.lengths)
        _, sums = span_gradients(loss, rows, spans, layers=True, residual_scale=scale)
        return sums @ self.units.states(loss.model).T


def _at(scores: Tensor, positions: NDArray[np.int64]) -> Tensor:
    """``(b, C, V)`` at one position of each row -> ``(b, V)``."""
    rows = torch.arange(len(scores), device=scores.device)
    found: Tensor = scores[rows, torch.from_numpy(positions).to(scores.device)]
    return found
