"""Optimize a prompt: the loop of a run, its limits, checkpoints and interrupts."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

from fuse_index.errors import FuseIndexError, OptionError
from fuse_index.optimize.auto import Choice, choose
from fuse_index.optimize.budget import Budget, Stop
from fuse_index.optimize.checkpoint import CONTENTS, Checkpoint, checkpoint_of, restore
from fuse_index.optimize.methods import METHODS
from fuse_index.optimize.methods.base import MethodOptions
from fuse_index.optimize.probe import Probe
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.result import Point, Result
from fuse_index.optimize.run import Run, RunOptions
from fuse_index.optimize.search import SEARCHES, Greedy, SearchOptions
from fuse_index.optimize.state import from_json

logger = logging.getLogger(__name__)

Callback = Callable[[Run, "Point"], None]
"""Called after every step, and once for the initial prompts, with the run and the step."""


def optimize(
    problem: Problem,
    initial: str | Sequence[str | Sequence[int]],
    *,
    method: MethodOptions | Choice | None = None,
    search: SearchOptions | None = None,
    budget: Budget | None = None,
    options: RunOptions | None = None,
    probe: Probe | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Find a prompt with a small weighted sum of losses.

    Without a method the one that did best in the benchmarks is taken for the models and the budget
    at hand (:func:`fuse_index.optimize.choose`); ``Result.chosen`` says which, and why.

    An interrupt (Ctrl-C) ends the run after its current step and returns the best so far; a second
    one ends it at once.

    Args:
        problem: source, objectives, filters.
        initial: the prompt to begin from, or several: texts or source ids.
        method: how candidates are proposed, or a :class:`Choice`; by default the measured best.
        search: which prompts are kept; by default what suits the chosen method,
            :class:`Greedy` with a given one.
        budget: when to stop; by default after 100 steps.
        options: seed and the rest.
        probe: a draft that ranks candidates, so that fewer are scored (probe sampling).
        checkpoint: file that is written every ``checkpoint_every`` steps and at the end. If it is
            there already, the run continues from it, bit for bit as if it had not been stopped.
        checkpoint_every: steps between two checkpoints.
        callbacks: called after every step.

    Returns:
        The best prompt, its losses, and how it was found.

    Raises:
        LossError: a model gives NaN. Like the next two it ends the run, and its attribute
            ``result`` holds the best so far.
        PromptError: no candidate survives re-tokenization.
        ModelError: a model refuses a prompt, or its parameters cannot be counted for a budget of
            floating-point operations.
        CheckpointError: the checkpoint is damaged, or of a run with another configuration.
        OptionError: options contradict each other.
    """
    if checkpoint_every < 1:
        raise OptionError(f"checkpoint_every={checkpoint_every}", expected="at least 1")
    budget = budget or Budget()
    if budget.flops is not None:
        _require_counted(problem, probe)
    path = None if checkpoint is None else Path(checkpoint)
    saved = Checkpoint.load(path) if path is not None and path.exists() else None
    chosen = ""
    if method is None or isinstance(method, Choice):
        method = _chosen(problem, budget, method, saved)
        logger.info("%s", method.reason)
    if isinstance(method, Choice):
        search, chosen = search or method.search, method.reason
        method = method.method
    run = Run(
        problem,
        as_prompts(problem, initial),
        method=method,
        search=search or Greedy(),
        options=options or RunOptions(),
        probe=probe,
        chosen=chosen,
    )
    if path is not None:
        configuration = run.configuration() | {CONTENTS: run.contents}  # read before they change
        if saved is not None:
            saved.require(configuration, path)
            restore(run, saved)
    try:
        _loop(run, budget, path, checkpoint_every, callbacks)
    except FuseIndexError as error:
        run.stop = Stop.FAILED
        error.result = run.result(budget)
        raise
    if run.record.provisional:
        text = problem.decode(run.best.ids)
        logger.warning("the initial prompt %r reads in other tokens than were scored", text)
    return run.result(budget)


