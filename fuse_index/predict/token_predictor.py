"""Predictions for tokens: by gradients at one-hot tokens, through adapters, or by layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import OptionError
from fuse_index.predict.gradients import Gradients, Weights, label_gradient, rows_within
from fuse_index.predict.ranking import Predictor, Ranking, UnitPredictor
from fuse_index.predict.spans import Spans, span_gradients
from fuse_index.predict.units import TokenUnits
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor


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
        if self._layered:
            return [
                [Ranking(self._by_layers(own, at, weights))]
                for own, at in zip(prompts, positions, strict=True)
            ]
        scores = self.gradients.tokens(Ragged.from_lists([own.ids for own in prompts]), weights)
        found = []
        for own, at, values in zip(prompts, positions, scores, strict=True):
            standing = self.units.standing(own, at)
            found.append([Ranking(self._of_units(values[list(at)]), standing)])
        return found

    def at(
        self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights, *, mean: bool
    ) -> Tensor:
        """Predict all tokens in one position of each prompt; see :meth:`UnitPredictor.at`."""
        del mean
        if self._layered:
            return self._at_states(prompts, positions, weights)
        scores = self.gradients.tokens(prompts, weights)
        return self._of_units(_at(scores, positions))

    def vectors(self) -> list[Tensor]:
        """Return the tokens' embeddings in the source."""
        return [self.units.vectors(self.problem.source)]

    def _of_units(self, values: Tensor) -> Tensor:
        """``(..., V)`` of all tokens -> ``(..., N)`` of those that may be used."""
        return values[..., self.units.firsts.to(values.device)]

    def _by_layers(self, prompt: Spans, positions: Sequence[int], weights: Weights) -> Tensor:
        rows = Ragged.from_lists([prompt.ids] * len(positions))
        return self._at_states(rows, np.array(positions, dtype=np.int64), weights)

    def _at_states(self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights) -> Tensor:
        """``(b, N)``: by layers where a target has the source's tokens, else by the adapter."""
        device = self.problem.source.device
        total = torch.zeros(len(prompts), len(self.units), device=device)
        self.gradients.spent.gradients += len(prompts)
        for term in self._layered:
            if not weights[term]:
                continue
            run = partial(self._layer_scores, term, prompts, positions)
            taken = self.gradients.rows.map(len(prompts), run)
            total += float(weights[term]) * torch.cat([own for _, own in taken]).to(device)
        rest = np.array(weights, dtype=np.float64)
        rest[self._layered] = 0.0
        if any(rest[i] for i in self.gradients.terms):
            before = self.gradients.spent.gradients
            scores = self.gradients.tokens(prompts, rest)
            self.gradients.spent.gradients = before  # one gradient a prompt, of all models
            total += self._of_units(_at(scores, positions))
        return total

    def _layer_scores(
        self, term: int, prompts: Ragged, positions: NDArray[np.int64], run: slice
    ) -> Tensor:
        """``(R, N)``: one term, in one position of some prompts."""
        loss = self.problem.losses[term]
        rows, at = rows_within(prompts, run), positions[run]
        _, sums = span_gradients(loss, rows, np.stack([at, at + 1], axis=1), layers=True)
        found = sums @ self.units.states(loss.model).T
        if loss.uses_labels and self.problem.targets[term].is_source:
            found = found + self._of_units(_at(label_gradient(loss, rows), at))
        return found


def _at(scores: Tensor, positions: NDArray[np.int64]) -> Tensor:
    """``(b, C, V)`` at one position of each row -> ``(b, V)``."""
    rows = torch.arange(len(scores), device=scores.device)
    found: Tensor = scores[rows, torch.from_numpy(positions).to(scores.device)]
    return found
