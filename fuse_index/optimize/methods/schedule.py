"""Moves under a schedule: drafts, edits, combinations, rewriting, crossing, writing anew.

The schedule begins from sentences that the language model writes, and from the initial prompts. The
best prompts are edited: words are swapped, inserted and left out, and the best swaps are combined.
Where no edit helps any more, the language model continues beginnings of the best prompts or puts
phrases inside, and parts of other sentences are put where the same words stand around them. Where
that does not help either, another prompt is written from left to right by
:class:`~fuse_index.optimize.methods.autodan.AutoDAN` and improved in the same way. The words that
are tried are those that the language model finds likely and the gradients helpful.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fuse_index.common.options import Margin, NaturalWidth, NonNegative, Share, Width, options
from fuse_index.optimize.merit import UnitMerit
from fuse_index.optimize.methods.autodan import AutoDAN
from fuse_index.optimize.methods.base import Context, Method, MethodOptions, Proposals
from fuse_index.optimize.methods.beam_writing import BeamWriting
from fuse_index.optimize.methods.memory import PromptMemory
from fuse_index.optimize.methods.moves import (
    Ids,
    combinations_of_swaps,
    crossings,
    exchanges,
    grafts,
    joined,
    omissions,
    placed,
)
from fuse_index.optimize.state import Scored, State
from fuse_index.optimize.writing import LONGEST
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit
from fuse_index.words.ragged import Ragged

_STALE = 2
"""Remakes in a row without a better prompt, after which another is written."""
_IDLE = 64
"""Moves in a row that make nothing new, after which the schedule is finished."""
_BEST = 4
"""Prompts from which others are made."""
_GIVERS = 40
"""Sentences whose parts are put into the best."""
_COMBINED = 4
"""Swaps combined, at most."""
_PHRASE = 5
"""Words of the longest phrase that is put inside a prompt."""
_GRAFTED = 6
"""Words of the longest beginning or ending that is grafted."""


@options()
class Moves(MethodOptions):
    """Options of moves under a schedule; the source is a causal language model.

    A step makes one move. The schedule keeps the prompts it knows, so the search does not matter.

    Attributes:
        predictor: what predicts the change of the loss.
        weight: nats that one standard deviation of the predicted change counts against the
            log-probability of a word; 0 takes no gradient.
        drafts: sentences the language model writes first; at most a quarter of the passes is spent
            on them.
        grafts: sentences whose beginnings and endings are put before and behind the initial
            prompts.
        swaps: words tried in every position of a prompt.
        insertions: words tried in every gap.
        omissions: neighbouring words left out at once, at most.
        rewrites: sentences the language model writes where no edit helps.
        crossings: prompts made of parts of two, where that does not help either.
        length: words of a prompt that is written from left to right.
        beam: prompts that are written at once.
        search_width: words tried in one position, over the whole beam.
        temperature: of the words' merits, from the second writing on.
        margin: a writing ends where it is worse than its best by so much.
        residual_scale: factor of the gradient through the residual branches of every model, 1 as it
            is (LSGM); the losses stay as they are.
    """

    predictor: Predictor = Predictor.LAYERS
    weight: NonNegative = 2.0
    drafts: NaturalWidth = 192
    grafts: tuple[str, ...] = ()
    swaps: NaturalWidth = 4
    insertions: NaturalWidth = 3
    omissions: NaturalWidth = 2
    rewrites: NaturalWidth = 48
    crossings: NaturalWidth = 96
    length: Width = 17
    beam: Width = 4
    search_width: Width = 32
    temperature: NonNegative = 0.6
    margin: Margin = 0.8
    residual_scale: Share = 1.0

    type: ClassVar[str] = "moves"
    compares_steps: ClassVar[bool] = True

    @property
    def ranking(self) -> tuple[Unit, Predictor] | None:
        """What is ranked, and how; None without the gradient."""
        return (Unit.WORD, self.predictor) if self.weight else None

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            ModelError: the source is not a causal language model.
            OptionError: a model has no adapter that is needed, or there are no words.
        """
        return _ScheduleMethod(self, context, states)

    def writer(self, *, first: bool) -> AutoDAN:
        """Return the method that writes a prompt."""
        return AutoDAN(
            unit=Unit.WORD,
            predictor=self.predictor,
            length=self.length,
            search_width=self.search_width,
            weight=self.weight,
            temperature=0.0 if first else self.temperature,
            margin=self.margin,
            residual_scale=self.residual_scale,
        )


