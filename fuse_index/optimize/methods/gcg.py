"""GCG: replace tokens or words by those that the gradient ranks best.

Greedy Coordinate Gradient (Zou et al. 2023, "Universal and Transferable Adversarial Attacks on
Aligned Language Models"), here over tokens or whole words, with the summed gradient of models with
different tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fuse_index.common.options import NaturalWidth, Share, Width, options
from fuse_index.errors import OptionError
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    random_positions,
    shares,
    width_of,
)
from fuse_index.optimize.methods.steering import Momentum, directed
from fuse_index.optimize.state import Scored, State
from fuse_index.predict.correction import ResidualKriging
from fuse_index.predict.predictor import require_predictor, unit_predictor
from fuse_index.predict.ranking import Predictor, Ranking
from fuse_index.predict.spans import Spans
from fuse_index.predict.units import Unit
from fuse_index.predict.weights import by_weights
from fuse_index.words.ragged import Ragged

Swaps = tuple[Ragged, NDArray[np.int64], NDArray[np.int64]]
"""Candidates, and the positions and units of each, ``(n, r)``."""

_SPARE = {Unit.TOKEN: 8, Unit.WORD: 4}
"""Ranked units looked at for every candidate, so that those scored before can be left out."""


class Draw(str, Enum):
    """Which of the ranked replacements become candidates."""

    BEST = "best"
    """Those with the best predicted change that were not scored yet, one replacement each."""
    UNIFORM = "uniform"
    """Any position, and any of its ``top_k`` best units, as in GCG."""


@options()
class GCG(MethodOptions):
    """Options of greedy coordinate gradient.

    The defaults are the best that was measured (docs/benchmarks.md). As published, over tokens:
    ``GCG(search_width=512, draw="uniform", positions=0, memory=0)``.

    Attributes:
        unit: what a candidate replaces, a token or a word.
        predictor: what ranks the units; by default ``embedding`` for tokens, ``layers`` for words.
        search_width: candidates of one step, over all prompts the search works on; by default 128
            tokens, 24 words.
        draw: which of the ranked replacements become candidates.
        positions: positions of a prompt that a step works on, drawn at random, 0 for all; by
            default 4 for tokens, 3 for words.
        memory: scored candidates remembered in each position, by which predictions are corrected;
            0 corrects nothing.
        top_k: units of each position, with ``draw`` "uniform".
        n_replace: replacements in each candidate, with ``draw`` "uniform".
        residual_scale: factor of the gradient through the residual branches of every model, 1 as it
            is (LSGM); the losses stay as they are.
        momentum: share of the steps before in the predictions, which then are running means (MAC);
            for tokens by ``adapter`` or ``embedding``. 0 takes those of the step alone.
        direction: units of each position that are kept before the best are taken: those towards
            whose embedding in the source the loss falls most steeply (TAO); for tokens as well. 0
            keeps all.
        merge: the best swaps of a step in different positions are tried together, the best two,
            three, up to so many (MC-GCG); 0 tries none. They come on top of ``search_width``.
    """

    unit: Unit = Unit.TOKEN
    predictor: Predictor | None = None
    search_width: Width | None = None
    draw: Draw = Draw.BEST
    positions: NaturalWidth | None = None
    memory: NaturalWidth = 64
    top_k: Width = 256
    n_replace: Width = 1
    residual_scale: Share = 1.0
    momentum: Annotated[float, Field(strict=True, ge=0, le=0.99)] = 0.0
    direction: NaturalWidth = 0
    merge: NaturalWidth = 0

    type: ClassVar[str] = "gcg"

    def __post_init__(self) -> None:
        words = self.unit is Unit.WORD
        self.fill(
            predictor=Predictor.LAYERS if words else Predictor.EMBEDDING,
            search_width=24 if words else 128,
            positions=3 if words else 4,
        )
        assert self.predictor is not None
        require_predictor(self.unit, self.predictor)
        if self.draw is Draw.BEST and self.n_replace != 1:
            raise OptionError(f"gcg: draw 'best' with n_replace={self.n_replace}", expected="1")
        if self.merge and self.n_replace != 1:
            raise OptionError(
                f"gcg: merge={self.merge} with n_replace={self.n_replace}",
                expected="n_replace 1: single swaps are merged",
            )
        for name in ("momentum", "direction"):
            if getattr(self, name) and (words or self.predictor is Predictor.LAYERS):
                raise OptionError(
                    f"gcg: {name}={getattr(self, name)} with unit '{self.unit.value}', predictor "
                    f"'{self.predictor.value}'",
                    expected="tokens by adapter or embedding: one gradient ranks all positions",
                )

    @property
    def ranking(self) -> tuple[Unit, Predictor]:
        """What is ranked, and how."""
        assert self.predictor is not None
        return self.unit, self.predictor

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            OptionError: no term has a gradient, a model has no adapter, or there are no words.
            ModelError: the residual branches of a model cannot be told apart.
        """
        return _GCGMethod(self, context)


