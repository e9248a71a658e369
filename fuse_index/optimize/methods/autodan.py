"""AutoDAN: write a readable prompt token by token, from left to right.

"AutoDAN: Interpretable Gradient-Based Adversarial Attacks on Large Language Models" (Zhu et al.
2023): the tokens tried in a position are those that a causal language model finds likely there
and the gradient of the objectives finds helpful. The source itself is the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fuse_index.errors import OptionError
from fuse_index.optimize.anchored import TokenAnchors
from fuse_index.optimize.anchors import AnchorOptions, AnchorSource
from fuse_index.optimize.hindsight import corrected, directions
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.merit import draw_ranked, merits_of, require_causal
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    require,
    shares,
)
from fuse_index.optimize.state import State
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.state import Ids

_SPARE = 8
"""Ranked tokens looked at for every candidate, so that those scored before can be left out."""


@dataclass(frozen=True)
class AutoDAN(AnchorOptions, MethodOptions):
    """Options of AutoDAN.

    One step writes one position of every prompt the search works on. A token's merit is its
    log-probability less ``weight`` times its predicted change of the loss, the latter in standard
    deviations over the tokens that may be used, so that the weight means the same for any losses.
    Tokens are drawn by merit and scored, and again with the gradient at the best of them, until no
    better one turns up or ``iterations`` times. The gradients of all iterations are averaged:
    taken at one token, the prediction for others is a poor one. Those of the anchors, which stand
    in the position before the first iteration, count besides.

    Attributes:
        length: tokens of the finished prompt, the initial ones included.
        search_width: candidates of one iteration, over all prompts the search works on.
        weight: of the gradient against the likelihood; 0 does without the gradient, which is the
            sampling of BEAST (Sadasivan et al. 2024).
        temperature: candidates are drawn without repeats with probabilities in proportion to
            ``exp(merit / temperature)``; 0 takes the best.
        iterations: rounds of candidates in one position, at most.
        sweeps: how often the finished prompt is gone over again from left to right, each token
            chosen anew with regard to those on both sides of it.
    """

    length: int = 16
    search_width: int = 256
    weight: float = 1.0
    temperature: float = 1.0
    iterations: int = 4
    sweeps: int = 0

    type: ClassVar[str] = "autodan"

    def __post_init__(self) -> None:
        require(self, length=1, search_width=1, weight=0, temperature=0, iterations=1, sweeps=0)
        self.check_anchors()

    @property
    def follows_gradient(self) -> bool:
        """Whether it needs an adapter for every model with other tokens than the source."""
        return self.weight > 0

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            ModelError: the source is not a causal language model.
            OptionError: an initial prompt is longer than the finished one.
        """
        source = require_causal(context.problem.source, self.type)
        longest = max(len(state.ids) for state in states)
        if longest > self.length:
            raise OptionError(
                f"autodan: an initial prompt of {longest} tokens with length={self.length}",
                expected="initial prompts no longer than the finished one",
            )
        return _AutoDANMethod(self, context, source)


@dataclass(eq=False)
class _Slot:
    """One position of one prompt, and what was tried there.

    Attributes:
        ids: ``(L,)`` int64, the prompt with the token that stands in the position now.
        position: which position.
        likelihoods: ``(V,)`` float32 on the CPU, log-probabilities of tokens in the position.
        taken: tokens at which the gradient was taken.
        gradient: ``(V,)`` float32 on the CPU, the sum of the predicted changes there.
        totals: scored tokens with the total of the prompt they make.
        open: whether the search goes on.
    """

    ids: Tensor
    position: int
    likelihoods: Tensor
    taken: set[int] = field(default_factory=set)
    gradient: Tensor | None = None
    totals: dict[int, float] = field(default_factory=dict)
    open: bool = True

    def with_tokens(self, tokens: Tensor) -> Tensor:
        """``(n, L)``: the prompt with each of ``n`` tokens in the position."""
        rows = self.ids.repeat(len(tokens), 1)
        rows[:, self.position] = tokens
        return rows

    def move(self) -> None:
        """Put the best token scored so far in the position; with none new, be done."""
        best = min(self.totals, key=lambda token: self.totals[token], default=None)
        self.open = best is not None and best not in self.taken
        if best is not None:
            self.ids[self.position] = best


