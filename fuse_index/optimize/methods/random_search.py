"""Random search: candidates near the current prompt, without any gradient.

Near means few tokens or words away (the L0 ball) or a short way in the space of embeddings (the L2
ball). Methods with a gradient are compared with it, and it works with objectives that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fuse_index.common.options import Positive, Width, options
from fuse_index.errors import OptionError
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    shares,
    width_of,
)
from fuse_index.optimize.spaces import Distance, NearestTokens
from fuse_index.optimize.state import State
from fuse_index.predict.spans import Spans
from fuse_index.predict.units import Unit
from fuse_index.words.ragged import Ragged


class Norm(str, Enum):
    """What near means."""

    L0 = "l0"
    """Few tokens or words differ."""
    L2 = "l2"
    """The embeddings are moved a little, and projected back to tokens."""


@options()
class RandomSearch(MethodOptions):
    """Options of random search.

    Attributes:
        unit: what is replaced, a token or a word.
        search_width: candidates of one step, over all prompts the search works on; by default 512
            tokens, 64 words.
        norm: what near means; ``l2`` moves tokens.
        n_replace: units replaced in each candidate; for ``l0``.
        radius: of the ball around each token's embedding that points are drawn from; for ``l2``.
        relative: whether the radius is in units of ``sqrt(width) / 2`` times the median distance of
            a token to its nearest neighbour. In such a ball of radius 1, points differ from its
            centre along any one direction by half that distance (standard deviation), which is
            where a neighbour becomes the nearer one. Else it is a length in the space of
            embeddings.
    """

    unit: Unit = Unit.TOKEN
    search_width: Width | None = None
    norm: Norm = Norm.L0
    n_replace: Width = 1
    radius: Positive = 0.6
    relative: bool = True

    type: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        self.fill(search_width=64 if self.unit is Unit.WORD else 512)
        if self.norm is Norm.L2 and self.unit is Unit.WORD:
            raise OptionError("random: norm 'l2' with unit 'word'", expected="unit 'token'")

    @property
    def ranking(self) -> None:
        """Nothing is ranked."""
        return

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            OptionError: there are no words for unit ``word``.
        """
        return _RandomMethod(self, context)


class _RandomMethod(Method):
    def __init__(self, options: RandomSearch, context: Context) -> None:
        super().__init__(context)
        self.options = options
        problem = context.problem
        self.units = problem.units(options.unit)
        if options.norm is Norm.L2:
            self._nearest = NearestTokens(problem, Distance.EUCLIDEAN)
            self._table = problem.source.table().detach()
            self._radius = options.radius
            if options.relative:
                unit = self._nearest.neighbour_distance * self._table.shape[1] ** 0.5 / 2
                self._radius *= unit

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        assert self.options.search_width is not None
        width = width_of(self.options.search_width, most, self.context.passes())
        draw = self._replaced if self.options.norm is Norm.L0 else self._moved
        rows = [
            draw(self.units.spans(state.ids), count)
            for state, count in zip(states, shares(width, len(states)), strict=True)
        ]
        return Proposals(Ragged.concatenate(rows))

    def _replaced(self, prompt: Spans, count: int) -> Ragged:
        generator, n_replace = self.context.generator, self.options.n_replace
        order = torch.rand((count, len(prompt)), generator=generator)
        positions = torch.argsort(order)[:, : min(n_replace, len(prompt))]
        units = torch.randint(0, len(self.units), positions.shape, generator=generator)
        return self.units.replaced(prompt, positions.numpy(), units.numpy())

    def _moved(self, prompt: Spans, count: int) -> Ragged:
        ids, device = torch.tensor(prompt.ids), self._table.device
        centres = self._table[ids.to(device)].float()
        offsets = ball(count * len(ids), centres.shape[1], self._radius, self.context.generator)
        points = centres.repeat(count, 1) + offsets.to(device)
        return Ragged.from_rows(np.asarray(self._nearest(points).reshape(count, len(ids))))


def ball(count: int, width: int, radius: float, generator: torch.Generator) -> Tensor:
    """Draw points evenly from a ball around the origin.

    The direction of a Gaussian vector is even over the sphere, and the ``width``-th root of a
    uniform number is the distance that gives every shell its share of the volume.

    Returns:
        ``(count, width)`` float32.
    """
    directions = torch.randn((count, width), generator=generator)
    lengths = radius * torch.rand((count, 1), generator=generator) ** (1 / width)
    points: Tensor = torch.nn.functional.normalize(directions, dim=1) * lengths
    return points
