"""The tracks of the race: what is asked for, and the prompts that runs begin from.

The targets that methods are tuned on and those that are reported are apart.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TUNING, HELD_OUT = "tuning", "held-out"
MESSAGE = "Say the following."
TASKS = {
    TUNING: (
        ("What do you like to do?", " The train to the coast leaves at seven."),
        ("Name a colour.", " Two brown dogs run over the wet grass."),
        ("How are you today?", " My brother paints the old door yellow."),
        ("Write a line.", " A loud bird sings under the window."),
    ),
    HELD_OUT: (
        ("Tell me a story.", " The small boat crosses the cold river."),
        ("What is a tree?", " We never eat soup on a rainy Sunday."),
        ("Give me advice.", " Seven green apples fell from the table."),
        ("Describe a city.", " The king of the north reads a short letter."),
    ),
}
"""Messages and readable targets, where none are given."""
_TRIES = 200
_BEHIND = 32
"""Random prompts that a target stands behind, to see whether it keeps its tokens."""


@dataclass(frozen=True)
class Task:
    """One target.

    Attributes:
        name: of the task, the same in every call.
        target: text that the models are to continue with.
        message: text before the prompt.
        seed: decides the initial prompt.
    """

    name: str
    target: str
    message: str = ""
    seed: int = 0


@dataclass(eq=False)
class Track:
    """A track with its models.

    Attributes:
        name: of the track.
        source: whose tokens prompts are made of.
        others: models that are to say the target as well.
        adapters: from the source to each of them, for methods that need one.
        words: for moves of words.
        length: tokens of a prompt.
        encoder: of the track ``inversion``, the model that embeds texts.
    """

    name: str
    source: Any
    others: Sequence[Any] = ()
    adapters: Sequence[Any] = ()
    words: Sequence[str] = ()
    length: int = 15
    encoder: Any = None
    _problems: dict[Task, Any] = field(default_factory=dict)

    def problem(self, task: Task) -> Any:
        """Return the problem of a task, made once."""
        if task not in self._problems:
            self._problems.clear()
            self._problems[task] = self._made(task)
        return self._problems[task]

    def _made(self, task: Task) -> Any:
        from fuse_index.objectives import TargetContinuation, TextSimilarity
        from fuse_index.optimize import Problem, Term

        adapters = [*self.adapters, *([None] * len(self.others))]
        if self.name == "inversion":
            adapter = next(iter(self.adapters), None)
            terms = [Term(TextSimilarity(texts=task.target), self.encoder, adapter)]
        else:
            goal = _goal(TargetContinuation, task)
            terms = [Term(goal, self.source)]
            terms += [Term(goal, own, a) for own, a in zip(self.others, adapters, strict=False)]
        return Problem(self.source, terms, words=list(self.words) or None)

    def initial(self, task: Task, seed: int) -> list[int]:
        """Draw the tokens that a run begins from: random ones that are read as they are."""
        problem = self.problem(task)
        return _prompts(problem, self.length, np.random.default_rng([task.seed, seed]), 1)[0]


def _goal(kind: Any, task: Task) -> Any:
    """The objective: a message before the prompt ends with a space, a target follows a line."""
    if not task.message:
        return kind(target=task.target)
    return kind(target=task.target, prefix=f"{task.message} ", suffix="\n")


def _prompts(problem: Any, length: int, rng: np.random.Generator, count: int) -> list[list[int]]:
    """Random prompts that survive being read as text."""
    from fuse_index.optimize.survival import PromptCheck
    from fuse_index.words.ragged import Ragged

    ids, check = np.flatnonzero(problem.allowed), PromptCheck(problem)
    found: list[list[int]] = []
    for _ in range(_TRIES):
        rows = rng.choice(ids, (64, length))
        kept = problem.words.survives(Ragged.from_rows(rows))
        found += [row for row in rows[kept].tolist() if check(tuple(row))]
        if len(found) >= count:
            return found[:count]
    raise SystemExit(
        f"{problem.source.name}: no {count} prompts of {length} random tokens survive being read "
        f"as text before the target; expected shorter prompts (--length) or another target"
    )


def random_tasks(source: Any, part: str, count: int, tokens: int, *, message: bool) -> list[Task]:
    """Draw targets of random tokens that keep their tokens behind other text.

    Args:
        source: whose tokens.
        part: tuning or held-out, whose seeds are apart.
        count: targets.
        tokens: of each.
        message: whether a text stands before the prompt.
    """
    first = 100_000 if part == TUNING else 0
    text = MESSAGE if message else ""
    return [
        Task(f"random-{seed}", _target(source, seed, tokens), text, seed)
        for seed in range(first, first + count)
    ]


def _target(source: Any, seed: int, tokens: int) -> str:
    from fuse_index.errors import FuseIndexError
    from fuse_index.objectives import TargetContinuation
    from fuse_index.optimize.tokens import TokenFilter

    rng = np.random.default_rng([seed, tokens])
    allowed = np.flatnonzero(TokenFilter().allowed(source))
    objective = TargetContinuation(target="x").prepare(source)
    for _ in range(_TRIES):
        ids = rng.choice(allowed, tokens).tolist()
        (text,) = source.words.decode_batch([ids])
        try:
            around = TargetContinuation(target=text).prepare(source).surroundings
        except FuseIndexError:
            continue
        if list(around.target_ids) != ids:
            continue
        before = rng.choice(allowed, (_BEHIND, 4)).tolist()
        texts, alone = around.decode(before), objective.surroundings.reads
        kept = [a for a, b in zip(before, alone(texts, before), strict=True) if b]
        if kept and 2 * sum(around.reads(around.decode(kept), kept)) >= len(kept):
            return text
    raise SystemExit(
        f"{source.name}: none of {_TRIES} targets of {tokens} random tokens survives tokenization; "
        "expected fewer tokens (--target-tokens)"
    )


def readable_tasks(part: str, count: int, path: Path | None) -> list[Task]:
    """Read messages and targets, or take those that are here.

    Args:
        part: tuning or held-out; a file is of one part alone.
        count: targets, at most.
        path: lines of message, tab, target, below a line of names.
    """
    pairs: Sequence[tuple[str, str]] = TASKS[part]
    if path is not None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        if not rows or any(len(row) != 2 for row in rows):
            raise SystemExit(f"{path}: expected lines of a message, a tab and a target")
        pairs = [(row[0], row[1]) for row in rows]
    return [
        Task(f"readable-{i}", target, message, i)
        for i, (message, target) in enumerate(pairs[:count])
    ]


def caption_tasks(part: str, count: int, path: Path | None, seed: int) -> list[Task]:
    """Draw texts to be found again, of 6 to 14 words: every other line is for tuning.

    Args:
        part: tuning or held-out.
        count: texts.
        path: texts, one a line.
        seed: of the set.
    """
    if path is None:
        lines = [target.strip() for pair in TASKS[part] for target in pair[1:]]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()[part == TUNING :: 2]
        lines = [line.strip() for line in lines if 6 <= len(line.split()) <= 14]
    drawn = np.random.default_rng(seed).permutation(len(lines))[:count].tolist()
    return [Task(f"caption-{seed}-{i}", lines[row], "", row) for i, row in enumerate(drawn)]