class _AutoDANMethod(Method):
    def __init__(self, options: AutoDAN, context: Context, source: CausalModel) -> None:
        super().__init__(context)
        self.options = options
        self._allowed = torch.from_numpy(context.problem.allowed)
        self._likelihood = Likelihood(context.problem, source, context.gradients.spent)
        self._anchors = TokenAnchors(options, context)
        self._usable = torch.from_numpy(self._anchors.drawer.pool.values)
        self._swept = 0
        """Positions gone over since the prompts were finished."""

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        short = [state for state in states if len(state.ids) < self.options.length]
        if short:
            return Proposals(self._written(self._appended(short), most), grown=True)
        if self._swept >= self.options.sweeps * self.options.length:
            return None
        slots = self._revised(states, self._swept % self.options.length)
        self._swept += 1
        return Proposals(self._written(slots, most))

    def _appended(self, states: Sequence[State]) -> list[_Slot]:
        """Slots behind prompts; the likeliest token stands there first."""
        next_tokens = self._likelihood.next_tokens([state.ids for state in states])
        slots = []
        for state, own in zip(states, next_tokens, strict=True):
            usable = own.masked_fill(~self._allowed, -torch.inf)
            ids = torch.tensor([*state.ids, int(usable.argmax())])
            slots.append(_Slot(ids, len(state.ids), usable))
        return slots

    def _revised(self, states: Sequence[State], position: int) -> list[_Slot]:
        """Slots inside finished prompts; what stands there is a candidate too."""
        found = self._likelihood.tokens_within([state.ids for state in states], position)
        slots = []
        for state, own in zip(states, found, strict=True):
            usable = own.masked_fill(~self._allowed, -torch.inf)
            slot = _Slot(torch.tensor(state.ids), position, usable)
            slot.totals[state.ids[position]] = state.total
            slots.append(slot)
        return slots

    def _written(self, slots: list[_Slot], most: int | None) -> Ragged:
        """Search the slots' tokens; returns every prompt that was scored.

        The first iteration is never cut short: a step must make a prompt of every slot.
        """
        spent, width = self.context.gradients.spent, self.options.search_width
        end = None if most is None else spent.forward_passes + most
        for _ in range(self.options.iterations):
            working = [slot for slot in slots if slot.open]
            if not working or width < 1:
                break
            self._take_gradients(working)
            drawn = [
                self._draw(slot, count)
                for slot, count in zip(working, shares(width, len(working)), strict=True)
            ]
            self._score(working, drawn)
            if end is not None:
                width = min(width, end - spent.forward_passes)
        rows = [slot.with_tokens(torch.tensor(list(slot.totals))) for slot in slots if slot.totals]
        return Ragged.from_lists([row for part in rows for row in part.tolist()])

    def _take_gradients(self, slots: list[_Slot]) -> None:
        """Add each slot's own predicted change of the loss at the token that stands there now."""
        for slot in slots:
            slot.taken.add(int(slot.ids[slot.position]))
        if not self.options.follows_gradient:
            return
        prompts = Ragged.from_lists([slot.ids.tolist() for slot in slots])
        scores = self.context.gradients.tokens(prompts, self.context.weights)
        for slot, own in zip(slots, scores, strict=True):
            if slot.gradient is None:
                slot.gradient = self._at_anchors(slot)
            slot.gradient = slot.gradient + own[slot.position].cpu()

    def _at_anchors(self, slot: _Slot) -> Tensor:
        """``(V,)``: the sum of what is predicted from anchors, which the source may suggest."""
        options, anchors = self.options, self._anchors
        if not options.anchors or options.from_scored:
            return torch.zeros(len(self._allowed))
        ids, slots = tuple(slot.ids.tolist()), [slot.position]
        if options.anchor_source is AnchorSource.MODEL and options.anchor_places.own:
            likely = slot.likelihoods[self._usable][None]
            drawn = anchors.drawer.own(ids, np.arange(len(ids) + 1), slots, likely)
        else:
            drawn = anchors.draw(ids, slots)
        return anchors.scores(drawn, slots)[0].cpu() * len(drawn.rows)

    def _draw(self, slot: _Slot, count: int) -> Tensor:
        """Draw tokens by merit, those that are new and survive as text."""
        options = self.options
        change = self._with_hindsight(slot) if options.from_scored else slot.gradient
        merits = merits_of(slot.likelihoods, change, self._allowed, options.weight)
        ranked = draw_ranked(merits, _SPARE * count, options.temperature, self.context.generator)
        if not count or not len(ranked):
            return ranked[:0]
        rows = Ragged.from_lists(slot.with_tokens(ranked).tolist())
        new = torch.from_numpy(np.flatnonzero(self.context.is_new(rows))[:count])
        return ranked[new]

    def _with_hindsight(self, slot: _Slot) -> Tensor | None:
        """The predicted changes, corrected by the tokens scored in the slot."""
        if slot.gradient is None:
            return None
        known = list(slot.totals.items())[-self.options.anchors :]
        tokens = torch.tensor([token for token, _ in known], dtype=torch.int64)
        values = torch.tensor([total for _, total in known])
        units = self._units
        return corrected(slot.gradient.to(units.device), tokens, values, [units]).cpu()

    @cached_property
    def _units(self) -> Tensor:
        return directions(self.context.problem.source.table().detach())

    def _score(self, slots: list[_Slot], drawn: list[Tensor]) -> None:
        """Score the tokens drawn for each slot, and let it take the best."""
        rows: list[Ids] = []
        for slot, tokens in zip(slots, drawn, strict=True):
            rows += [tuple(row) for row in slot.with_tokens(tokens).tolist()]
        totals = iter(self.context.totals(Ragged.from_lists(rows)).tolist()) if rows else iter(())
        for slot, tokens in zip(slots, drawn, strict=True):
            scored = {token: next(totals) for token in tokens.tolist()}
            slot.totals |= {token: total for token, total in scored.items() if np.isfinite(total)}
            slot.move()

    def tensors(self) -> dict[str, Tensor]:
        return {"swept": torch.tensor(self._swept)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self._swept = int(tensors["swept"])
