"""GCG: swap tokens for those that the gradient ranks best.

Greedy Coordinate Gradient (Zou et al. 2023, "Universal and Transferable Adversarial Attacks on
Aligned Language Models"), here with the summed gradient of models with different tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import OptionError
from fuse_index.optimize.anchored import TokenAnchors
from fuse_index.optimize.anchors import AnchorOptions
from fuse_index.optimize.hindsight import Hindsight
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    packed,
    require,
    rows_of,
    shares,
)
from fuse_index.optimize.state import State

if TYPE_CHECKING:
    from torch import Tensor


_SPARE = 8
"""Ranked swaps looked at for every candidate, so that those scored before can be left out."""


class Draw(str, Enum):
    """Which of the ranked swaps become candidates."""

    UNIFORM = "uniform"
    """Any position, and any of its ``top_k`` best tokens, as in GCG."""
    BEST = "best"
    """Those with the best predicted change, over all positions, that were not scored yet; only for
    one swap at a time."""


@dataclass(frozen=True)
class GCG(AnchorOptions, MethodOptions):
    """Options of greedy coordinate gradient.

    Attributes:
        search_width: candidates of one step, over all prompts the search works on.
        top_k: tokens of each position that swaps are drawn from.
        n_replace: tokens swapped in each candidate.
        draw: how swaps are drawn.
        places: positions of the prompt that a step works on, drawn at random; None takes all. With
            anchors of their own, every position costs their gradients: work on few.
    """

    search_width: int = 512
    top_k: int = 256
    n_replace: int = 1
    draw: Draw = Draw.UNIFORM
    places: int | None = None

    type: ClassVar[str] = "gcg"

    def __post_init__(self) -> None:
        require(self, search_width=1, top_k=1, n_replace=1)
        if self.places is not None:
            require(self, places=1)
        self.check_anchors()
        object.__setattr__(self, "draw", as_choice(self, "draw", Draw))
        if self.draw is Draw.BEST and self.n_replace != 1:
            raise OptionError(f"gcg: draw 'best' with n_replace={self.n_replace}", expected="1")

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        return _GCGMethod(self, context)


def as_choice(options: MethodOptions, name: str, choices: type[Enum]) -> Enum:
    """Return an option given as a string as its enum.

    Raises:
        OptionError: it is none of the choices.
    """
    value = getattr(options, name)
    try:
        return choices(value)
    except ValueError:
        raise OptionError(
            f"{options.type}: {name} {value!r}",
            expected="one of " + ", ".join(str(choice.value) for choice in choices),
        ) from None


class _GCGMethod(Method):
    def __init__(self, options: GCG, context: Context) -> None:
        super().__init__(context)
        self.options = options
        allowed = torch.from_numpy(context.problem.allowed)
        self._allowed = allowed.to(context.problem.source.device)
        self._anchors = TokenAnchors(options, context)
        self._hindsight = Hindsight(context, options.anchors) if options.from_scored else None

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        context, options = self.context, self.options
        width = options.search_width if most is None else min(options.search_width, max(most, 1))
        rows = []
        if self._hindsight is not None:
            self._hindsight.learn(states[0].ids)
        chosen = [random_places(len(state.ids), options.places, context) for state in states]
        scored = zip(states, chosen, self._scores(states, chosen), strict=True)
        for (state, slots, own), count in zip(scored, shares(width, len(states)), strict=True):
            ids = torch.tensor(state.ids)
            if options.draw is Draw.BEST:
                rows.append(self._fresh(best_swaps(ids, own, _SPARE * count, slots), count))
            else:
                top = top_tokens(own, options.top_k)
                drawn = sample_swaps(
                    ids, top, count, options.n_replace, context.generator, slots=slots
                )
                rows.append(drawn.numpy())
            self._note(state, rows[-1])
        return Proposals(packed(rows))

    def _scores(self, states: Sequence[State], chosen: list[list[int]]) -> list[Tensor]:
        """``(S, V)`` for each prompt: predicted changes in its places, infinite where forbidden."""
        context, options = self.context, self.options
        if options.anchors and self._hindsight is None:
            found = [
                self._anchors.scores(self._anchors.draw(state.ids, slots), slots)
                for state, slots in zip(states, chosen, strict=True)
            ]
        else:
            scores = context.gradients.tokens(rows_of(states), context.weights)
            found = [own[slots] for own, slots in zip(scores, chosen, strict=True)]
        if self._hindsight is not None:
            found = [self._corrected(own, slots) for own, slots in zip(found, chosen, strict=True)]
        return [own.masked_fill(~self._allowed, float("inf")) for own in found]

    def _corrected(self, scores: Tensor, slots: list[int]) -> Tensor:
        """``(S, V)``: what is predicted, corrected by the tokens scored in each place."""
        assert self._hindsight is not None
        table = self.context.problem.source.table().detach()
        rows = [
            self._hindsight.correct(slot, own, [table])
            for slot, own in zip(slots, scores, strict=True)
        ]
        return torch.stack(rows)

    def _note(self, state: State, rows: NDArray[np.int64]) -> None:
        """Note the candidates with a single swap, so that they can be learned from."""
        if self._hindsight is None:
            return
        changed = rows != np.array(state.ids)
        for row in np.flatnonzero(changed.sum(axis=1) == 1):
            slot = int(changed[row].argmax())
            self._hindsight.note(rows[row].tolist(), slot, int(rows[row, slot]), state.total)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._hindsight is None else self._hindsight.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self._hindsight is not None:
            self._hindsight.load_tensors(tensors)

    def _fresh(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The first rows that are new; where the spare ones do not do, the first of all."""
        new = np.flatnonzero(self.context.is_new(packed([rows])))[:count]
        return rows[new] if len(new) else rows[:count]


