"""Spaces of soft prompts: points that project to the nearest tokens or words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fuse_index.objectives.labels import label_space
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Ids
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.indexed import find_index
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.target import Target
from fuse_index.predict.weights import Weights
from fuse_index.predict.word_predictor import WordPredictor
from fuse_index.words.ragged import Ragged

_ROWS = 8192
"""Embeddings compared at once."""
_POINTS = 2048
"""Points compared at once."""
_SAMPLE = 1024
"""Tokens whose neighbours are searched to estimate the distance of neighbours."""


class Distance(str, Enum):
    """How near an embedding is."""

    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


class NearestTokens:
    """Projects points of the source's embedding space to its tokens.

    Args:
        problem: whose tokens; only those that may be used count.
        distance: which token is the nearest.

    Attributes:
        ids: ``(m,)`` int64 on the CPU, the tokens that may be used.
        rows: ``(m, d)``, their embeddings.
    """

    def __init__(self, problem: Problem, distance: Distance) -> None:
        table = problem.source.table().detach()
        self.ids = torch.from_numpy(problem.allowed).nonzero()[:, 0]
        self.rows = table[self.ids.to(table.device)]
        self.distance = distance
        norms = torch.cat([part.float().norm(dim=1) for part in torch.split(self.rows, _ROWS)])
        self._norms: Tensor = norms

    def __call__(self, points: Tensor) -> Tensor:
        """Return the nearest token of each point; of equally near ones the first.

        Args:
            points: ``(n, d)``.

        Returns:
            ``(n,)`` int64 on the CPU.
        """
        points = points.to(self.rows.device)
        parts = [self._rows(part.float()) for part in torch.split(points, _POINTS)]
        return self.ids[torch.cat(parts).cpu()] if parts else self.ids[:0]

    def _rows(self, points: Tensor, but: Tensor | None = None) -> Tensor:
        return nearest_rows(points, [(self.rows, 1.0)], self._norms, self.distance, but)

    @cached_property
    def scale(self) -> float:
        """Root mean square of the embeddings' entries."""
        return math.sqrt(float(self._norms.square().mean()) / self.rows.shape[1])

    @cached_property
    def neighbour_distance(self) -> float:
        """Median Euclidean distance of a token to its nearest neighbour, over up to 1024 tokens.

        0 where there is no neighbour, or half of the tokens have equals.
        """
        count = len(self.ids)
        if count < 2:
            return 0.0
        sample = torch.linspace(0, count - 1, min(count, _SAMPLE), device=self.rows.device).long()
        nearest = self._rows(self.rows[sample].float(), sample)
        apart = self.rows[sample].double() - self.rows[nearest].double()
        return float(apart.norm(dim=1).median())


class TokenSpace:
    """The source's embeddings, one point for each token.

    Args:
        problem: its tokens.
        gradients: of the problem, counted.
        relative: whether points are counted in the root mean square of the embeddings' entries.
    """

    def __init__(self, problem: Problem, gradients: Gradients, *, relative: bool) -> None:
        gradients.require()
        self._gradients = gradients
        self._nearest = NearestTokens(problem, Distance.COSINE)
        self._table = problem.source.table().detach()
        self.scale = self._nearest.scale if relative else 1.0
        self.size = len(self._nearest.ids)

    def begin(self, ids: Ids) -> Tensor:
        """Return the points ``(P, d)`` of a prompt's tokens, in units of the scale."""
        return self._table[torch.tensor(ids, device=self._table.device)].float() / self.scale

    def points_of(self, units: Tensor) -> Tensor:
        """Return the points ``(P, d)`` of tokens ``(P,)``, counted among those that may be used."""
        return self.begin(tuple(self._nearest.ids[units].tolist()))

    def nearest(self, points: Tensor) -> Tensor:
        """Project points ``(n, d)`` to the nearest tokens by cosine: ``(n,)`` on the CPU."""
        return self._nearest(points)

    def prompt(self, units: Sequence[int]) -> list[int]:
        """Return the tokens themselves."""
        return list(units)

    def gradients(self, units: Sequence[Sequence[int]], weights: Weights) -> Tensor:
        """Return the gradients ``(b, P, d)`` at the tokens, zero past their ends."""
        return self._gradients.embeddings(Ragged.from_lists(units), weights)


