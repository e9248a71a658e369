"""One run of a method: propose, filter, score, keep; and its state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.common.options import Seed, Width, options
from fuse_index.common.versions import package_versions
from fuse_index.errors import OptionError
from fuse_index.objectives.base import Loss
from fuse_index.optimize.budget import Budget, Stop
from fuse_index.optimize.contents import contents_of
from fuse_index.optimize.items import ActiveItems
from fuse_index.optimize.methods.base import Context, MethodOptions, Proposals
from fuse_index.optimize.probe import Probe, ProbeSampler
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.record import Record
from fuse_index.optimize.result import Point, Result
from fuse_index.optimize.scoring import Scorer, distinct_rows
from fuse_index.optimize.search import SearchOptions
from fuse_index.optimize.state import Ids, Losses, Scored, State, require_ids
from fuse_index.optimize.survival import PromptCheck
from fuse_index.optimize.valuation import Valuation
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

_STALE_STEPS = 100
"""Steps in a row without a prompt that is new, after which a run has come to its end."""


@options(label="options")
class RunOptions:
    """Options of a run that are neither its method's nor its search's.

    Attributes:
        seed: decides every random draw.
        batch_size: prompts of one forward pass, at most; None chooses by device.
        check_retokenization: whether prompts must survive being read as text
            (:mod:`fuse_index.optimize.survival`).
        balance: whether the weights are scaled so that at the initial prompts every term's gradient
            counts as its weight says.
        early_stop: whether the run ends once the model continues the best prompt with the target
            of every continuation, each of its tokens being the likeliest.
        pareto_size: prompts kept of the Pareto front.
        remember: scored prompts that are remembered.
        cuda_graphs: whether a GPU records what it does for batches of one shape and replays it,
            which is several times as fast where passes are small, and keeps their memory.
    """

    seed: Seed = 0
    batch_size: Width | None = None
    check_retokenization: bool = True
    balance: bool = False
    early_stop: bool = False
    pareto_size: Width = 64
    remember: Width = 1 << 17
    cuda_graphs: bool = True


class Run:
    """A run of one method and one search on one problem.

    Args:
        problem: what is optimized.
        initial: prompts to begin from, as source ids.
        method: how candidates are proposed.
        search: which prompts are kept.
        options: the rest.
        probe: the draft of probe sampling, None without it.
        chosen: one line on what was chosen for what was not given, for the result.

    Raises:
        OptionError: there is no initial prompt, or one has ids that are no tokens; or the method
            needs a gradient and no term has one, or a model has no adapter; or it compares losses
            of different steps, and the items that count change.
        LossError: a loss of an initial prompt is not finite.
    """

    def __init__(
        self,
        problem: Problem,
        initial: Sequence[Ids],
        *,
        method: MethodOptions,
        search: SearchOptions,
        options: RunOptions,
        probe: Probe | None = None,
        chosen: str = "",
    ) -> None:
        self.problem = problem
        self.chosen = chosen
        self.options = options
        self._method_options, self._search_options = method, search
        self.initial = tuple(tuple(ids) for ids in initial)
        _require_request(problem, self.initial, options)
        self.spent = Spent()
        for loss in problem.losses:
            loss.graphs.enabled = options.cuda_graphs and loss.recordable
        self.generator = torch.Generator().manual_seed(options.seed)
        self.scorer = Scorer(
            problem, self.spent, batch_size=options.batch_size, remember=options.remember
        )
        self.probe = None if probe is None else ProbeSampler(probe, self.scorer, self.generator)
        self.gradients = Gradients(
            problem, self.spent, batch_size=options.batch_size, joint=problem.runner
        )
        self.check = PromptCheck(problem)
        kept = self.check if options.check_retokenization else None
        self.valuation = Valuation(problem, self.scorer, kept)
        self.items = self.valuation.items
        _require_method(method, self.items)
        if method.ranking is not None:
            self.gradients.require(adapters=method.ranking[1].needs_adapters)
        self.stale = 0
        self.stop: Stop | None = None
        self._begin()

    def _begin(self) -> None:
        rows = Ragged.from_lists(self.initial)
        if self.options.balance:
            self.valuation.balance(rows, self.gradients)
        scored = self.valuation.scored(rows, self.valuation.losses(rows), checked=False)
        if not np.isfinite(scored.totals).all():
            row = int(np.flatnonzero(~np.isfinite(scored.totals))[0])
            raise OptionError(
                f"the initial prompt {self.problem.decode(self.initial[row])!r}",
                expected="some text, with room for it in every model",
            )
        states = [scored.state(i) for i in range(len(scored))]
        self.context = Context(
            problem=self.problem,
            gradients=self.gradients,
            is_new=self._is_new,
            generator=self.generator,
            weights=self.valuation.loss_weights,
            totals=self._totals,
            passes=lambda: self.problem.passes(self.items.active),
        )
        self.search = self._search_options.start(states)
        self.method = self._method_options.start(self.context, states)
        self.record = Record(states, self.options.pareto_size, self._readable(states))
        self._add_items()
        self._record_step(len(rows), len(rows))

    def _readable(self, states: Sequence[State]) -> list[bool]:
        """Whether each initial prompt is read as text in the tokens that were scored."""
        if not self.options.check_retokenization:
            return [True] * len(states)
        found = [self.check(state.ids) for state in states]
        self.check.refusals.clear()  # those of candidates count
        return found

    def step(self, most: int | None = None) -> None:
        """Do one step.

        Args:
            most: forward passes the budget still has, None without a limit.

        Raises:
            LossError: a loss or gradient is not finite.
            PromptError: no candidate has survived for several steps.
        """
        self._draw_items()
        states, before = self.search.select(), self.spent.scored
        proposals = self.method.propose(states, most)
        if proposals is None:
            self.stop = Stop.FINISHED
            return
        fresh, survived = self._filtered(proposals, states)
        kept = False
        if len(survived):
            scored = self._evaluated(survived, states[0].ids if len(states) == 1 else None)[1]
            kept = self._keep(scored, grown=proposals.grown)
        self.check.require_survivors(fresh, kept)
        self.stale = 0 if self.spent.scored > before else self.stale + 1
        if self.stale >= _STALE_STEPS:
            self.stop = Stop.FINISHED
        self.spent.steps += 1
        self._record_step(fresh, len(survived))

    def _filtered(self, proposals: Proposals, states: Sequence[State]) -> tuple[int, Ragged]:
        """Leave out repeats, current prompts and those that do not survive."""
        current = [state.ids for state in states]
        prompts = proposals.prompts.select(distinct_rows(proposals.prompts, current))
        survived = prompts
        if self.options.check_retokenization and len(prompts):
            survives = self.problem.words.survives(prompts)
            survived = prompts.select(survives)
            self.check.count_lost(len(prompts) - len(survived))
        return len(prompts), survived

    def _is_new(self, prompts: Ragged) -> NDArray[np.bool_]:
        new = self.valuation.is_new(prompts)
        if self.options.check_retokenization:
            new &= self.problem.words.survives(prompts)
        return new

    def _totals(self, prompts: Ragged) -> Losses:
        """Score prompts for the method: ``(n,)``."""
        survives = np.ones(len(prompts), dtype=bool)
        if self.options.check_retokenization:
            survives = self.problem.words.survives(prompts)
        totals = np.full(len(prompts), np.inf)
        rows = np.flatnonzero(survives)
        if len(rows):
            chosen, scored = self._evaluated(prompts.select(rows))
            totals[rows[chosen]] = scored.totals
        return totals

    def _evaluated(
        self, prompts: Ragged, base: Ids | None = None
    ) -> tuple[NDArray[np.int64], Scored]:
        """Score prompts, or those that probe sampling chooses: which, and their losses."""
        value = self.valuation
        if self.probe is None:
            return np.arange(len(prompts)), value.scored(prompts, value.losses(prompts, base))
        rows, losses = self.probe.score(prompts, self.weights, base, self.items.active)
        return rows, value.scored(prompts.select(rows), losses)

    def _keep(self, scored: Scored, *, grown: bool) -> bool:
        """Give candidates to the search; returns whether one of them survives."""
        promising = [] if self.items.draws else self.record.promising(scored)
        likely = [*promising, *(scored.state(int(i)) for i in scored.order[:1])]
        scored.prepare([state.ids for state in likely])  # all that are likely to be asked for
        self.search.update(scored, grown=grown)
        self.method.observe(scored)
        if self.items.draws:
            kept, better = next(scored.best(), None) is not None, self._judge_leader()
        else:
            kept, better = self.record.keep(scored, promising)
        if better:
            self._add_items()
            stops = self.options.early_stop and self.items.complete
            if stops and self.valuation.is_satisfied(self.best.ids):
                self.stop = Stop.MET
        return kept

    def _judge_leader(self) -> bool:
        """Judge the prompt the search stands at by all items; returns whether it is the best."""
        scored = self.valuation.on_pool(self.search.frontier[0].ids)
        return self.record.keep(scored, self.record.promising(scored))[1]

    def _draw_items(self) -> None:
        """Draw the items of a step, by which the search goes on."""
        if self.items.draws:
            self.items.draw(self.generator)
            self._change_items()

    def _add_items(self) -> None:
        """Add items as long as the best prompt meets all so far."""
        value, waits = self.valuation, self.items.grows and not self.record.provisional
        while waits and not self.items.complete and value.meets_pool(self.best.ids):
            self.items.grow()
            self._change_items()
            kept = [state for state in self.search.frontier if value.may_keep(state.ids)]
            self.record.revalue(value.again, kept)

    def _change_items(self) -> None:
        self.search.replace(self.valuation.again(self.search.frontier))
        self.method.change_items()

    @property
    def weights(self) -> Losses:
        """``(terms,)``: the weights of the terms, after balancing."""
        return self.valuation.weights

    @property
    def best(self) -> State:
        """The prompt with the smallest total so far."""
        return self.record.best

    @property
    def final_total(self) -> float:
        """The total of the best prompt; infinity until all items count and it may be kept."""
        final = self.items.complete and not self.record.provisional
        return self.best.total if final else float("inf")

    @property
    def trajectory(self) -> list[Point]:
        """Every step so far."""
        return self.record.trajectory

    def _record_step(self, candidates: int, survived: int) -> None:
        items = self.items.indices(self.problem.names)
        self.record.add_step(self.search.frontier[0], self.spent, candidates, survived, items)

    def configuration(self) -> dict[str, Any]:
        """Return the options of the run, without its budget, as a JSON object."""
        return {
            "problem": self.problem.describe(),
            "initial": [list(ids) for ids in self.initial],
            "method": self._method_options.to_json(),
            "search": self._search_options.to_json(),
            "options": dict(vars(self.options)),
            "probe": None if self.probe is None else self.probe.describe(),
        }

    @cached_property
    def contents(self) -> dict[str, str]:
        """Hashes of what the configuration only names: weights, pictures, words, adapters."""
        return contents_of(self.problem, None if self.probe is None else self.probe.draft)

    def result(self, budget: Budget) -> Result:
        """Return what was found so far."""
        names = self.problem.names
        return Result(
            text=self.problem.decode(self.best.ids),
            ids=self.best.ids,
            total=self.best.total,
            losses=dict(zip(names, self.best.losses, strict=True)),
            items=self.valuation.by_item(self.best),
            stop=self.stop or Stop.INTERRUPTED,
            spent=self.spent.to_json(),
            trajectory=tuple(self.trajectory),
            pareto=self.record.front(self.problem),
            weights=dict(zip(names, self.weights.tolist(), strict=True)),
            configuration=self.configuration() | {"budget": dict(vars(budget))},
            versions=package_versions(),
            chosen=self.chosen,
            full_texts=self.problem.full_texts(self.best.ids),
        )


def _require_method(method: MethodOptions, items: ActiveItems) -> None:
    """Refuse a method that cannot follow items that change.

    Raises:
        OptionError: it compares losses of different steps.
    """
    if items.changing and method.compares_steps:
        raise OptionError(
            f"method {method.type!r} with items that change",
            expected="the same items in every step: it compares prompts of different steps",
            remedy="leave items_per_step and progressive out, or use another method",
        )


def _require_request(problem: Problem, initial: Sequence[Ids], options: RunOptions) -> None:
    """Refuse initial prompts and options that no run can have.

    Raises:
        OptionError: there is no initial prompt, one has ids that are no tokens, or no objective
            can end the run early.
    """
    if not initial:
        raise OptionError("no initial prompt", expected="at least one")
    for ids in initial:
        require_ids(ids, problem.source.vocabulary_size, problem.source.name)
    met = any(
        loss.ends_run and type(loss).is_satisfied is not Loss.is_satisfied
        for loss in problem.losses
    )
    if options.early_stop and not met:
        raise OptionError(
            "early_stop without an objective that can be met",
            expected="a 'continuation' objective",
            remedy="give the budget a target_loss instead",
        )
