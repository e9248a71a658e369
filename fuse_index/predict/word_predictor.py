"""Predictions for words: at embeddings, at hidden states, or through adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.models.base import Model
from fuse_index.objectives.base import Loss
from fuse_index.predict.adapted import AdaptedWords
from fuse_index.predict.gradients import rows_within
from fuse_index.predict.indexed import IndexedWords, find_index
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.predict.ranking import IndexedRanking, Predictor, Ranking, UnitPredictor
from fuse_index.predict.spans import Spans, span_gradients, span_sums
from fuse_index.predict.target import Target
from fuse_index.predict.units import WordUnits
from fuse_index.predict.weights import Weights
from fuse_index.words.ragged import Ragged

TargetGradients = dict[Target, Tensor]
"""Gradients at words by target, its terms summed: ``(S, D)`` float32, summed over a word's tokens.

``D`` is the width, times ``layers + 1`` at hidden states."""


class WordPredictor(UnitPredictor):
    """Predicts the change of the total loss for words.

    Args:
        gradients: of the problem, counted.
        units: the words.
        predictor: how they are ranked.

    Raises:
        OptionError: no term has a gradient, or a target has no adapter that is needed.
    """

    units: WordUnits

    @property
    def _layers(self) -> bool:
        return self.predictor is Predictor.LAYERS

    def rank(
        self,
        prompts: Sequence[Spans],
        positions: Sequence[Sequence[int]],
        weights: Weights,
        *,
        every: bool = False,
    ) -> list[list[Ranking]]:
        """Rank all words in positions of prompts; see :meth:`UnitPredictor.rank`."""
        found = []
        for prompt, at in zip(prompts, positions, strict=True):
            taken = self.gradients_at(prompt, at, weights)
            found.append([self._ranking(kind, taken, every=every) for kind in self._kinds()])
        return found

    def at(
        self, prompts: Ragged, positions: NDArray[np.int64], weights: Weights, *, mean: bool
    ) -> Tensor:
        """Predict all words in one position of each prompt; see :meth:`UnitPredictor.at`."""
        taken = self._taken(prompts, positions, weights, None, mean=mean)
        changes = [self.changes(kind, taken) for kind in self._kinds()]
        if len(changes) == 1:
            return changes[0]
        return sum(
            (own / own.std(dim=1, keepdim=True).clamp(min=1e-12) for own in changes),
            torch.zeros_like(changes[0]),
        )

    def vectors(self) -> list[Tensor]:
        """Return the words' vectors in the model of every term with a gradient."""
        models = dict.fromkeys(target.model for target in self._targets())
        return [self.vectors_in(model) for model in models]

    def vectors_in(self, model: Model) -> Tensor:
        """Return what a model's gradients are multiplied with: ``(N, D)`` float32."""
        return self.units.states(model) if self._layers else self.units.vectors(model)

    def gradients_at(
        self, prompt: Spans, positions: Sequence[int], weights: Weights
    ) -> TargetGradients:
        """Take the gradients at words of a prompt: one pass, or one a position by layers.

        Args:
            prompt: ``P`` words.
            positions: ``S`` of them.
            weights: ``(losses,)``.
        """
        at = np.array(positions, dtype=np.int64)
        if self._layers:
            rows = Ragged.from_lists([prompt.ids] * len(at))
            return self._taken(rows, at, weights, len(prompt), mean=False)
        self.gradients.count(1, weights)
        row = Ragged.from_lists([prompt.ids])
        found: TargetGradients = {}
        for term, weight in self._weighted(weights):
            loss, target = self.problem.losses[term], self.problem.targets[term]
            contents, offsets, _ = self._cut(target, row)
            if len(offsets) - 1 == len(prompt):
                self.gradients.spent.run_gradient(loss, contents.lengths)
                scale = self.gradients.residual_scale
                packed = embedding_gradient(loss, contents, residual_scale=scale)[1]
                sums = span_sums(packed, np.stack([offsets[at], offsets[at + 1]], axis=1))
            else:  # words join in the model's tokens
                sums = torch.zeros(len(at), loss.model.width, device=loss.model.device)
            _add(found, target, weight * sums)
        return found

    def changes(self, kind: Predictor, taken: TargetGradients) -> Tensor:
        """Return the predicted change of the total loss: ``(S, N)`` on the source's device.

        Targets with the source's tokens have no adapter and are ranked by embeddings.
        """
        device = self.problem.source.device
        total: Tensor | None = None
        for target, sums in taken.items():
            if kind is Predictor.ADAPTER and not target.same_tokens:
                change = self._adapted(target).changes(sums)
            else:
                change = sums @ self.vectors_in(target.model).T
            total = change.to(device) if total is None else total + change.to(device)
        assert total is not None
        return total

    def _kinds(self) -> tuple[Predictor, ...]:
        if self.predictor is Predictor.MIXTURE:
            return Predictor.EMBEDDING, Predictor.ADAPTER
        return (self.predictor,)

    def _ranking(self, kind: Predictor, taken: TargetGradients, *, every: bool) -> Ranking:
        if kind is Predictor.EMBEDDING and not every and self._index is not None:
            sums = {"source" if t.is_source else "target": own for t, own in taken.items()}
            return IndexedRanking(self._index, sums)
        return Ranking(self.changes(kind, taken))

    @cached_property
    def _index(self) -> IndexedWords | None:
        """A bundle's index over all models with a gradient, where words are many."""
        return find_index(self.units, self._targets())

    def _targets(self) -> list[Target]:
        return [self.problem.targets[term] for term in self.gradients.terms]

    @cached_property
    def _known_adapted(self) -> dict[Target, AdaptedWords]:
        return {}

    def _adapted(self, target: Target) -> AdaptedWords:
        known = self._known_adapted
        if target not in known:
            assert target.adapter is not None
            words = self.units.source, self.units.tokens(target.model)
            known[target] = AdaptedWords(target.adapter, target.source.table(), *words)
        return known[target]

    def _weighted(self, weights: Weights) -> list[tuple[int, float]]:
        return [(term, float(weights[term])) for term in self.gradients.terms if weights[term]]

    def _taken(
        self,
        prompts: Ragged,
        positions: NDArray[np.int64],
        weights: Weights,
        count: int | None,
        *,
        mean: bool,
    ) -> TargetGradients:
        """Take gradients at one word of each prompt, those of the terms of one target summed."""
        self.gradients.count(len(prompts), weights)
        found: TargetGradients = {}
        for term, weight in self._weighted(weights):
            run = partial(self._at_spans, term, prompts, positions, count=count, mean=mean)
            parts = [own for _, own in self.gradients.rows.map(len(prompts), run)]
            _add(found, self.problem.targets[term], weight * torch.cat(parts))
        return found

    def _at_spans(
        self,
        term: int,
        prompts: Ragged,
        positions: NDArray[np.int64],
        run: slice,
        *,
        count: int | None,
        mean: bool,
    ) -> Tensor:
        """``(R, D)``: one term at one word of some prompts.

        Zero where the prompt has not ``count`` words in the model, or too few without a count,
        because a word joins its neighbour in the model's tokens.
        """
        loss, target = self.problem.losses[term], self.problem.targets[term]
        at = positions[run]
        contents, offsets, first = self._cut(target, rows_within(prompts, run))
        words = np.diff(first)
        whole = words > at if count is None else words == count
        index = first[:-1] + np.minimum(at, words - 1)
        ends = np.stack([offsets[index], offsets[index + 1]], axis=1)
        vector = self.units.mean(loss.model) if mean else None
        spans = ends - contents.offsets[:-1, None]
        self.gradients.spent.run_gradient(loss, contents.lengths)
        scale = self.gradients.residual_scale

        def take(rows: Sequence[tuple[Loss, list[int], NDArray[np.int64]]]) -> list[Tensor]:
            losses, ids, cut = zip(*rows, strict=True)
            _, sums = span_gradients(
                losses[0].joined(losses),
                Ragged.from_lists(list(ids)),
                np.stack(cut),
                layers=self._layers,
                mean=vector,
                residual_scale=scale,
            )
            return list(sums)

        given = [(loss, *pair) for pair in zip(contents.to_lists(), spans, strict=True)]
        key = "spans", term, self._layers, mean, scale
        sums = torch.stack(list(self.gradients.joint.rows(key, take, given)))
        return sums * torch.from_numpy(whole).to(sums.device)[:, None]

    def _cut(
        self, target: Target, prompts: Ragged
    ) -> tuple[Ragged, NDArray[np.int64], NDArray[np.int64]]:
        """Rows in a model's tokens, where each word begins in them, and each row's first word."""
        read = target.read(prompts)
        if read.words is None:
            return read.contents, *self.problem.words.offsets(prompts)
        return read.contents, read.words.target_word_offsets, read.words.word_row_offsets


def _add(found: TargetGradients, target: Target, sums: Tensor) -> None:
    """Add the gradients of a term to those of its target."""
    found[target] = sums if target not in found else found[target] + sums