class _ScheduleMethod(Method):
    """The schedule as a machine of states: one move a step, decided by what is known."""

    def __init__(self, options: Moves, context: Context, states: Sequence[State]) -> None:
        super().__init__(context.scaled(options.residual_scale))
        self.options = options
        self.units = context.problem.word_units
        ranking = options.ranking
        predictor = None if ranking is None else ranking[1]
        self._merit = UnitMerit(self.context, self.units, predictor, options.weight, options.type)
        self._memory = PromptMemory(context.problem)
        self._memory.states = {state.ids: state for state in states}
        self._memory.written = dict.fromkeys(self._memory.states)
        self._initial = list(self._memory.states)
        self._allowed = torch.from_numpy(context.problem.allowed)
        self._writing: BeamWriting | None = None
        self._values: dict[str, Any] = {
            "phase": "graft" if options.grafts else "draft",
            "since": 0,  # prompts known before those that are improved now
            "stale": 0,  # remakes in a row without a better prompt
            "best": None,  # the best prompt before a remake
            "combine": None,  # the prompt that was edited last
            "writings": 0,
        }
        self._edited: set[Ids] = set()
        self._exchanged: set[Ids] = set()

    def observe(self, scored: Scored) -> None:
        self._memory.add(scored)
        if self._writing is not None:
            self._writing.observe(scored)

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        spent = self.context.gradients.spent
        end = None if most is None else spent.forward_passes + most
        left = most
        for _ in range(_IDLE):
            phase = self._values["phase"]
            found = self._write(left) if phase == "write" else None
            rows = [] if phase == "write" else self._memory.fresh(self._next(phase, left))
            if end is not None:
                left = end - spent.forward_passes  # less what the move itself has cost
                rows = rows[: max(left // self.context.passes(), 1)]
            if found is not None or rows or (left is not None and left < 1):
                return found or Proposals(Ragged.from_lists(rows))
        return None

    def _next(self, phase: str, most: int | None) -> list[Ids]:
        """Decide on a move, and return the prompts it makes."""
        if phase in ("graft", "draft"):
            self._values["phase"] = "improve"
            return self._grafted() if phase == "graft" else self._drafted(most)
        return self._improved(most)

    def _drafted(self, most: int | None) -> list[Ids]:
        count = self.options.drafts
        if most is not None:
            # a draft costs a pass to write and one to score
            count = min(count, most // (4 * (1 + self.context.passes())))
        return self._sentences([()] * count) if count else []

    def _grafted(self) -> list[Ids]:
        problem = self.context.problem
        givers = self._memory.cut([problem.encode(text) for text in self.options.grafts])
        return [
            row for ids in self._initial for giver in givers for row in grafts(ids, giver, _GRAFTED)
        ]

    def _improved(self, most: int | None) -> list[Ids]:
        """One move that may better the prompts of this round; or begin another round."""
        values, memory = self._values, self._memory
        if values["combine"] is not None:
            ids, values["combine"] = tuple(values["combine"]), None
            return self._combined(ids)
        best = memory.best(_BEST, values["since"])
        if values["best"] is not None:
            better = best[:1] != [tuple(values["best"])]
            values["stale"], values["best"] = 0 if better else values["stale"] + 1, None
        if not best or values["stale"] >= _STALE:
            values["phase"] = "write"
            return []
        fresh = [ids for ids in best[:2] if ids not in self._edited]
        if fresh:
            self._edited.add(fresh[0])
            values["combine"] = fresh[0]
            return self._edits(fresh[0])
        if best[0] not in self._exchanged:
            self._exchanged.add(best[0])
            return exchanges(memory.cut([best[0]])[0])
        values["best"] = best[0]
        return self._crossed(best) if values["stale"] % 2 else self._rewritten(best, most)

    def _edits(self, ids: Ids) -> list[Ids]:
        """Swaps, insertions and omissions of one prompt."""
        options, prompt = self.options, self.units.spans(ids)
        words = self._memory.cut([ids])[0]
        rows: list[Ids] = []
        if options.swaps:
            best = self._best_units(self._merit.instead(prompt), options.swaps)
            rows += placed(words, best, taken=1)
        if options.insertions:
            best = self._best_units(self._merit.between(prompt), options.insertions)
            rows += placed(words, best, taken=0)
        return rows + omissions(words, options.omissions)

    def _best_units(self, merits: Tensor, count: int) -> list[list[Ids]]:
        best = merits.topk(min(count, merits.shape[1]), dim=1).indices.tolist()
        source = self.units.source
        return [[tuple(source[unit].tolist()) for unit in own] for own in best]

    def _combined(self, ids: Ids) -> list[Ids]:
        better = self._memory.better_than(ids)
        cut = self._memory.cut([ids, *(state.ids for state in better)])
        totals = [state.total for state in better]
        return combinations_of_swaps(cut[0], list(zip(cut[1:], totals, strict=True)), _COMBINED)

    def _rewritten(self, best: Sequence[Ids], most: int | None) -> list[Ids]:
        """Continue beginnings of the best prompts, in other words.

        A third of the beginnings are whole prompts. Of every second sentence only a few words are
        taken, and what stood behind them stays, with up to three of its words left out.
        """
        count = self.options.rewrites
        if most is not None:
            count = min(count, max(most // (1 + self.context.passes()), 1))  # to write, to score
        if not count:
            return []
        sources = self._memory.cut(best)
        starts = []
        for index in range(count):
            own = sources[index % len(sources)]
            starts.append((own, min(self._draw(len(own) + max(1, len(own) // 2)), len(own))))
        written = self._written([joined(own[:cut]) for own, cut in starts])
        rows: list[Ids] = []
        for index, ((own, cut), ids) in enumerate(zip(starts, written, strict=True)):
            if ids is None:
                continue
            if index % 2:
                phrase = self._memory.cut([ids])[0][cut : cut + 1 + self._draw(_PHRASE)]
                rows.append(joined([*own[:cut], *phrase, *own[cut + self._draw(4) :]]))
            else:
                rows.append(ids)
        self._memory.written |= dict.fromkeys(row for row in rows if row)
        return rows

    def _crossed(self, best: Sequence[Ids]) -> list[Ids]:
        """Put parts of sentences into the best prompts; some of all the ways, drawn."""
        memory = self._memory
        givers = memory.cut(memory.best_written(_GIVERS))
        rows = [
            row for own in memory.cut(best) for giver in givers for row in crossings(own, giver)
        ]
        rows = memory.fresh(rows)
        order = torch.randperm(len(rows), generator=self.context.generator)
        return [rows[index] for index in order[: self.options.crossings].tolist()]

    def _sentences(self, starts: Sequence[Ids]) -> list[Ids]:
        rows = [ids for ids in self._written(starts) if ids is not None]
        self._memory.written |= dict.fromkeys(rows)
        return rows

    def _written(self, starts: Sequence[Ids]) -> list[Ids | None]:
        """Let the language model write to the end of a sentence; one forward pass each."""
        spent, likelihood = self.context.gradients.spent, self._merit.likelihood
        spent.predicted += len(starts)
        rows = self.context.problem.runner.written(
            likelihood.source,
            starts,
            self.context.generator,
            prefix=likelihood.surroundings,
            allowed=self._allowed,
        )
        read = sum(LONGEST if row is None else len(row) for row in rows)
        around = len(likelihood.surroundings.frame.head) + len(likelihood.surroundings.before)
        spent.read(likelihood.source, read + around * len(rows))
        return rows

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self.context.generator))

    def _write(self, most: int | None) -> Proposals | None:
        """One step of writing a prompt from left to right; None where the writing has ended."""
        values = self._values
        if self._writing is None:
            values["since"] = len(self._memory)
            options = self.options.writer(first=values["writings"] == 0)
            values["writings"] += 1
            self._writing = BeamWriting(options, self.options.beam, self.context)
            first = self._first_words()
            known = [self._memory.states[row] for row in first if row in self._memory]
            fresh = self._memory.fresh(first)
            self._writing.known = known
            if fresh:
                return Proposals(Ragged.from_lists(fresh))
        found = self._writing.propose(most)
        if found is None:
            self._writing = None
            values["phase"], values["stale"] = "improve", 0
            self._edited.clear()
            self._exchanged.clear()
            if len(self._memory) == values["since"]:
                values["since"] = 0  # nothing new was written: improve what is known
        return found

    def _first_words(self) -> list[Ids]:
        """The words that the language model begins with, the likeliest ones."""
        units = self.units
        likely = self._merit.likelihood.along((int(units.firsts[0]),))[0, units.firsts]
        best = likely.topk(min(self.options.search_width, len(units))).indices.tolist()
        return [tuple(units.source[word].tolist()) for word in best]

    def tensors(self) -> dict[str, Tensor]:
        writing = self._writing
        values = {
            **self._values,
            "edited": sorted(self._edited),
            "exchanged": sorted(self._exchanged),
            "writing": None if writing is None else writing.to_json(),
        }
        text = torch.from_numpy(np.frombuffer(json.dumps(values).encode(), np.uint8).copy())
        inner = {} if writing is None else writing.tensors()
        return {"values": text, **self._memory.tensors(), **inner}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        values = json.loads(tensors["values"].numpy().tobytes())
        self._edited = {tuple(ids) for ids in values.pop("edited")}
        self._exchanged = {tuple(ids) for ids in values.pop("exchanged")}
        inner = values.pop("writing")
        self._values = values
        self._memory.load_tensors(tensors)
        self._writing = None
        if inner is not None:
            options = self.options.writer(first=values["writings"] == 1)
            self._writing = BeamWriting(options, self.options.beam, self.context)
            self._writing.load(inner, tensors)