def random_places(count: int, most: int | None, context: Context) -> list[int]:
    """Draw at most ``most`` of ``count`` places; all of them, in order, without a limit."""
    if most is None or most >= count:
        return list(range(count))
    chosen: list[int] = torch.randperm(count, generator=context.generator)[:most].tolist()
    return chosen


def top_tokens(scores: Tensor, top_k: int) -> Tensor:
    """Return the tokens with the lowest scores in each position.

    Args:
        scores: ``(L, V)``, infinite where a token may not be used.
        top_k: tokens a position, fewer where fewer may be used.

    Returns:
        ``(L, at most top_k)`` int64 on the CPU, the best first.
    """
    usable = int(torch.isfinite(scores[0]).sum()) if len(scores) else 0
    return (-scores).topk(min(top_k, usable), dim=1).indices.cpu()


def sample_swaps(
    ids: Tensor,
    top: Tensor,
    count: int,
    n_replace: int,
    generator: torch.Generator,
    *,
    slots: Sequence[int] | None = None,
) -> Tensor:
    """Draw candidates that swap tokens in random positions for random ones of the best.

    Args:
        ids: ``(L,)`` the prompt.
        top: ``(S, k)`` tokens each position may get.
        count: candidates.
        n_replace: swaps in each; at most S.
        generator: of the random numbers; see :func:`sample_ranks`.
        slots: ``S`` positions of the prompt; all of them by default.

    Returns:
        ``(count, L)`` int64.
    """
    positions, tokens = sample_ranks(top, count, n_replace, generator)
    if slots is not None:
        positions = torch.tensor(slots)[positions]
    return ids.repeat(count, 1).scatter_(1, positions, tokens)


def sample_ranks(
    top: Tensor, count: int, n_replace: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw random positions, and for each one of its best.

    The draws are those of GCG, in this order: one uniform number for every candidate and position,
    whose ``n_replace`` smallest are swapped, then one rank for every swap.

    Args:
        top: ``(L, k)`` what each position may get.
        count: candidates.
        n_replace: positions of each; at most L.
        generator: of the random numbers.

    Returns:
        Positions and what they get, each ``(count, n_replace)`` int64.
    """
    length, k = top.shape
    order = torch.rand((count, length), generator=generator)
    positions = torch.argsort(order)[..., : min(n_replace, length)]
    ranks = torch.randint(0, k, (count, positions.shape[1], 1), generator=generator)
    return positions, top[positions, ranks.squeeze(2)]


def best_swaps(
    ids: Tensor, scores: Tensor, count: int, slots: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Return the candidates whose single swap has the best predicted change.

    Args:
        ids: ``(L,)`` the prompt.
        scores: ``(S, V)``, infinite where a token may not be used.
        count: candidates.
        slots: ``S`` positions of the prompt; all of them by default.

    Returns:
        ``(at most count, L)`` int64, the best first.
    """
    places = torch.arange(len(ids)) if slots is None else torch.tensor(slots)
    here = ids[places].to(scores.device)[:, None]
    change = scores - scores.nan_to_num(posinf=0.0).gather(1, here)
    change = change.scatter(1, here, float("inf"))
    count = min(count, int(torch.isfinite(change).sum()))
    best = (-change.flatten()).topk(count).indices.cpu()
    positions, tokens = places[best // scores.shape[1]], best % scores.shape[1]
    rows = ids.repeat(count, 1).scatter_(1, positions[:, None], tokens[:, None])
    found: NDArray[np.int64] = rows.numpy()
    return found
