"""AutoDAN: write a readable prompt from left to right, token by token or word by word.

"AutoDAN: Interpretable Gradient-Based Adversarial Attacks on Large Language Models" (Zhu et al.
2023): the units tried in a position are those that a causal language model finds likely there and
the gradient of the objectives finds helpful. The source itself is the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fuse_index.common.options import Margin, NaturalWidth, NonNegative, Share, Width, options
from fuse_index.errors import OptionError
from fuse_index.optimize.merit import UnitMerit, draw_ranked, merits_of
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals, shares
from fuse_index.optimize.state import Ids, State
from fuse_index.predict.predictor import require_predictor
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit, Units
from fuse_index.words.ragged import Ragged

_SPARE = 8
"""Ranked units looked at for every candidate, so that those scored before can be left out."""


@options()
class AutoDAN(MethodOptions):
    """Options of AutoDAN.

    One step writes one position of every prompt the search works on. The merit of a unit is its
    log-probability less ``weight`` times its predicted change of the loss, the latter in standard
    deviations over the units. Units are drawn by merit and scored; then the gradient is taken
    again at the best of them, until no better one turns up or ``iterations`` times. The gradients
    of all iterations are averaged: one unit predicts poorly for others. Give it a beam.

    Attributes:
        unit: what is written, tokens or words.
        predictor: what predicts the change of the loss; by default ``adapter`` for tokens,
            ``layers`` for words.
        length: units of the finished prompt, the initial ones included.
        search_width: candidates of one iteration, over all prompts the search works on; by default
            256 tokens, 32 words.
        weight: nats that one standard deviation of the predicted change counts against the
            log-probability, by default 1 for tokens, 2 for words; 0 takes no gradient, which is
            the sampling of BEAST (Sadasivan et al. 2024).
        temperature: candidates are drawn without repeats with probabilities in proportion to
            ``exp(merit / temperature)``; 0 takes the best. By default 1 for tokens, 0 for words.
        iterations: rounds of candidates in one position, at most; by default 4 for tokens, 1 for
            words, whose first gradient is taken with the mean word in the position.
        sweeps: how often the finished prompt is revised from left to right, each unit chosen anew
            with regard to those on both sides of it.
        margin: the writing ends once the best of the prompts just written is worse than the best
            so far by more than this, in units of the total loss; None writes to the last position.
        residual_scale: factor of the gradient through the residual branches of every model, 1 as it
            is (LSGM); the losses stay as they are.
    """

    unit: Unit = Unit.TOKEN
    predictor: Predictor | None = None
    length: Width = 16
    search_width: Width | None = None
    weight: NonNegative | None = None
    temperature: NonNegative | None = None
    iterations: Width | None = None
    sweeps: NaturalWidth = 0
    margin: Margin | None = None
    residual_scale: Share = 1.0

    type: ClassVar[str] = "autodan"

    def __post_init__(self) -> None:
        words = self.unit is Unit.WORD
        self.fill(
            predictor=Predictor.LAYERS if words else Predictor.ADAPTER,
            search_width=32 if words else 256,
            weight=2.0 if words else 1.0,
            temperature=0.0 if words else 1.0,
            iterations=1 if words else 4,
        )
        assert self.predictor is not None
        require_predictor(self.unit, self.predictor)

    @property
    def ranking(self) -> tuple[Unit, Predictor] | None:
        """What is ranked, and how; None without the gradient."""
        assert self.predictor is not None
        return (self.unit, self.predictor) if self.weight else None

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            ModelError: the source is not a causal language model.
            OptionError: an initial prompt is longer than the finished one.
        """
        method = _AutoDANMethod(self, context)
        longest = max(len(method.units.spans(state.ids)) for state in states)
        if longest > self.length:
            raise OptionError(
                f"autodan: an initial prompt of {longest} {self.unit.value}s with "
                f"length={self.length}",
                expected="initial prompts no longer than the finished one",
            )
        return method


@dataclass(eq=False)
class _Slot:
    """One position of one prompt, and what was tried there.

    Attributes:
        before: ids before the position.
        after: ids behind it.
        position: index of the position among the units.
        likelihoods: ``(N,)`` float32 on the CPU, log-probabilities of units in the position.
        standing: ids in the position now; empty before the first unit of an appended position.
        taken: ids at which the gradient was taken.
        gradients: ``(N,)`` float32 on the CPU, the sum of the predicted changes there.
        totals: scored units with the total of the prompt they make.
        open: whether the search continues.
    """

    before: Ids
    after: Ids
    position: int
    likelihoods: Tensor
    standing: Ids
    taken: set[Ids] = field(default_factory=set)
    gradients: Tensor | None = None
    totals: dict[int, float] = field(default_factory=dict)
    own_total: float = float("inf")
    open: bool = True

    def with_ids(self, ids: Sequence[int]) -> Ids:
        """The prompt with ids in the position."""
        return (*self.before, *ids, *self.after)

    def move(self, units: Units) -> None:
        """Put the best unit scored so far in the position; close the slot if it is not new."""
        best = min(self.totals, key=lambda unit: self.totals[unit], default=None)
        if best is None or self.totals[best] >= self.own_total:
            self.open = False
            return
        ids = tuple(units.source[best].tolist())
        self.open = ids not in self.taken
        self.standing = ids


