"""Captions of one picture that were scored, and the moves that make better ones of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.demo.writing import write_sentences
from fuse_index.optimize import (
    Beam,
    Budget,
    Greedy,
    MethodOptions,
    Problem,
    Run,
    RunOptions,
    SearchOptions,
    Stop,
    WordWriter,
    optimize,
)
from fuse_index.optimize.budget import Spent
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.scoring import Scorer
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.optimize import Callback
    from fuse_index.optimize.state import Losses

Ids = tuple[int, ...]

_PHRASE = 5
"""Words of the longest phrase that is put inside a caption."""


class Shortlist:
    """What is known of a picture's captions so far.

    Args:
        problem: what is minimized; its source is a causal language model.
        lm: that source.
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
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.problem, self.lm = problem, lm
        self.totals: dict[Ids, float] = {}
        self.losses: dict[Ids, tuple[float, ...]] = {}
        self.curve: list[tuple[int, float]] = []
        self.spent = Spent()
        self._in_runs = 0
        self._written: list[Ids] = []
        self._callbacks = callbacks
        self._scorer = Scorer(problem, self.spent)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def forward_passes(self) -> int:
        """Forward passes so far; the gradient of a prompt counts two."""
        return self.spent.forward_passes + self._in_runs

    def best(self, count: int = 1, since: int = 0) -> list[Ids]:
        """Return the captions with the smallest totals, the best first.

        Args:
            count: at most so many.
            since: without those that were known when so many were.
        """
        known = list(self.totals)[since:]
        return sorted(known, key=lambda ids: self.totals[ids])[:count]

    def best_written(self, count: int) -> list[Ids]:
        """Return the best sentences that were written as a whole, not made of others by a move."""
        known = [ids for ids in dict.fromkeys(self._written) if ids in self.totals]
        return sorted(known, key=lambda ids: self.totals[ids])[:count]

    def add(self, rows: Iterable[Ids]) -> None:
        """Score sentences; those that other tokenizers would not read as they stand are dropped."""
        rows = list(rows)
        self._written += rows
        self._score(rows)

    def _score(self, rows: Iterable[Ids]) -> None:
        fresh = [row for row in dict.fromkeys(rows) if row and row not in self.totals]
        if fresh:
            survives = self.problem.words.survives(Ragged.from_lists(fresh))
            fresh = [row for row, whole in zip(fresh, survives, strict=True) if whole]
        if fresh:
            rows_kept = Ragged.from_lists(fresh)
            self._take(rows_kept, self._scorer.score(rows_kept))
        self._record()

    def revise(
        self,
        ids: Ids,
        method: MethodOptions,
        *,
        steps: int | None = None,
        passes: int | None = None,
        search: SearchOptions | None = None,
    ) -> None:
        """Run a method on one caption, and take up all it scores.

        Args:
            ids: the caption.
            method: how it is changed.
            steps: of the run, at most.
            passes: forward passes of the run, at most.
            search: which captions the run keeps; by default the best.

        Raises:
            KeyboardInterrupt: an interrupt ended the run.
        """
        budget = Budget(steps=steps, forward_passes=passes)
        run = self._run([ids], method, search or Greedy(), budget)
        self._take(*run.scorer.memory())
        self._record()

    def write(
        self, beginnings: Sequence[Ids], method: WordWriter, width: int, passes: int | None
    ) -> None:
        """Write captions word by word, and take up all that this goes through.

        Args:
            beginnings: what they begin with; none leaves it to the language model.
            method: how words are chosen.
            width: of the beam.
            passes: forward passes of the run, at most.

        Raises:
            KeyboardInterrupt: an interrupt ended the run.
        """
        starts = list(beginnings) or self._first_words(method.search_width)
        run = self._run(starts, method, Beam(width), Budget(forward_passes=passes))
        self._take(*run.scorer.memory())
        self._record()

    def _run(
        self,
        initial: Sequence[Ids],
        method: MethodOptions,
        search: SearchOptions,
        budget: Budget,
    ) -> Run:
        """Run a method; the run with all it has scored."""
        runs: list[Run] = []
        seed = int(torch.randint(1 << 31, (1,), generator=self._generator))
        found = optimize(
            self.problem,
            initial,
            method=method,
            search=search,
            budget=budget,
            options=RunOptions(seed=seed),
            callbacks=[lambda run, point: runs.append(run), *self._callbacks],
        )
        self._in_runs += int(found.spent["forward_passes"])
        if found.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        return runs[0]

    def _first_words(self, count: int) -> list[Ids]:
        """Words that the language model begins with, the likeliest ones."""
        lexicon = self.problem.lexicon
        tokens = lexicon.source
        firsts = torch.from_numpy(tokens.values[tokens.offsets[:-1]])
        likelihood = Likelihood(self.problem, self.lm, self.spent)
        likely = likelihood.along((int(firsts[0]),))[0, firsts]
        best = likely.topk(min(count, len(lexicon))).indices.tolist()
        return [tuple(tokens[word].tolist()) for word in best]

    def words(self, ids: Ids) -> list[Ids]:
        """Cut a caption into the tokens of its words."""
        return self._cut([ids])[0]

    def _cut(self, rows: Sequence[Ids]) -> list[list[Ids]]:
        if not rows:
            return []
        prompts = Ragged.from_lists(rows)
        offsets, firsts = self.problem.words.offsets(prompts)
        cuts = [tuple(prompts.values[a:b].tolist()) for a, b in pairwise(offsets.tolist())]
        return [cuts[a:b] for a, b in pairwise(firsts.tolist())]

    def rewrite(self, count: int, sources: Sequence[Ids]) -> None:
        """Let the language model go on from beginnings of the best captions, in other words.

        A third of the beginnings are whole captions. Of every second sentence only a few words are
        taken, and what stood behind them stays, with up to three of its words left out.

        Args:
            count: sentences; each costs a forward pass to write and one to score.
            sources: captions whose beginnings are used.
        """
        best = [self.words(ids) for ids in sources]
        starts = []
        for index in range(count):
            own = best[index % len(best)]
            cut = min(self._draw(len(own) + max(1, len(own) // 2)), len(own))
            starts.append((own, cut))
        self.spent.predicted += count
        written = write_sentences(
            self.lm, [_flat(own[:cut]) for own, cut in starts], self._generator
        )
        rows: list[Ids] = []
        for index, ((own, cut), ids) in enumerate(zip(starts, written, strict=True)):
            if ids is not None and index % 2:
                phrase = self.words(ids)[cut : cut + 1 + self._draw(_PHRASE)]
                rows.append(_flat([*own[:cut], *phrase, *own[cut + self._draw(4) :]]))
            elif ids is not None:
                rows.append(ids)
        self.add(rows)

    def cross(self, count: int, best: Sequence[Ids], others: Sequence[Ids]) -> None:
        """Put parts of other captions into the best ones, where the same words stand around them.

        A part reaches from one word that both have to another, or to the end of both.

        Args:
            count: captions to score, at most; each costs a forward pass.
            best: captions that get the parts, the better one of two drawn.
            others: captions that give them.
        """
        givers = [[*words, _END] for words in self._cut(others)]
        rows: list[Ids] = []
        for own in ([*words, _END] for words in self._cut(best)):
            for giver in givers:
                rows += _crossings(own, giver)
        rows = [row for row in dict.fromkeys(rows) if row and row not in self.totals]
        order = torch.randperm(len(rows), generator=self._generator)[:count].tolist()
        self._score([rows[index] for index in order])

    def combine(self, ids: Ids, most: int = 4) -> None:
        """Make the best swaps of single words that are known of a caption, two and more at once.

        Args:
            ids: the caption.
            most: swaps made at once.
        """
        better = [other for other, total in self.totals.items() if total < self.totals[ids]]
        own = self.words(ids)
        swaps: dict[int, tuple[float, Ids]] = {}
        for other, words in zip(better, self._cut(better), strict=True):
            places = [
                at for at, pair in enumerate(zip(own, words, strict=False)) if len({*pair}) > 1
            ]
            if len(words) == len(own) and len(places) == 1:
                found = self.totals[other], words[places[0]]
                swaps[places[0]] = min(swaps.get(places[0], found), found)
        order = sorted(swaps, key=lambda at: swaps[at])[:most]
        rows = []
        for size in range(2, len(order) + 1):
            chosen = {at: swaps[at][1] for at in order[:size]}
            rows.append(_flat([chosen.get(at, word) for at, word in enumerate(own)]))
        self._score(rows)

    def graft(self, ids: Ids, others: Sequence[Ids], words: int = 6) -> None:
        """Put beginnings of other sentences before a caption, and endings of them behind it.

        Args:
            ids: the caption.
            others: sentences, such as drafts with the sentiment that is wanted.
            words: of the longest beginning or ending.
        """
        rows: list[Ids] = []
        for other in others:
            cuts = self.words(other)
            rows += [(*_flat(cuts[:size]), *ids) for size in range(1, min(words, len(cuts)) + 1)]
            rows += [(*ids, *_flat(cuts[-size:])) for size in range(1, min(words, len(cuts)) + 1)]
        self._score(rows)

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self._generator))

    def _take(self, rows: Ragged, losses: Losses) -> None:
        """Remember captions that were scored."""
        totals = losses @ self.problem.weights
        for row, own, total in zip(rows, losses.tolist(), totals.tolist(), strict=True):
            if np.isfinite(total):
                ids = tuple(row.tolist())
                self.totals[ids], self.losses[ids] = total, tuple(own)

    def _record(self) -> None:
        if self.totals:
            self.curve.append((self.forward_passes, min(self.totals.values())))


_END: Ids = ()
"""What stands behind the last word of every caption."""


def _crossings(own: Sequence[Ids], giver: Sequence[Ids]) -> list[Ids]:
    """Everything that a caption becomes by one part of another; both end with ``_END``."""
    places: dict[Ids, list[int]] = {}
    for at, word in enumerate(giver):
        places.setdefault(word, []).append(at)
    shared = [(i, j) for i, word in enumerate(own) for j in places.get(word, ())]
    shared.append((-1, -1))
    return [
        _flat([*own[: i + 1], *giver[j + 1 : k], *own[m:]])
        for i, j in shared
        for m, k in shared
        if m > i and k > j and own[i + 1 : m] != giver[j + 1 : k]
    ]


def _flat(words: Sequence[Ids]) -> Ids:
    return tuple(chain.from_iterable(words))
