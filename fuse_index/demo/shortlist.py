"""Captions of one picture that were scored, and the moves that make better ones of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.demo.edits import exchanges, insertions, omissions
from fuse_index.demo.writing import write_sentences
from fuse_index.optimize import (
    Budget,
    Greedy,
    MethodOptions,
    Problem,
    RunOptions,
    SearchOptions,
    Stop,
    optimize,
)
from fuse_index.optimize.budget import Spent
from fuse_index.optimize.scoring import Scorer
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.optimize import Callback

Ids = tuple[int, ...]


class Shortlist:
    """What is known of a picture's captions so far.

    Args:
        problem: what is minimized; its source is a causal language model.
        lm: that source.
        words: what edits insert.
        seed: decides the draws.
        callbacks: called after every step of a run.

    Attributes:
        totals: caption -> its total loss.
        losses: caption -> its loss in every term.
        curve: (forward passes, smallest total so far) after every move.
    """

    def __init__(
        self,
        problem: Problem,
        lm: CausalModel,
        words: Sequence[str],
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.problem, self.lm, self.words, self.seed = problem, lm, words, seed
        self.totals: dict[Ids, float] = {}
        self.losses: dict[Ids, tuple[float, ...]] = {}
        self.curve: list[tuple[int, float]] = []
        self.spent = Spent()
        self._in_runs = 0
        self._callbacks = callbacks
        self._scorer = Scorer(problem, self.spent)
        self._generator = torch.Generator().manual_seed(seed)
        texts = lm.words.decode_batch([[0, i] for i in range(lm.vocabulary_size)])
        start = len(lm.words.decode([0]))
        self._begins_word = [text[start:].startswith(" ") for text in texts]

    @property
    def forward_passes(self) -> int:
        """Forward passes so far; the gradient of a prompt counts two."""
        return self.spent.forward_passes + self._in_runs

    def best(self, count: int = 1) -> list[Ids]:
        """Return the captions with the smallest totals, the best first."""
        return sorted(self.totals, key=lambda ids: self.totals[ids])[:count]

    def add(self, rows: Iterable[Ids]) -> None:
        """Score captions; those that other tokenizers would not read as they stand are dropped."""
        fresh = [row for row in dict.fromkeys(rows) if row and row not in self.totals]
        if fresh:
            survives = self.problem.words.survives(Ragged.from_lists(fresh))
            fresh = [row for row, whole in zip(fresh, survives, strict=True) if whole]
        if fresh:
            losses = self._scorer.score(Ragged.from_lists(fresh))
            totals = losses @ self.problem.weights
            for row, own, total in zip(fresh, losses.tolist(), totals.tolist(), strict=True):
                if np.isfinite(total):
                    self.totals[row], self.losses[row] = total, tuple(own)
        self._record()

    def revise(
        self,
        ids: Ids,
        method: MethodOptions,
        steps: int | None,
        *,
        passes: int | None = None,
        search: SearchOptions | None = None,
    ) -> None:
        """Run a method on one caption, and take up what it finds.

        Args:
            ids: the caption.
            method: how it is changed.
            steps: of the run, at most.
            passes: forward passes of the run, at most.
            search: which captions the run keeps; by default the best.

        Raises:
            KeyboardInterrupt: an interrupt ended the run.
        """
        before, best = self.forward_passes, min(self.totals.values())
        found = optimize(
            self.problem,
            [ids],
            method=method,
            search=search or Greedy(),
            budget=Budget(steps=steps, forward_passes=passes),
            options=RunOptions(seed=self.seed),
            callbacks=self._callbacks,
        )
        for point in found.trajectory:
            self.curve.append((before + point.forward_passes, min(best, point.best)))
        self._in_runs += int(found.spent["forward_passes"])
        if found.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        self.totals[found.ids] = found.total
        self.losses[found.ids] = tuple(found.losses.values())
        self._record()

    def rewrite(self, count: int, width: int) -> None:
        """Let the language model go on from beginnings of the best captions, in other words.

        A third of the beginnings are whole captions.

        Args:
            count: sentences; each costs a forward pass to write and one to score.
            width: captions whose beginnings are used.
        """
        best, starts = self.best(width), []
        for index in range(count):
            row = best[index % len(best)]
            cuts = [at for at in range(1, len(row)) if self._begins_word[row[at]]]
            cuts += [len(row)] * max(1, len(cuts) // 2)
            cut = int(torch.randint(len(cuts), (1,), generator=self._generator))
            starts.append(row[: cuts[cut]])
        self.spent.predicted += count
        self.add(write_sentences(self.lm, starts, self._generator))

    def graft(self, ids: Ids, others: Sequence[Ids], words: int = 6) -> None:
        """Put beginnings of other sentences before a caption, and endings of them behind it.

        Args:
            ids: the caption.
            others: sentences, such as drafts with the sentiment that is wanted.
            words: of the longest beginning or ending.
        """
        rows: list[Ids] = []
        for other in others:
            cuts = [at for at in range(1, len(other)) if self._begins_word[other[at]]]
            rows += [(*other[:cut], *ids) for cut in cuts[:words]]
            rows += [(*ids, *other[cut:]) for cut in cuts[-words:]]
        self.add(rows)

    def edit(self, width: int, count: int) -> None:
        """Exchange, leave out and insert words of the best captions.

        Args:
            width: captions.
            count: insertions into each.
        """
        rows: list[Ids] = []
        for ids in self.best(width):
            words = self.problem.decode(ids).split()
            changed = exchanges(words) + omissions(words)
            changed += insertions(self.lm, words, self.words, count)
            self.spent.predicted += 1
            rows += [tuple(self.problem.encode(" ".join(edited))) for edited in changed]
        self.add(rows)

    def _record(self) -> None:
        if self.totals:
            self.curve.append((self.forward_passes, min(self.totals.values())))
