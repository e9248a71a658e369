"""The prompts that a schedule of moves knows, with their losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fuse_index.optimize.methods.moves import Ids, Words
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Scored, State, pack_rows, unpack_rows
from fuse_index.words.ragged import Ragged


class PromptMemory:
    """Scored prompts, in the order in which they were scored.

    Args:
        problem: cuts prompts into words.

    Attributes:
        states: by the prompt.
        written: sentences that were written as a whole, not made of others by a move.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.states: dict[Ids, State] = {}
        self.written: dict[Ids, None] = {}

    def __len__(self) -> int:
        return len(self.states)

    def __contains__(self, ids: Ids) -> bool:
        return ids in self.states

    def add(self, scored: Scored) -> None:
        """Remember candidates with a finite loss."""
        for index in np.flatnonzero(np.isfinite(scored.totals)).tolist():
            state = scored.state(index)
            self.states.setdefault(state.ids, state)

    def best(self, count: int, since: int = 0) -> list[Ids]:
        """Return the prompts with the smallest totals, the best first.

        Args:
            count: at most so many.
            since: without those that were known when so many were.
        """
        known = list(self.states.values())[since:]
        return [own.ids for own in sorted(known, key=lambda state: state.total)[:count]]

    def best_written(self, count: int) -> list[Ids]:
        """Return the best sentences that were written as a whole."""
        known = [self.states[ids] for ids in self.written if ids in self.states]
        return [own.ids for own in sorted(known, key=lambda state: state.total)[:count]]

    def better_than(self, ids: Ids) -> list[State]:
        """Return the prompts with a smaller total."""
        return [own for own in self.states.values() if own.total < self.states[ids].total]

    def cut(self, rows: Sequence[Ids]) -> list[Words]:
        """Cut prompts into the ids of their words."""
        if not rows:
            return []
        prompts = Ragged.from_lists(rows)
        offsets, firsts = self._problem.words.offsets(prompts)
        words = [tuple(prompts.values[a:b].tolist()) for a, b in pairwise(offsets.tolist())]
        return [words[a:b] for a, b in pairwise(firsts.tolist())]

    def fresh(self, rows: Iterable[Ids]) -> list[Ids]:
        """Return the rows that are no repeats, not empty and not known."""
        return [row for row in dict.fromkeys(rows) if row and row not in self.states]

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        states = list(self.states.values())
        terms = len(self._problem.terms)
        losses = np.array([own.losses for own in states], dtype=np.float64).reshape(-1, terms)
        totals = torch.tensor([own.total for own in states], dtype=torch.float64)
        written = Ragged.from_lists(list(self.written))
        return {
            "known.totals": totals,
            **pack_rows("known", Ragged.from_lists([own.ids for own in states]), losses),
            **pack_rows("written", written, np.zeros(len(written))),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what :meth:`tensors` returned."""
        rows, losses = unpack_rows("known", tensors)
        self.states.clear()
        self.add(Scored(rows, losses, tensors["known.totals"].numpy()))
        self.written = {tuple(row): None for row in unpack_rows("written", tensors)[0].to_lists()}