class _AutoDANMethod(Method):
    def __init__(self, options: AutoDAN, context: Context) -> None:
        super().__init__(context.scaled(options.residual_scale))
        self.options = options
        self.units = context.problem.units(options.unit)
        predictor = options.ranking[1] if options.ranking else None
        weight = float(options.weight or 0)
        self._merit = UnitMerit(self.context, self.units, predictor, weight, options.type)
        self._swept = 0
        """Positions revised since the prompts were finished."""
        self._best = float("inf")

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        options, sizes = self.options, [len(self.units.spans(state.ids)) for state in states]
        pairs = zip(states, sizes, strict=True)
        short = [(state, size) for state, size in pairs if size < options.length]
        if short:
            if self._hopeless(states):
                return None
            return Proposals(self._written(self._appended(short), most), grown=True)
        if self._swept >= options.sweeps * options.length:
            return None
        slots = self._revised(states, self._swept % options.length)
        self._swept += 1
        return Proposals(self._written(slots, most))

    def _hopeless(self, states: Sequence[State]) -> bool:
        """Whether the prompts written last are worse than the best by more than the margin."""
        now = min(state.total for state in states)
        self._best = min(self._best, now)
        return self.options.margin is not None and now > self._best + self.options.margin

    def _appended(self, states: Sequence[tuple[State, int]]) -> list[_Slot]:
        """Slots behind prompts; for tokens the likeliest stands there first."""
        next_tokens = self._merit.likelihood.next_tokens([state.ids for state, _ in states])
        slots = []
        for (state, size), own in zip(states, next_tokens[:, self.units.firsts], strict=True):
            first: Ids = ()
            if self.options.unit is Unit.TOKEN:
                first = tuple(self.units.source[int(own.argmax())].tolist())
            slots.append(_Slot(state.ids, (), size, own, first))
        return slots

    def _revised(self, states: Sequence[State], position: int) -> list[_Slot]:
        """Slots inside finished prompts; the unit that stands there is a candidate too."""
        prompts = [self.units.spans(state.ids) for state in states]
        likelihood = self._merit.likelihood
        if self.options.unit is Unit.TOKEN:
            found = likelihood.tokens_within([state.ids for state in states], position)
        else:
            rows = [likelihood.along(own.ids)[int(own.offsets[position])] for own in prompts]
            found = torch.stack(rows)
        slots = []
        for state, prompt, own in zip(states, prompts, found, strict=True):
            begin, end = (int(at) for at in prompt.offsets[position : position + 2])
            standing = state.ids[begin:end]
            likely = own[self.units.firsts]
            slot = _Slot(state.ids[:begin], state.ids[end:], position, likely, standing)
            slot.own_total = state.total
            slots.append(slot)
        return slots

    def _written(self, slots: list[_Slot], most: int | None) -> Ragged:
        """Search the units of the slots; returns every prompt that was scored.

        The first iteration is never cut short: a step must make a prompt of every slot.
        """
        options, spent = self.options, self.context.gradients.spent
        assert options.search_width is not None
        assert options.iterations is not None
        width = options.search_width
        end = None if most is None else spent.forward_passes + most
        for _ in range(options.iterations):
            working = [slot for slot in slots if slot.open]
            if not working or width < 1:
                break
            self._take_gradients(working)
            counts = shares(max(width, len(working)), len(working))
            drawn = [self._draw(slot, n) for slot, n in zip(working, counts, strict=True)]
            self._score(working, drawn)
            if end is not None:
                width = min(width, (end - spent.forward_passes) // self.context.passes())
        rows = [slot.with_ids(self.units.source[u].tolist()) for slot in slots for u in slot.totals]
        return Ragged.from_lists(rows)

    def _take_gradients(self, slots: list[_Slot]) -> None:
        """Add the changes predicted at the units that stand in the slots now."""
        mean = not slots[0].standing
        filler = self.units.source[0].tolist()
        rows = [slot.with_ids(slot.standing or filler) for slot in slots]
        positions = np.array([slot.position for slot in slots], dtype=np.int64)
        for slot in slots:
            slot.taken.add(slot.standing)
        found = self._merit.changes(Ragged.from_lists(rows), positions, mean=mean)
        for slot, own in zip(slots, () if found is None else found, strict=found is not None):
            slot.gradients = own if slot.gradients is None else slot.gradients + own

    def _draw(self, slot: _Slot, count: int) -> Tensor:
        """Draw units by merit, those that are new and survive as text."""
        options = self.options
        merits = merits_of(slot.likelihoods, slot.gradients, self._merit.weight)
        temperature = float(options.temperature or 0)
        ranked = draw_ranked(merits, _SPARE * count, temperature, self.context.generator)
        if not count or not len(ranked):
            return ranked[:0]
        rows = [slot.with_ids(self.units.source[unit].tolist()) for unit in ranked.tolist()]
        new = np.flatnonzero(self.context.is_new(Ragged.from_lists(rows)))[:count]
        return ranked[torch.from_numpy(new)]

    def _score(self, slots: list[_Slot], drawn: list[Tensor]) -> None:
        """Score the units drawn for each slot, and move it to the best."""
        rows = [
            slot.with_ids(self.units.source[unit].tolist())
            for slot, units in zip(slots, drawn, strict=True)
            for unit in units.tolist()
        ]
        totals = iter(self.context.totals(Ragged.from_lists(rows)).tolist()) if rows else iter(())
        for slot, units in zip(slots, drawn, strict=True):
            scored = {unit: next(totals) for unit in units.tolist()}
            slot.totals |= {unit: total for unit, total in scored.items() if np.isfinite(total)}
            slot.move(self.units)

    def change_items(self) -> None:
        self._best = float("inf")

    def tensors(self) -> dict[str, Tensor]:
        best = torch.tensor(self._best, dtype=torch.float64)
        return {"swept": torch.tensor(self._swept), "best": best}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self._swept = int(tensors["swept"])
        self._best = float(tensors["best"])
