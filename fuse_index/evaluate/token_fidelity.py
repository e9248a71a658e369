"""How well predictions rank candidate tokens: the gradient signal of moves of single tokens.

For each sampled text one token of the source is taken and every candidate token is put there. The
true change is that of the loss of the changed text, read in the target's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.adapter.adapter import Adapter
from fuse_index.common.progress import Tick
from fuse_index.errors import CorpusError, OptionError
from fuse_index.evaluate.fidelity import (
    RANDOM,
    FidelityOptions,
    FidelityReport,
    Sample,
    finite_losses,
    report_of,
    target_loss,
)
from fuse_index.evaluate.sampling import Task, other_text
from fuse_index.models.base import Model
from fuse_index.objectives.base import Loss
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.predictor import unit_predictor
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.spent import Spent
from fuse_index.predict.target import SourceWords, Target
from fuse_index.predict.units import TokenUnits
from fuse_index.words.ragged import Ragged

_PREDICTORS = (Predictor.ADAPTER, Predictor.EMBEDDING)
_POOL = 10
"""Tokens that candidates are drawn from, times the candidates of a text."""
_SPARE = 2
"""Tokens drawn for a text, times its candidates: not every text reads as the tokens again."""


def measure_token_fidelity(
    adapter: Adapter,
    source: Model,
    model: Model,
    *,
    texts: Sequence[str],
    options: FidelityOptions,
    progress: Tick | None = None,
    stage: Tick | None = None,
) -> FidelityReport:
    """Measure how predictions at the unchanged text rank candidate tokens of the source.

    The predictions are those of runs: by ``adapter``, by ``embedding``, and with
    ``options.layers`` by ``layers``. Candidates are tokens that the source reads again from the
    changed text, drawn for each text from a pool of ten times as many; tasks are in the source's
    tokens, their rows and candidates token ids.

    Args:
        adapter: from the source to ``model``.
        source: the model whose tokens are moved.
        model: the target, loaded as the kind that ``options.loss`` needs.
        texts: texts to sample from.
        options: see :class:`FidelityOptions`; ``anchors`` are for words.
        progress: called with (samples done, samples in all).
        stage: called with (tokens done, tokens in all) while their hidden states are computed.

    Raises:
        OptionError: anchors are asked for.
        CorpusError: too few texts can be measured.
        ModelError: the classifier does not have the label, or the loss is not finite.
    """
    if options.anchors:
        raise OptionError(f"anchors={options.anchors} for tokens", expected="0: they are words")
    rng = np.random.default_rng([options.seed, 3])
    tokens = _Tokens(Target(source, model, adapter), options, rng)
    if options.layers:
        tokens.units.prepare(tokens.target, stage)
    samples = []
    for task in tokens.tasks(texts):
        samples.append(tokens.measure(task))
        if progress is not None:
            progress(len(samples), options.samples)
        if len(samples) == options.samples:
            return report_of(tuple(samples), options)
    raise CorpusError(
        f"{len(samples)} of {len(texts)} texts can be measured",
        expected=f"at least {options.samples} of two words or more that fit the model's positions",
        remedy="give more texts, or lower --samples",
    )


@dataclass(eq=False)
class _Terms:
    """One loss as the terms of a prediction."""

    source: Model
    losses: tuple[Loss, ...]
    targets: tuple[Target, ...]
    words: SourceWords

    def passes(self, used: NDArray[np.bool_]) -> int:
        """Return the forward passes of one prompt."""
        return int(used.any())


class _Tokens:
    """The tokens that are put into texts, and the target that reads them."""

    def __init__(self, target: Target, options: FidelityOptions, rng: np.random.Generator) -> None:
        self.target, self._options, self._rng = target, options, rng
        self._words = SourceWords(target.source)
        allowed = np.flatnonzero(TokenFilter().allowed(target.source))
        pool = rng.choice(allowed, min(_POOL * options.candidates, len(allowed)), replace=False)
        self.units = TokenUnits(
            target.source, np.isin(np.arange(target.source.vocabulary_size), pool)
        )

    def tasks(self, texts: Sequence[str]) -> Iterator[Task]:
        """Yield tasks from texts in random order that can be measured."""
        units, rng, count = self.units, self._rng, self._options.candidates
        for index in rng.permutation(len(texts)):
            text = tuple(texts[int(index)].split())
            if len(text) < 2:
                continue
            (ids,) = self.target.source.words.encode_running([" ".join(text)])
            position = int(rng.integers(len(ids)))
            drawn = rng.choice(len(units), min(_SPARE * count, len(units)), replace=False)
            drawn = units.firsts.numpy()[drawn]
            rows = _replaced(ids, position, np.append(ids[position], drawn))
            survives = self._words.survives(rows)
            kept = drawn[survives[1:] & (drawn != ids[position])][:count]
            if survives[0] and len(kept) == count and self._fits(rows):
                tokens, other = Ragged.from_rows(ids[:, None]), other_text(text, texts, rng)
                yield Task(text, tokens, position, int(ids[position]), kept, other)

    def measure(self, task: Task) -> Sample:
        """Put the candidates into a text."""
        target, units = self.target, self.units
        loss = target_loss(task, target.model, self._options)
        ids = task.tokens.values
        rows = _replaced(ids, task.position, np.append(task.row, task.candidates))
        losses = finite_losses(target.read(rows).contents, loss, task, self._options)
        terms = _Terms(target.source, (loss,), (target,), self._words)
        gradients = Gradients(terms, Spent()).scaled(self._options.residual_scale)
        index = torch.from_numpy(np.searchsorted(units.firsts.numpy(), task.candidates))
        predicted = {}
        for kind in (*_PREDICTORS, *[Predictor.LAYERS] * self._options.layers):
            found = unit_predictor(gradients, units, kind)
            ((ranking,),) = found.rank([units.spans(ids.tolist())], [[task.position]], np.ones(1))
            changes = ranking.changes[0].double().cpu()
            predicted[f"{kind.value}_at_current"] = changes[index].numpy()
        predicted[RANDOM] = self._rng.standard_normal(len(task.candidates))
        return Sample(task, float(losses[0]), losses[1:] - losses[0], predicted)

    def _fits(self, rows: Ragged) -> bool:
        """Whether the target has room for rows, and reads something in each."""
        lengths = self.target.read(rows).contents.lengths
        frame, positions = self.target.model.frame, self.target.model.positions
        longest = int(lengths.max()) + len(frame.head) + len(frame.tail)
        return int(lengths.min()) > 0 and (positions is None or longest <= positions)


def _replaced(ids: NDArray[np.int64], position: int, tokens: NDArray[np.int64]) -> Ragged:
    """Return rows with each of some tokens in a position."""
    rows = np.repeat(ids[None], len(tokens), axis=0)
    rows[:, position] = tokens
    return Ragged.from_rows(rows)
