"""Whether a prompt survives being read as text, inside the full prompt of every model.

Candidates are made of tokens, people paste text. A prompt is kept only if its text, with what
stands before and after it for a model, is cut into the very tokens that were scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from fuse_index.errors import PromptError
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Ids
from fuse_index.words.ragged import Ragged

_REMEMBERED = 1 << 16
_EMPTY_STEPS = 5
"""Steps in a row without a candidate that survives, after which a run gives up"""
_EMPTY_CANDIDATES = 100
"""once this many were lost: some methods propose one candidate a step."""


class PromptCheck:
    """Checks prompts exactly, and remembers what it found.

    Args:
        problem: its models read the prompts.

    Attributes:
        refusals: how often each model refused a prompt, by name.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.refusals: Counter[str] = Counter()
        self._known: dict[Ids, bool] = {}
        self.empty_steps = self.lost_candidates = 0
        places = {
            (target, loss.surroundings.key): _FullPrompts(problem, term)
            for term, (target, loss) in enumerate(zip(problem.targets, problem.losses, strict=True))
        }
        self._places = tuple(places.values())

    def __call__(self, ids: Ids) -> bool:
        """Whether every model reads the prompt's text as the tokens that are scored."""
        self.prepare([ids])
        return self._known[ids]

    def prepare(self, prompts: Sequence[Ids]) -> None:
        """Check prompts together, so that asking for them costs nothing."""
        fresh = [ids for ids in dict.fromkeys(prompts) if ids not in self._known]
        if not fresh:
            return
        self._known.update(zip(fresh, self._check(fresh), strict=True))
        for ids in list(islice(self._known, max(len(self._known) - _REMEMBERED, 0))):
            del self._known[ids]

    def count_lost(self, lost: int) -> None:
        """Count candidates that were left out because their own tokens do not survive."""
        self._refuse(self.problem.source.name, lost)

    def _refuse(self, name: str, count: int) -> None:
        if count:
            self.refusals[name] += count

    def require_survivors(self, proposed: int, kept: bool) -> None:
        """Count the candidates lost since one survived, and give up in the end.

        Args:
            proposed: candidates of a step.
            kept: whether one of them survived.

        Raises:
            PromptError: no candidate has survived for several steps.
        """
        if kept:
            self.empty_steps = self.lost_candidates = 0
        elif proposed:
            self.empty_steps += 1
            self.lost_candidates += proposed
        if self.empty_steps < _EMPTY_STEPS or self.lost_candidates < _EMPTY_CANDIDATES:
            return
        name, count = self.refusals.most_common(1)[0]
        raise PromptError(
            f"no candidate of the last {self.empty_steps} steps survives re-tokenization; {name} "
            f"reads {count} of them in other tokens",
            expected="a text whose tokens are those that are scored",
            remedy="begin from plain words, raise the search width, use only whole words "
            "(words_only), or turn check_retokenization off",
        )

    def _check(self, prompts: Sequence[Ids]) -> list[bool]:
        """Whether the prompts survive, one by one; a refusal counts for the first who refuses."""
        rows = Ragged.from_lists(prompts)
        survives = self.problem.words.survives(rows)
        self.count_lost(int(len(rows) - survives.sum()))
        left = np.flatnonzero(survives)
        for place in self._places:
            if not len(left):
                break
            same = place.read(rows.select(left))
            self._refuse(place.name, len(same) - sum(same))
            left = left[same]
        survives[:] = False
        survives[left] = True
        return [bool(kept) for kept in survives]


class _FullPrompts:
    """The full prompts of one term: a target's rows with the text around them."""

    def __init__(self, problem: Problem, term: int) -> None:
        self._problem, self._term = problem, term
        self.name = problem.losses[term].model.name

    def read(self, prompts: Ragged) -> list[bool]:
        """Whether the model's tokens of every full prompt are those that are scored."""
        problem, term = self._problem, self._term
        contents = problem.targets[term].read(prompts).contents.to_lists()
        return problem.losses[term].surroundings.reads(problem.texts(term, prompts), contents)