def _require_counted(problem: Problem, probe: Probe | None) -> None:
    """Refuse a budget of operations for models whose parameters cannot be counted.

    Raises:
        ModelError: there is one.
    """
    drafts = () if probe is None else probe.terms
    for term in (*problem.terms, *drafts):
        _ = term.model.active_parameters


def _chosen(
    problem: Problem, budget: Budget, choice: Choice | None, saved: Checkpoint | None
) -> Choice:
    """The choice for a run; a run that is resumed keeps its method, whatever is at hand now."""
    if saved is None:
        return choice or choose(problem, budget)
    return _choice_of(saved)


def _choice_of(saved: Checkpoint) -> Choice:
    before = saved.configuration
    method = from_json(METHODS, before["method"])
    search = from_json(SEARCHES, before["search"])
    return Choice(method, search, "the method of the checkpoint")


def saved_choice(checkpoint: str | os.PathLike[str] | None) -> Choice | None:
    """Return the method and the search of a checkpoint, None where there is no such file.

    A run that goes on needs what they need, whatever would be chosen now.

    Args:
        checkpoint: the file, if one is named.

    Raises:
        CheckpointError: it is damaged, or no checkpoint.
    """
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    return _choice_of(Checkpoint.load(checkpoint))


def as_prompts(
    problem: Problem, initial: str | Sequence[str | Sequence[int]]
) -> list[tuple[int, ...]]:
    """Return initial prompts as source ids.

    Args:
        problem: whose source tokenizes texts.
        initial: one text, or several texts or rows of ids.
    """
    given = [initial] if isinstance(initial, str) else list(initial)
    return [
        problem.encode(item) if isinstance(item, str) else tuple(int(i) for i in item)
        for item in given
    ]


def _loop(
    run: Run,
    budget: Budget,
    path: Path | None,
    every: int,
    callbacks: Sequence[Callback],
) -> None:
    with deferred_interrupts() as interrupted:
        saved = -1
        try:
            for _ in _steps(run, budget, callbacks, interrupted):
                if path is not None and run.spent.steps % every == 0:
                    checkpoint_of(run).save(path)
                    saved = run.spent.steps
            if interrupted.is_set():  # also in the last step: the caller has to end, too
                run.stop = Stop.INTERRUPTED
            if path is not None and saved != run.spent.steps:
                checkpoint_of(run).save(path)
        except KeyboardInterrupt:
            run.stop = Stop.INTERRUPTED  # in the middle of a step: the last checkpoint stays


def _steps(
    run: Run, budget: Budget, callbacks: Sequence[Callback], interrupted: threading.Event
) -> Iterator[None]:
    """Do steps until the run ends; yields after every step that does not end it."""
    for callback in callbacks:
        callback(run, run.trajectory[-1])
    while run.stop is None:
        run.stop = budget.reached(run.spent, run.final_total)
        if run.stop is not None or interrupted.is_set():
            break
        run.step(budget.affordable(run.spent))
        if run.stop is None:
            for callback in callbacks:
                callback(run, run.trajectory[-1])
            yield


_interrupted: ContextVar[threading.Event | None] = ContextVar("interrupted", default=None)
"""Set by the first Ctrl-C while :func:`deferred_interrupts` holds, in other threads too."""


@contextmanager
def deferred_interrupts() -> Iterator[threading.Event]:
    """Let the first Ctrl-C only set a flag, and the next one interrupt; in the main thread.

    Another thread takes part where its context was copied from one that does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _interrupted.get() or threading.Event()
        return
    flag = threading.Event()
    before: Any = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set() and callable(before):
            before(number, frame)
        elif flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    signal.signal(signal.SIGINT, handle)
    token = _interrupted.set(flag)
    try:
        yield flag
    finally:
        _interrupted.reset(token)
        signal.signal(signal.SIGINT, before)
