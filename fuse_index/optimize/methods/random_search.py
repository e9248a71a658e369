"""Random search: candidates near the current prompt, without any gradient.

Near means few tokens away (the L0 ball) or a short way in the space of embeddings (the L2 ball).
It is what methods with a gradient are compared with, and works with objectives that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.errors import OptionError
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    packed,
    require,
    shares,
)
from fuse_index.optimize.methods.gcg import as_choice
from fuse_index.optimize.nearest import Distance, NearestTokens
from fuse_index.optimize.state import State

if TYPE_CHECKING:
    from torch import Tensor


class Norm(str, Enum):
    """What near means."""

    L0 = "l0"
    """Few tokens differ."""
    L2 = "l2"
    """The embeddings are moved a little, and projected back to tokens."""


@dataclass(frozen=True)
class RandomSearch(MethodOptions):
    """Options of random search.

    Attributes:
        search_width: candidates of one step, over all prompts the search works on.
        norm: what near means.
        n_replace: tokens replaced in each candidate; for ``l0``.
        radius: of the ball around each token's embedding that points are drawn from; for ``l2``.
        relative: whether the radius is in units of ``sqrt(width) / 2`` times the median distance of
            a token to its nearest neighbour. In such a ball of radius 1, points differ from its
            centre along any one direction by half that distance (standard deviation), which is
            where a neighbour becomes the nearer one. Else it is a length in the space of
            embeddings.
    """

    search_width: int = 512
    norm: Norm = Norm.L0
    n_replace: int = 1
    radius: float = 0.6
    relative: bool = True

    type: ClassVar[str] = "random"
    uses_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self, search_width=1, n_replace=1)
        object.__setattr__(self, "norm", as_choice(self, "norm", Norm))
        if not self.radius > 0:
            raise OptionError(f"random: radius={self.radius}", expected="more than 0")

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        return _RandomMethod(self, context)


class _RandomMethod(Method):
    def __init__(self, options: RandomSearch, context: Context) -> None:
        super().__init__(context)
        self.options = options
        problem = context.problem
        self._allowed = torch.from_numpy(problem.allowed).nonzero()[:, 0]
        if options.norm is Norm.L2:
            self._nearest = NearestTokens(problem, Distance.EUCLIDEAN)
            self._table = problem.source.table().detach()
            self._radius = options.radius
            if options.relative:
                unit = self._nearest.neighbour_distance * self._table.shape[1] ** 0.5 / 2
                self._radius *= unit

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        options = self.options
        width = options.search_width if most is None else min(options.search_width, max(most, 1))
        draw = self._replaced if options.norm is Norm.L0 else self._moved
        rows = [
            draw(torch.tensor(state.ids), count).numpy()
            for state, count in zip(states, shares(width, len(states)), strict=True)
        ]
        return Proposals(packed(rows))

    def _replaced(self, ids: Tensor, count: int) -> Tensor:
        options = self.options
        return replace_tokens(ids, self._allowed, count, options.n_replace, self.context.generator)

    def _moved(self, ids: Tensor, count: int) -> Tensor:
        device = self._table.device
        centres = self._table[ids.to(device)].float()
        offsets = ball(count * len(ids), centres.shape[1], self._radius, self.context.generator)
        points = centres.repeat(count, 1) + offsets.to(device)
        return self._nearest(points).reshape(count, len(ids))


def replace_tokens(
    ids: Tensor, allowed: Tensor, count: int, n_replace: int, generator: torch.Generator
) -> Tensor:
    """Draw candidates that have random tokens in random positions.

    Args:
        ids: ``(L,)`` the prompt.
        allowed: ``(m,)`` tokens that may be used.
        count: candidates.
        n_replace: positions that get a random token; at most L.
        generator: of the random numbers.

    Returns:
        ``(count, L)`` int64.
    """
    length = len(ids)
    order = torch.rand((count, length), generator=generator)
    positions = torch.argsort(order)[:, : min(n_replace, length)]
    tokens = allowed[torch.randint(0, len(allowed), positions.shape, generator=generator)]
    return ids.repeat(count, 1).scatter_(1, positions, tokens)


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
