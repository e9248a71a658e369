"""Whether a prompt survives being read as text, inside the full prompt of every model.

Candidates are made of tokens, people paste text. A prompt is kept only if its text, with what
stands before and after it for a model, is cut into the very tokens that were scored.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fuse_index.errors import PromptError
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.state import Ids

_REMEMBERED = 1 << 16
_EMPTY_STEPS = 5
"""Steps in a row without a candidate that survives, after which a run gives up"""
_EMPTY_CANDIDATES = 100
"""once this many were lost: some methods propose one candidate a step."""


class PromptCheck:
    """Checks prompts exactly, and remembers what it found.

    Args:
        problem: whose models read the prompts.

    Attributes:
        refusals: how often each model refused a prompt, by name.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.refusals: Counter[str] = Counter()
        self._known: dict[Ids, bool] = {}
        self.empty_steps = self.lost_candidates = 0
        places = {
            (id(reader), loss.surroundings()): (reader, loss.surroundings())
            for reader, loss in zip(problem.readers, problem.losses, strict=True)
        }
        self._places = tuple(places.values())

    def __call__(self, ids: Ids) -> bool:
        """Whether every model reads the prompt's text as the tokens that are scored."""
        found = self._known.get(ids)
        if found is None:
            found = self._known[ids] = self._check(ids)
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        return found

    def count_lost(self, lost: int) -> None:
        """Count candidates that were left out because their own tokens do not survive."""
        self.refusals[self.problem.source.name] += lost

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

    def _check(self, ids: Ids) -> bool:
        row = Ragged.from_lists([ids])
        if not self.problem.words.survives(row)[0]:
            self.count_lost(1)
            return False
        text = self.problem.decode(ids)
        for reader, (before, after) in self._places:
            content = reader.read(row).contents[0].tolist()
            full = (before, after)
            if not reads_the_same(reader.model, text, content, full, decoded=reader.is_source):
                self.refusals[reader.model.name] += 1
                return False
        return True


def reads_the_same(
    model: Model, text: str, content: list[int], around: tuple[str, str], *, decoded: bool
) -> bool:
    """Whether a model's tokens of the full prompt are those of its parts, one after another.

    Args:
        model: whose tokens.
        text: the prompt.
        content: its tokens alone.
        around: text before it, and text after it.
        decoded: whether the full prompt may also be what the parts' tokens decode to, as for the
            source, whose tokens are what was chosen: decoders drop the space with which some
            tokenizers begin every text.
    """
    words = model.words
    before, after = around
    if not before and not after:
        return words.encode_text(text) == content
    parts = [words.encode_text(part) if part else [] for part in around]
    full = [*parts[0], *content, *parts[1]]
    if words.encode_text(before + text + after) == full:
        return True
    return decoded and words.encode_text(words.decode(full)) == full
