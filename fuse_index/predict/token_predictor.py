"""Predictions for tokens: at one-hot tokens, in targets' own tokens, by layers, or by adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.predict.gradients import Gradients, rows_within
from fuse_index.predict.loss_gradients import embedding_gradient, label_gradient
from fuse_index.predict.own_tokens import word_spans
from fuse_index.predict.ranking import Predictor, Ranking, UnitPredictor
from fuse_index.predict.spans import Spans, span_gradients, span_sums
from fuse_index.predict.units import TokenUnits
from fuse_index.predict.weights import Weights
from fuse_index.words.ragged import Ragged

Places = NDArray[np.int64]
"""``(S, 2)``: positions, each the index of a prompt and of a token in it."""


class TokenPredictor(UnitPredictor):
    """Predicts the change of the total loss for tokens.

    Args:
        gradients: of the problem, counted.
        units: the tokens.
        predictor: how they are ranked.

    Raises:
        OptionError: no term has a gradient, or a target has no adapter that is needed.
    """

    units: TokenUnits

    def __init__(self, gradients: Gradients, units: TokenUnits, predictor: Predictor) -> None:
        super().__init__(gradients, units, predictor)
        targets = self.problem.targets
        self._layers = predictor is Predictor.LAYERS
        self._own: list[int] = []
        """The terms that are ranked by the target's own tokens."""
        if predictor is not Predictor.ADAPTER:
            terms = gradients.terms
            self._own = [i for i in terms if self._layers or not targets[i].same_tokens]

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
        pairs = [(row, at) for row, own in enumerate(positions) for at in own]
        changes = self._changes(rows, np.array(pairs, dtype=np.int64).reshape(-1, 2), weights)
        found = []
        for own, at in zip(prompts, positions, strict=True):
            part, changes = changes[: len(at)], changes[len(at) :]
            # by layers the predictions of different positions do not compare
            standing = None if self._layers else self.units.standing(own, at)
            found.append([Ranking(part, standing)])
        return found

    def at(
        self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights, *, mean: bool
    ) -> Tensor:
        """Predict all tokens in one position of each prompt; see :meth:`UnitPredictor.at`."""
        del mean
        return self._changes(prompts, np.stack([np.arange(len(prompts)), positions], 1), weights)

    def vectors(self) -> list[Tensor]:
        """Return the tokens' embeddings in every target that is ranked by own tokens.

        Where there is none, those in the source.
        """
        owners = dict.fromkeys(self.problem.targets[term] for term in self._own)
        vectors = [self.units.own_vectors(target) for target in owners]
        return vectors or [self.units.vectors(self.problem.source)]

    def _changes(self, prompts: Ragged, places: Places, weights: Weights) -> Tensor:
        """``(S, N)``: what all terms say of all tokens, one gradient a prompt or a position."""
        self.gradients.count(len(places) if self._layers else len(prompts), weights)
        total = torch.zeros(len(places), len(self.units), device=self.problem.source.device)
        scores = self._by_token(prompts, weights)
        if scores is not None:
            rows, at = torch.from_numpy(places).to(scores.device).unbind(1)
            total += scores[rows, at][:, self.units.firsts.to(scores.device)]
        take = self._by_layers if self._layers else self._by_embedding
        for term in self._own:
            if weights[term]:
                changes = take(term, prompts, places)
                total += float(weights[term]) * changes.to(total.device)
        return total

    def _by_token(self, prompts: Ragged, weights: Weights) -> Tensor | None:
        """``(b, C, V)``: what one gradient a prompt says of all positions and source tokens.

        It is of the terms that are not ranked by own tokens, and with layers what tokens are as
        labels; None where there is neither.
        """
        rest = np.array(weights, dtype=np.float64)
        rest[self._own] = 0.0
        if any(rest[i] for i in self.gradients.terms):
            return self.gradients.tokens(prompts, rest, counted=False)
        total: Tensor | None = None
        for term in self._own:
            loss = self.problem.losses[term]
            if weights[term] and loss.uses_labels and self.problem.targets[term].is_source:
                self.gradients.spent.run_forward(loss, prompts.lengths)
                part = float(weights[term]) * label_gradient(loss, prompts)
                total = part if total is None else total + part
        return total

    def _by_embedding(self, term: int, prompts: Ragged, places: Places) -> Tensor:
        """``(S, N)``: one term, from one gradient a prompt."""
        run = partial(self._embedding_scores, term, prompts, places)
        taken = [part for _, part in self.gradients.rows.map(len(prompts), run)]
        order = np.argsort(places[:, 0], kind="stable")
        return torch.cat(taken)[torch.from_numpy(np.argsort(order))]

    def _embedding_scores(self, term: int, prompts: Ragged, places: Places, run: slice) -> Tensor:
        """``(R, N)``: one term, in the positions of some prompts, in the order of the prompts."""
        loss, target = self.problem.losses[term], self.problem.targets[term]
        own = self.units.own(target)
        here = places[(places[:, 0] >= run.start) & (places[:, 0] < run.stop)]
        here = here[np.argsort(here[:, 0], kind="stable")] - [run.start, 0]
        rows = rows_within(prompts, run)
        read = target.read(rows)
        self.gradients.spent.run_gradient(loss, read.contents.lengths)
        scale = self.gradients.residual_scale
        packed = embedding_gradient(loss, read.contents, residual_scale=scale)[1]
        spans = word_spans(read, rows, here)
        sums = span_sums(packed, spans + read.contents.offsets[here[:, 0], None])
        return own.by_embedding(sums, here[:, 1] == 0)

    def _by_layers(self, term: int, prompts: Ragged, places: Places) -> Tensor:
        """``(S, N)``: one term, from one gradient a position."""
        run = partial(self._layer_scores, term, prompts.select(places[:, 0]), places[:, 1])
        return torch.cat([part for _, part in self.gradients.rows.map(len(places), run)])

    def _layer_scores(
        self, term: int, prompts: Ragged, positions: NDArray[np.int64], run: slice
    ) -> Tensor:
        """``(R, N)``: one term, in one position of some prompts."""
        loss, target = self.problem.losses[term], self.problem.targets[term]
        own = self.units.own(target)
        at = positions[run]
        rows = rows_within(prompts, run)
        read = target.read(rows)
        spans = word_spans(read, rows, np.stack([np.arange(len(at)), at], axis=1))
        scale = self.gradients.residual_scale
        self.gradients.spent.run_gradient(loss, read.contents.lengths)
        _, sums = span_gradients(loss, read.contents, spans, layers=True, residual_scale=scale)
        return own.by_layers(sums, at == 0)
