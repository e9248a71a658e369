"""The loop of a run: propose, filter, score, keep; and everything it must remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import OptionError, PromptError
from fuse_index.objectives.base import Loss
from fuse_index.objectives.weights import balanced_weights
from fuse_index.optimize.budget import Budget, Spent, Stop
from fuse_index.optimize.checkpoint import Checkpoint, pack_rows, unpack_rows
from fuse_index.optimize.gradient import Differentiator
from fuse_index.optimize.methods.base import Context, MethodOptions, Proposals
from fuse_index.optimize.probe import Probe, ProbeSampler
from fuse_index.optimize.result import ParetoPoint, Point, Result, pareto_front
from fuse_index.optimize.scoring import Scorer, distinct_rows
from fuse_index.optimize.state import Scored, State, require_ids
from fuse_index.optimize.survival import PromptCheck
from fuse_index.optimize.versions import package_versions
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.optimize.batching import BatchSize
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.search.base import SearchOptions
    from fuse_index.optimize.state import Ids, Losses

_EMPTY_STEPS = 5
"""Steps in a row without a candidate that survives, after which a run gives up"""
_EMPTY_CANDIDATES = 100
"""once this many were lost: some methods propose one candidate a step."""
_STALE_STEPS = 100
"""Steps in a row without a prompt that is new, after which a run has come to its end."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are neither its method's nor its search's.

    Attributes:
        seed: decides every random draw.
        batch_size: prompts of one forward pass, at most; None chooses by device.
        check_retokenization: whether prompts must survive being read as text
            (:mod:`fuse_index.optimize.survival`).
        balance: whether the weights are scaled so that at the initial prompts every term's gradient
            counts as its weight says.
        early_stop: whether the run ends once the best prompt makes the model go on with the target
            of every continuation, each of its tokens being the likeliest.
        pareto_size: prompts kept of the Pareto front.
        remember: scored prompts that are remembered.
    """

    seed: int = 0
    batch_size: int | None = None
    check_retokenization: bool = True
    balance: bool = False
    early_stop: bool = False
    pareto_size: int = 64
    remember: int = 1 << 17

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("pareto_size", 1), ("remember", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)}", expected=f"at least {least}")


class Run:
    """A run of one method and one search on one problem.

    Args:
        problem: what is optimized.
        initial: prompts to begin from, as source ids.
        method: how candidates are proposed.
        search: which prompts are kept.
        options: the rest.
        probe: the draft of probe sampling, None without it.

    Raises:
        OptionError: there is no initial prompt, or one has ids that are no tokens; or the method
            needs a gradient and no term has one, or a model has no adapter.
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
    ) -> None:
        self.problem = problem
        self.options = options
        self._method_options, self._search_options = method, search
        self.initial = tuple(tuple(ids) for ids in initial)
        if not self.initial:
            raise OptionError("no initial prompt", expected="at least one")
        for ids in self.initial:
            require_ids(ids, problem.source.vocabulary_size, problem.source.name)
        self.spent = Spent()
        self.weights: Losses = problem.weights.copy()
        self.generator = torch.Generator().manual_seed(options.seed)
        self.scorer = Scorer(
            problem, self.spent, batch_size=options.batch_size, remember=options.remember
        )
        self.probe: ProbeSampler | None = None
        if probe is not None:
            self.probe = ProbeSampler(
                probe,
                self.scorer,
                self.generator,
                batch_size=options.batch_size,
                remember=options.remember,
            )
        self.gradients = Differentiator(problem, self.spent)
        self.check = PromptCheck(problem)
        if method.follows_gradient:
            self.gradients.require()
        if options.early_stop and not any(_can_be_met(loss) for loss in problem.losses):
            raise OptionError(
                "early_stop without an objective that can be met",
                expected="a 'continuation' objective",
                remedy="give the budget a target_loss instead",
            )
        self._empty = self._lost = self._stale = 0
        self.stop: Stop | None = None
        self.trajectory: list[Point] = []
        self._begin()

    def _begin(self) -> None:
        rows = Ragged.from_lists(self.initial)
        if self.options.balance:
            norms = self.gradients.norms(rows)
            self.weights = np.array(balanced_weights(norms, self.problem.weights.tolist()))
        losses = self.scorer.score(rows)
        if not np.isfinite(losses).all():
            row = int(np.flatnonzero(~np.isfinite(losses).all(axis=1))[0])
            raise OptionError(
                f"the initial prompt {self.problem.decode(self.initial[row])!r}",
                expected="some text, with room for it in every model",
            )
        scored = self._scored(rows, losses, checked=False)
        states = [scored.state(i) for i in range(len(scored))]
        self.context = Context(
            self.problem,
            self.gradients,
            self._is_new,
            self.generator,
            self.weights,
            self._totals,
        )
        self.search = self._search_options.start(states)
        self.method = self._method_options.start(self.context, states)
        self.best = min(states, key=lambda state: state.total)
        self.pareto = pareto_front(states, self.options.pareto_size)
        self._record(len(rows), len(rows))

    def _scored(self, prompts: Ragged, losses: Losses, *, checked: bool = True) -> Scored:
        totals = losses @ self.weights
        accept: Callable[[Ids], bool] = lambda ids: True  # noqa: E731
        if checked and self.options.check_retokenization:
            accept = self.check
        totals = np.where(np.isfinite(losses).all(axis=1), totals, np.inf)
        return Scored(prompts, losses, totals, accept)

    def step(self, most: int | None = None) -> None:
        """Do one step.

        Args:
            most: forward passes the budget still has, None without a limit.

        Raises:
            LossError: a loss or gradient is not finite.
            PromptError: no candidate has survived for several steps.
        """
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
        self._require_survivors(fresh, kept)
        self._stale = 0 if self.spent.scored > before else self._stale + 1
        if self._stale >= _STALE_STEPS:
            self.stop = Stop.FINISHED
        self.spent.steps += 1
        self._record(fresh, len(survived))

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
        new = ~self.scorer.remembers(prompts)
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
        if self.probe is None:
            return np.arange(len(prompts)), self._scored(prompts, self.scorer.score(prompts, base))
        rows, losses = self.probe.score(prompts, self.weights, base)
        return rows, self._scored(prompts.select(rows), losses)

    def _require_survivors(self, proposed: int, kept: bool) -> None:
        """Count the candidates lost since one survived, and give up in the end.

        Raises:
            PromptError: no candidate has survived for several steps.
        """
        if kept:
            self._empty = self._lost = 0
        elif proposed:
            self._empty += 1
            self._lost += proposed
        if self._empty < _EMPTY_STEPS or self._lost < _EMPTY_CANDIDATES:
            return
        name, count = self.check.refusals.most_common(1)[0]
        raise PromptError(
            f"no candidate of the last {self._empty} steps survives re-tokenization; {name} reads "
            f"{count} of them in other tokens",
            expected="a text whose tokens are those that are scored",
            remedy="begin from plain words, raise the search width, use only whole words "
            "(words_only), or turn check_retokenization off",
        )

    def _keep(self, scored: Scored, *, grown: bool) -> bool:
        """Give candidates to the search; returns whether one of them survives."""
        self.search.update(scored, grown=grown)
        best = next(scored.best(), None)
        if best is None:
            return False
        if best.total < self.best.total:
            self.best = best
            if self.options.early_stop and self._met(best.ids):
                self.stop = Stop.MET
        if scored.losses.shape[1] > 1:
            self._extend_front(scored)
        return True

    def _met(self, ids: Ids) -> bool:
        """Whether a prompt has what every objective wants that can be met, if one can."""
        row = Ragged.from_lists([ids])
        pairs = zip(self.problem.losses, self.problem.readers, strict=True)
        found = [loss.met(reader.read(row).contents) for loss, reader in pairs]
        told = [bool(answer.all()) for answer in found if answer is not None]
        return bool(told) and all(told)

    def _extend_front(self, scored: Scored) -> None:
        front = np.array([state.losses for state in self.pareto])
        beaten = np.any(np.all(front[None] <= scored.losses[:, None], axis=2), axis=1)
        fresh = [scored.state(int(i)) for i in np.flatnonzero(~beaten & np.isfinite(scored.totals))]
        fresh = [state for state in pareto_front(fresh, len(fresh)) if scored.accept(state.ids)]
        self.pareto = pareto_front([*self.pareto, *fresh], self.options.pareto_size)

    def _record(self, candidates: int, survived: int) -> None:
        here = self.search.frontier[0]
        point = Point(
            step=self.spent.steps,
            forward_passes=self.spent.forward_passes,
            seconds=self.spent.seconds,
            total=here.total,
            losses=here.losses,
            best=self.best.total,
            ids=here.ids,
            candidates=candidates,
            survived=survived,
        )
        self.trajectory.append(point)

    def configuration(self) -> dict[str, Any]:
        """Return what the run was asked for, without its budget, as a JSON object."""
        return {
            "problem": self.problem.describe(),
            "initial": [list(ids) for ids in self.initial],
            "method": self._method_options.to_json(),
            "search": self._search_options.to_json(),
            "options": dict(vars(self.options)),
            "probe": None if self.probe is None else self.probe.describe(),
        }

    def result(self, budget: Budget) -> Result:
        """Return what was found so far."""
        names = self.problem.names
        return Result(
            text=self.problem.decode(self.best.ids),
            ids=self.best.ids,
            total=self.best.total,
            losses=dict(zip(names, self.best.losses, strict=True)),
            stop=self.stop or Stop.INTERRUPTED,
            spent=self.spent.to_json(),
            trajectory=tuple(self.trajectory),
            pareto=tuple(
                ParetoPoint(
                    self.problem.decode(state.ids),
                    state.ids,
                    state.total,
                    dict(zip(names, state.losses, strict=True)),
                )
                for state in self.pareto
            ),
            weights=dict(zip(names, self.weights.tolist(), strict=True)),
            configuration=self.configuration() | {"budget": dict(vars(budget))},
            versions=package_versions(),
        )

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to go on after the last finished step."""
        values = {
            "spent": self.spent.to_json(),
            "best": self.best.to_json(),
            "pareto": [state.to_json() for state in self.pareto],
            "search": self.search.to_json(),
            "weights": self.weights.tolist(),
            "batch_sizes": [size.to_json() for size in self._batch_sizes()],
            "trajectory": [vars(point) for point in self.trajectory],
            "counters": [self._empty, self._lost, self._stale],
        }
        rows, losses = self.scorer.memory()
        tensors = {f"method.{name}": value for name, value in self.method.tensors().items()}
        tensors |= pack_rows("memory", rows, losses)
        if self.probe is not None:
            tensors |= pack_rows("draft", *self.probe.draft_scorer.memory())
        tensors["generator"] = self.generator.get_state()
        return Checkpoint(self.configuration(), values, tensors)

    def _batch_sizes(self) -> list[BatchSize]:
        drafts = () if self.probe is None else self.probe.draft_scorer.batch_sizes
        return [*self.scorer.batch_sizes, *drafts]

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of the same configuration."""
        values, tensors = saved.values, saved.tensors
        spent = Spent.from_json(values["spent"])
        for name, value in vars(spent).items():
            setattr(self.spent, name, value)
        self.weights[:] = values["weights"]
        self.best = State.from_json(values["best"])
        self.pareto = [State.from_json(item) for item in values["pareto"]]
        self.search.load_json(values["search"])
        for size, item in zip(self._batch_sizes(), values["batch_sizes"], strict=True):
            size.load_json(item)
        self.trajectory = [
            Point(**{**p, "ids": tuple(p["ids"]), "losses": tuple(p["losses"])})
            for p in values["trajectory"]
        ]
        self._empty, self._lost, self._stale = values["counters"]
        self.scorer.restore(*unpack_rows("memory", tensors))
        if self.probe is not None:
            self.probe.draft_scorer.restore(*unpack_rows("draft", tensors))
        own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        self.method.load_tensors(own)
        self.generator.set_state(tensors["generator"])


def _can_be_met(loss: Loss) -> bool:
    return type(loss).met is not Loss.met