class WordSpace:
    """Mean embeddings of words, in one model or in several side by side.

    Args:
        problem: its words.
        gradients: of the problem, counted.
        predictor: ``embedding``: the points live in the embeddings of every model with a gradient,
            side by side; ``adapter``: in those of the source, and gradients come through adapters.
        relative: whether points are counted in the root mean square of the vectors' entries.
    """

    def __init__(
        self, problem: Problem, gradients: Gradients, predictor: Predictor, *, relative: bool
    ) -> None:
        self.scale = 1.0
        self._units = problem.word_units
        self.size = len(self._units)
        self._words = WordPredictor(gradients, self._units, predictor)
        self._device = problem.source.device
        self._adapted = predictor is Predictor.ADAPTER
        self._targets = list(dict.fromkeys(problem.targets[i] for i in gradients.terms))
        if self._adapted:
            self._targets = [Target(problem.source, problem.source)]
        vectors = [self._units.vectors(target.model) for target in self._targets]
        scales = [float(own.square().mean().sqrt()) if relative else 1.0 for own in vectors]
        self._parts = list(zip(vectors, scales, strict=True))
        norms = [own.square().sum(dim=1).to(self._device) / s**2 for own, s in self._parts]
        self._norms: Tensor = torch.stack(norms).sum(dim=0).sqrt()
        self._index = None
        if len(self._targets) == 1:
            self._index = find_index(self._units, self._targets, alone=True)

    def begin(self, ids: Ids) -> Tensor:
        """Return the points ``(P, d)`` of a prompt's words, known or not."""
        spans = self._units.spans(ids)
        words = [self._units.words_of(spans, target).to(self._device) for target in self._targets]
        return self._joined(words)

    def points_of(self, units: Tensor) -> Tensor:
        """Return the points ``(P, d)`` of words ``(P,)``."""
        return self._joined([own[units.to(own.device)] for own, _ in self._parts])

    def nearest(self, points: Tensor) -> Tensor:
        """Project points ``(n, d)`` to the nearest words by cosine: ``(n,)`` on the CPU."""
        if self._index is not None:
            return self._index.nearest(points)
        return nearest_rows(points, self._parts, self._norms, Distance.COSINE).cpu()

    def prompt(self, units: Sequence[int]) -> list[int]:
        """Return the words' tokens."""
        return [token for unit in units for token in self._units.source[unit].tolist()]

    def gradients(self, units: Sequence[Sequence[int]], weights: Weights) -> Tensor:
        """Return the gradients ``(b, P, d)`` at the words, zero past their ends."""
        found = [self._gradient(own, weights) for own in units]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)

    def _gradient(self, units: Sequence[int], weights: Weights) -> Tensor:
        """``(P, d)``, in units of the points; zero where words join in the source's tokens."""
        spans = self._units.spans(self.prompt(units))
        if len(spans) != len(units):
            width = sum(own.shape[1] for own, _ in self._parts)
            return torch.zeros(len(units), width, device=self._device)
        taken = self._words.gradients_at(spans, range(len(units)), weights)
        if self._adapted:
            pulled = [self._pulled(*own, units).to(self._device) for own in taken.items()]
            parts = [torch.stack(pulled).sum(dim=0)]
        else:
            parts = [
                taken.get(target, own.new_zeros(len(units), own.shape[1]))
                for target, (own, _) in zip(self._targets, self._parts, strict=True)
            ]
        scaled = [own.to(self._device) * s for own, (_, s) in zip(parts, self._parts, strict=True)]
        return torch.cat(scaled, dim=1)

    def _pulled(self, target: Target, sums: Tensor, units: Sequence[int]) -> Tensor:
        """``(P, d_src)``: a target's gradient, spread over each word's tokens and pulled back."""
        if target.is_source:
            return sums
        if target.same_tokens:  # the source's gradient that fits the tokens' best
            scores = sums @ target.model.table().float().T
            return label_space(target.source).gradient(scores[None])[0]
        assert target.adapter is not None
        p = self._units.source.lengths[list(units)]
        q = self._units.tokens(target.model).lengths[list(units)]
        repeats = torch.from_numpy(q).to(sums.device)
        spread = (sums / repeats[:, None]).repeat_interleave(repeats, dim=0)
        source = None
        if not target.adapter.linear:
            source = target.source_rows(self._units.source.select(list(units)).values)
        layout = target.adapter.layout(p, q)
        pulled = target.adapter.pull_back(spread, layout, source=source)
        index = torch.from_numpy(np.repeat(np.arange(len(p)), p)).to(pulled.device)
        return pulled.new_zeros(len(p), pulled.shape[1]).index_add_(0, index, pulled)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Put the parts of points side by side, each in its scale."""
        scaled = [
            own.float().to(self._device) / scale
            for own, (_, scale) in zip(parts, self._parts, strict=True)
        ]
        return torch.cat(scaled, dim=1)


SoftSpace = TokenSpace | WordSpace
"""Points of soft prompts, one for each token or word."""


def nearest_rows(
    points: Tensor,
    parts: Sequence[tuple[Tensor, float]],
    norms: Tensor,
    distance: Distance,
    but: Tensor | None = None,
) -> Tensor:
    """Return the nearest row of each point; of equally near ones the first.

    Args:
        points: ``(n, D)`` float32.
        parts: ``(m, d)`` columns of the rows and their scale, side by side ``(m, D)``.
        norms: ``(m,)``, of the rows.
        distance: which row is the nearest.
        but: ``(n,)``, a row of each point that does not count.

    Returns:
        ``(n,)`` int64 on the points' device.
    """
    best = torch.full((len(points),), -torch.inf, device=points.device)
    found = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for begin in range(0, len(norms), _ROWS):
        own = norms[begin : begin + _ROWS].to(points.device)
        scores, first = torch.zeros(len(points), len(own), device=points.device), 0
        for columns, scale in parts:
            rows = columns[begin : begin + _ROWS].to(points.device).float()
            scores += points[:, first : first + rows.shape[1]] @ (rows / scale).T
            first += rows.shape[1]
        if distance is Distance.COSINE:
            scores /= own.clamp(min=torch.finfo(torch.float32).tiny)
        else:
            scores -= own.square() / 2
        if but is not None:
            here = ((but >= begin) & (but < begin + len(own))).nonzero()[:, 0]
            scores[here, but[here] - begin] = -torch.inf
        values, indices = scores.max(dim=1)
        found = torch.where(values > best, indices + begin, found)
        best = torch.maximum(values, best)
    return found