class _GCGMethod(Method):
    def __init__(self, options: GCG, context: Context) -> None:
        super().__init__(context.scaled(options.residual_scale))
        self.options = options
        unit, predictor = options.ranking
        self.units = context.problem.units(unit)
        self._predictor = unit_predictor(self.context.gradients, self.units, predictor)
        self._kriging = ResidualKriging(options.memory) if options.memory else None
        self._momentum = Momentum(options.momentum) if options.momentum else None

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        options, context = self.options, self.context
        assert options.search_width is not None
        width = width_of(options.search_width, most, context.passes())
        if self._kriging is not None:
            self._kriging.move_to(states[0].ids)
        prompts = [self.units.spans(state.ids) for state in states]
        limit = options.positions or None
        chosen = [random_positions(len(own), limit, context.generator) for own in prompts]
        rankings = self._rank(prompts, chosen)
        rows = []
        for i, count in enumerate(shares(width, len(states))):
            parts, swaps = shares(count, len(rankings[i])), []
            for ranking, part in zip(rankings[i], parts, strict=True):
                if part:
                    swaps += self._swaps(prompts[i], chosen[i], ranking, part)
            if swaps:
                rows.append(self._candidates(swaps, states[i].total))
                rows += self._merged(prompts[i], swaps) if options.merge else []
        return Proposals(Ragged.concatenate(rows))

    def _merged(self, prompt: Spans, swaps: list[Swaps]) -> list[Ragged]:
        """Make the best swaps of different positions at once: the best two, three, and so on."""
        rows = Ragged.concatenate([own for own, *_ in swaps])
        positions = np.concatenate([own[:, 0] for _, own, _ in swaps])
        units = np.concatenate([own[:, 0] for *_, own in swaps])
        totals = self.context.totals(rows)
        best: dict[int, int] = {}
        for index in np.argsort(totals, kind="stable")[: np.isfinite(totals).sum()].tolist():
            best.setdefault(int(positions[index]), int(units[index]))
        places, own = np.array([list(best)]), np.array([list(best.values())])
        most = min(self.options.merge, len(best))
        return [
            self.units.replaced(prompt, places[:, :size], own[:, :size])
            for size in range(2, most + 1)
        ]

    def observe(self, scored: Scored) -> None:
        if self._kriging is not None:
            self._kriging.learn(scored.prompts, scored.totals)

    def _rank(self, prompts: list[Spans], chosen: list[list[int]]) -> list[list[Ranking]]:
        """Rank all units in the positions of each prompt, corrected by scored candidates."""
        kriging = self._kriging
        rankings: list[list[Ranking]] = [[] for _ in prompts]
        weights = self.context.weights(Ragged.from_lists([own.ids for own in prompts]))
        asked = chosen
        if self._momentum is not None:
            asked = [list(range(len(own))) for own in prompts]
        for rows, own in by_weights(weights):
            part = [prompts[i] for i in rows], [asked[i] for i in rows]
            found = self._predictor.rank(*part, own, every=kriging is not None)
            for row, ranking in zip(rows.tolist(), found, strict=True):
                rankings[row] = ranking
        if self._momentum is not None:
            carried = self._momentum.carry([own[0] for own in rankings])
            rankings = [[own.at(at)] for own, at in zip(carried, chosen, strict=True)]
        if kriging is not None:
            correct = partial(kriging.correct, vectors=self._predictor.vectors())
            rankings = [
                [ranking.corrected(at, correct) for ranking in own]
                for own, at in zip(rankings, chosen, strict=True)
            ]
        return [
            [self._steered(ranking, prompt, at) for ranking in own]
            for own, prompt, at in zip(rankings, prompts, chosen, strict=True)
        ]

    def _steered(self, ranking: Ranking, prompt: Spans, positions: list[int]) -> Ranking:
        options, source = self.options, self.context.problem.source
        if options.direction:
            ids = torch.tensor(prompt.ids)[positions].to(source.device)
            standing = source.table().detach()[ids]
            vectors = self.units.vectors(source)
            ranking = directed(ranking, standing, vectors, options.direction)
        return ranking

    def _swaps(
        self, prompt: Spans, positions: list[int], ranking: Ranking, count: int
    ) -> list[Swaps]:
        """Choose ``count`` replacements, or more where only the new ones are taken."""
        options, spare = self.options, _SPARE[self.options.unit]
        at = np.array(positions, dtype=np.int64)
        if options.draw is Draw.UNIFORM:
            top = ranking.best(options.top_k)
            drawn, units = sample_ranks(top, count, options.n_replace, self.context.generator)
            places, own = at[drawn.numpy()], units.numpy()
            return [(self.units.replaced(prompt, places, own), places, own)]
        if ranking.standing is not None:
            drawn, units = ranking.best_of_all(spare * count)
            return [self._new(prompt, at[drawn.numpy()], units.numpy(), count)]
        numbers = shares(count, len(at))
        best = ranking.best(spare * max(numbers)).numpy()
        return [
            self._new(prompt, np.full(spare * some, place), own[: spare * some], some)
            for place, own, some in zip(at.tolist(), best, numbers, strict=True)
            if some
        ]

    def _new(
        self, prompt: Spans, at: NDArray[np.int64], units: NDArray[np.int64], count: int
    ) -> Swaps:
        """Keep the first replacements that are new; where none is, the first of all."""
        units = units[:, None]
        positions = at[: len(units), None]
        rows = self.units.replaced(prompt, positions, units)
        new = np.flatnonzero(self.context.is_new(rows))[:count]
        kept = new if len(new) else np.arange(min(count, len(units)))
        return rows.select(kept), positions[kept], units[kept]

    def _candidates(self, swaps: list[Swaps], total: float) -> Ragged:
        """Join the candidates, and note those with one replacement, to learn from them."""
        if self._kriging is not None:
            for rows, positions, units in swaps:
                if positions.shape[1] == 1:
                    self._kriging.note(rows, positions[:, 0], units[:, 0], total)
        return Ragged.concatenate([rows for rows, *_ in swaps])

    def tensors(self) -> dict[str, Tensor]:
        kept = (self._kriging, self._momentum)
        return {k: v for own in kept if own is not None for k, v in own.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for own in (self._kriging, self._momentum):
            if own is not None:
                own.load_tensors(tensors)


def sample_ranks(
    top: Tensor, count: int, n_replace: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw random positions, and for each one of its best units.

    The draws are those of GCG, in this order: one uniform number for every candidate and position,
    whose ``n_replace`` smallest are replaced, then one rank for every replacement.

    Args:
        top: ``(S, k)``, the units that each position may get.
        count: candidates.
        n_replace: positions of each; at most S.
        generator: of the random numbers.

    Returns:
        Positions and units, each ``(count, n_replace)`` int64.
    """
    length, k = top.shape
    order = torch.rand((count, length), generator=generator)
    positions = torch.argsort(order)[..., : min(n_replace, length)]
    ranks = torch.randint(0, k, (count, positions.shape[1], 1), generator=generator)
    return positions, top[positions, ranks.squeeze(2)]
