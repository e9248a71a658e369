"""How well a first-order prediction ranks candidate words: the gradient signal, measured.

For each sampled text one word position is taken and every candidate word is put there. The true
change of a target loss is compared with first-order predictions of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fuse_index.common.bounds import MAX_WIDTH
from fuse_index.common.options import (
    NaturalWidth,
    Seed,
    Share,
    Width,
    options,
)
from fuse_index.common.progress import Tick
from fuse_index.errors import ModelError, OptionError
from fuse_index.evaluate.ranking import Estimate, share_found, spearman
from fuse_index.evaluate.sampling import Task, draw_tasks
from fuse_index.models.encoder import ClassifierModel
from fuse_index.objectives.target_loss import TargetLoss
from fuse_index.predict.adapted import AdaptedWords
from fuse_index.predict.anchors import weighted_anchors
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.predict.spans import span_gradients
from fuse_index.predict.states import Contexts
from fuse_index.predict.store import kept_states
from fuse_index.predict.units import mean_vectors
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.models.base import Model
    from fuse_index.objectives.base import Loss
    from fuse_index.words.table import WordTable

PREDICTIONS = ("adapter", "word", "adapter_at_current", "adapter_by_token", "word_at_current")
"""Predictions that are always measured, by their names in reports: by the predictor ``adapter`` or
``embedding`` (``word``), with the mean word in the position or at the unchanged text, and token by
token through the current word's group."""
ANCHORED = ("adapter_anchored", "word_anchored", "word_weighted")
"""Predictions from gradients with random words in the position."""
LAYERED = ("layers_at_current",)
LAYERED_ANCHORED = ("layers_anchored", "layers_weighted")
RANDOM = "random"
"""Random scores, with which every prediction is compared."""
_CONTEXTS = 16
"""Contexts that the states of a word are averaged over."""


@options()
class FidelityOptions:
    """Options of :func:`measure_fidelity`.

    Attributes:
        loss: the target loss.
        samples: texts; one word position is taken in each.
        candidates: random words of the table that are put there.
        seed: decides texts, positions, candidates and random scores.
        label: label of a classifier, by name or index; ``None`` takes the one each text has least
            of.
        best: how many truly best candidates the shares look for.
        among: among how many predicted best.
        batch_size: rows of one forward pass.
        anchors: random words whose gradients in the position are averaged, for the predictions
            ``..._anchored``; 0 leaves them out.
        layers: whether to predict from the gradients at the hidden states of every layer too, which
            first takes 16 short forward passes for every word used.
        residual_scale: factor of the gradient through residual branches, 1 as it is.
    """

    loss: TargetLoss
    samples: Annotated[int, Field(strict=True, ge=2, le=MAX_WIDTH)] = 60
    candidates: Annotated[int, Field(strict=True, ge=3, le=MAX_WIDTH)] = 400
    seed: Seed = 0
    label: str | None = None
    best: Width = 10
    among: tuple[Width, ...] = (10, 50, 100)
    batch_size: Width = 128
    anchors: NaturalWidth = 0
    layers: bool = False
    residual_scale: Share = 1.0

    def __post_init__(self) -> None:
        if self.label is not None and self.loss is not TargetLoss.LABEL:
            raise OptionError(
                f"label {self.label!r} with loss {self.loss.value!r}",
                expected="a label with the loss 'label' only",
            )


@dataclass(frozen=True)
class Sample:
    """What one text gave.

    Attributes:
        task: the text, the position and the candidates.
        loss: of the unchanged text.
        change: ``(m,)`` true change of the loss by candidate.
        predicted: ``(m,)`` by predictor, lower is better, up to a constant.
    """

    task: Task
    loss: float
    change: NDArray[np.float64]
    predicted: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class FidelityReport:
    """What :func:`measure_fidelity` found.

    Attributes:
        spearman: rank correlation of predicted and true change, by predictor.
        share: by predictor and number of predicted best, the share of the true best among them.
        options: what was asked for.
        samples: every text, for plots.
    """

    spearman: dict[str, Estimate]
    share: dict[str, dict[int, Estimate]]
    options: FidelityOptions
    samples: tuple[Sample, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object, without the samples."""
        return {
            "spearman": {name: asdict(value) for name, value in self.spearman.items()},
            "share": {
                name: {str(among): asdict(value) for among, value in shares.items()}
                for name, shares in self.share.items()
            },
            "options": asdict(self.options) | {"loss": self.options.loss.value},
        }


def measure_fidelity(
    adapter: Adapter,
    table: WordTable,
    source_embeddings: Tensor,
    model: Model,
    *,
    texts: Sequence[str],
    options: FidelityOptions,
    progress: Tick | None = None,
    stage: Tick | None = None,
) -> FidelityReport:
    """Measure how the first-order predictions rank candidate words.

    Args:
        adapter: from the source to ``model``.
        table: the words of the adapter's bundle; positions and candidates come from it.
        source_embeddings: ``(source vocabulary, d_src)``.
        model: the target, loaded as the kind that ``options.loss`` needs.
        texts: texts to sample from.
        options: see :class:`FidelityOptions`.
        progress: called with (samples done, samples in all).
        stage: called with (words done, words in all) while their hidden states are computed.

    Raises:
        CorpusError: too few texts can be measured.
        VocabularyError: the table has too few words for so many candidates.
        ModelError: the classifier does not have the label, or the loss is not finite.
    """
    tasks = draw_tasks(
        table,
        model,
        texts,
        samples=options.samples,
        candidates=options.candidates,
        seed=options.seed,
    )
    words = _Words(adapter, table, source_embeddings, model)
    if options.layers:
        words.look_up_states(tasks, texts, options, stage)
    rng = np.random.default_rng([options.seed, 1])
    samples = []
    for done, task in enumerate(tasks, 1):
        samples.append(_measure(task, words, options=options, rng=rng))
        if progress is not None:
            progress(done, len(tasks))
    return report_of(tuple(samples), options)


class _Words:
    """The words of a bundle as the target sees them, and the adapter to it."""

    def __init__(
        self, adapter: Adapter, table: WordTable, source_embeddings: Tensor, model: Model
    ) -> None:
        device, dtype = model.device, torch.float32
        self.model, self.table = model, table
        self.adapter = adapter.to(device, dtype)
        self.source = source_embeddings.to(device, dtype)
        self.vectors = mean_vectors(table.target, model.table().to(device, dtype))
        self.mean = self.vectors.mean(dim=0)
        self._rows = np.zeros(0, np.int64)
        self._states = torch.zeros(0)

    def look_up_states(
        self,
        tasks: Sequence[Task],
        texts: Sequence[str],
        options: FidelityOptions,
        progress: Tick | None,
    ) -> None:
        """Run the words that are used through the model, in contexts cut from texts.

        Where most words are used, all are run, so that other calls find them in the cache.
        """
        anchors = [_anchor_rows(task, self.table, options) for task in tasks]
        rows = np.unique(np.concatenate([*(task.candidates for task in tasks), *anchors]))
        if 2 * len(rows) > len(self.table):
            rows = np.arange(len(self.table))
        contexts = Contexts(count=_CONTEXTS, texts=tuple(texts))
        tokens = self.table.target.select(rows)
        self._rows, self._states = rows, kept_states(self.model, tokens, contexts, progress)

    def states(self, rows: NDArray[np.int64]) -> Tensor:
        """``(n, (layers + 1) * width)``: the states of rows of the table."""
        index = torch.from_numpy(np.searchsorted(self._rows, rows))
        return self._states[index.to(self._states.device)]

    def adapted(self, rows: NDArray[np.int64]) -> AdaptedWords:
        """Rows of the table, to be ranked through the adapter."""
        tokens = self.table.source.select(rows), self.table.target.select(rows)
        return AdaptedWords(self.adapter, self.source, *tokens)

    def by_token(self, gradient: Tensor, row: int, rows: NDArray[np.int64]) -> Tensor:
        """Pull the gradient ``(q, d)`` back through one word's group; compare token by token.

        An optimizer of single source tokens ranks so: token s of a candidate meets the gradient of
        token s of the current word; tokens beyond it meet nothing.
        """
        p = self.table.source.lengths[row : row + 1]
        layout = self.adapter.layout(p, self.table.target.lengths[row : row + 1])
        own = self.source[torch.from_numpy(self.table.source[row]).to(self.source.device)]
        pulled = self.adapter.pull_back(gradient, layout, source=own)  # (p, d_src)
        ids = self.table.source.select(rows).padded()[:, : len(pulled)]  # (m, <= p)
        index = torch.from_numpy(ids).to(pulled.device)
        embeddings = self.source[index.clamp(min=0)] * (index >= 0)[..., None]
        return torch.einsum("msd,sd->m", embeddings, pulled[: ids.shape[1]])


def _measure(
    task: Task, words: _Words, *, options: FidelityOptions, rng: np.random.Generator
) -> Sample:
    loss = target_loss(task, words.model, options)
    rows = words.table.target.select(np.concatenate([[task.row], task.candidates]))
    losses = finite_losses(_with_words(task, rows)[0], loss, task, options)
    found = _at_text(task, words, loss, options.residual_scale)
    if options.anchors:
        found |= _anchored(task, words, loss, options)
    if options.layers:
        found |= _layered(task, words, loss, options)
    predicted = {name: own.double().cpu().numpy() for name, own in found.items()}
    predicted[RANDOM] = rng.standard_normal(len(task.candidates))
    return Sample(task, float(losses[0]), losses[1:] - losses[0], predicted)


def target_loss(task: Task, model: Model, options: FidelityOptions) -> Loss:
    """Return the loss of one text that is measured."""
    label: str | int = 0
    if options.loss is TargetLoss.LABEL:
        label = _rarest_label(task, model) if options.label is None else options.label
    return options.loss.objective(other=task.other, label=label).prepare(model)


def _rarest_label(task: Task, model: Model) -> str | int:
    """The label the unchanged text has least of, by its name where no other has it."""
    assert isinstance(model, ClassifierModel)
    logits = model.encode_texts([model.words.lead + " ".join(task.words)]).logits
    assert logits is not None
    index = int(logits[0].argmin())
    name = model.labels[index]
    return name if model.labels.count(name) == 1 else index


def _at_text(task: Task, words: _Words, loss: Loss, scale: float) -> dict[str, Tensor]:
    """Predictions from one gradient, at the unchanged text and with the mean word in it."""
    current = Ragged.from_lists([task.tokens[task.position].tolist()])
    contents, spans = _with_words(task, current)
    packed = embedding_gradient(loss, contents, residual_scale=scale)[1]
    packed = packed[slice(*spans[0].tolist())]
    mean = span_gradients(loss, contents, spans, mean=words.mean, residual_scale=scale)[1]
    at_current = packed.sum(dim=0, keepdim=True)
    vectors, adapted = words.vectors[_index(task.candidates)], words.adapted(task.candidates)
    return {
        "adapter": adapted.changes(mean)[0],
        "word": vectors @ mean[0],
        "adapter_at_current": adapted.changes(at_current)[0],
        "adapter_by_token": words.by_token(packed, task.row, task.candidates),
        "word_at_current": vectors @ at_current[0],
    }


def _anchored(task: Task, words: _Words, loss: Loss, options: FidelityOptions) -> dict[str, Tensor]:
    """Predictions from gradients with random words in the position, none of them a candidate."""
    anchors = _anchor_rows(task, words.table, options)
    rows = _with_words(task, words.table.target.select(anchors))
    losses, sums = span_gradients(loss, *rows, residual_scale=options.residual_scale)
    mean = sums.mean(dim=0, keepdim=True)
    own, vectors = words.vectors[_index(anchors)], words.vectors[_index(task.candidates)]
    return {
        "adapter_anchored": words.adapted(task.candidates).changes(mean)[0],
        "word_anchored": vectors @ mean[0],
        "word_weighted": weighted_anchors(losses.float(), sums, own, vectors),
    }


def _layered(task: Task, words: _Words, loss: Loss, options: FidelityOptions) -> dict[str, Tensor]:
    """Predictions from gradients at hidden states, at the unchanged text and with anchors."""
    candidates = words.states(task.candidates)
    current = Ragged.from_lists([task.tokens[task.position].tolist()])
    how: Any = {"layers": True, "residual_scale": options.residual_scale}
    _, sums = span_gradients(loss, *_with_words(task, current), **how)
    found = {"layers_at_current": candidates @ sums[0]}
    anchors = _anchor_rows(task, words.table, options)
    if len(anchors):
        rows = _with_words(task, words.table.target.select(anchors))
        losses, sums = span_gradients(loss, *rows, **how)
        own = words.states(anchors)
        found["layers_anchored"] = (sums @ candidates.T).mean(dim=0)
        found["layers_weighted"] = weighted_anchors(losses.float(), sums, own, candidates)
    return found


def _anchor_rows(task: Task, table: WordTable, options: FidelityOptions) -> NDArray[np.int64]:
    others = np.setdiff1d(np.arange(len(table)), [*task.candidates, task.row])
    rng = np.random.default_rng([options.seed, 2, task.row, task.position])
    rows: NDArray[np.int64] = rng.choice(others, min(options.anchors, len(others)), replace=False)
    return rows


def _index(rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(rows)


def _with_words(task: Task, words: Ragged) -> tuple[Ragged, NDArray[np.int64]]:
    """The text with each of some words in the position, and the word's span ``(n, 2)``."""
    rows = [np.concatenate([task.before, word, task.after]).tolist() for word in words]
    begin = np.full(len(words), len(task.before), dtype=np.int64)
    return Ragged.from_lists(rows), np.stack([begin, begin + words.lengths], axis=1)


def finite_losses(
    contents: Ragged, loss: Loss, task: Task, options: FidelityOptions
) -> NDArray[np.float64]:
    """Return the loss ``(rows,)`` of every row; rows of like length share a batch to pad little.

    Raises:
        ModelError: one is not finite.
    """
    order = np.argsort(contents.lengths, kind="stable")
    losses = np.empty(len(contents))
    for start in range(0, len(contents), options.batch_size):
        chosen = order[start : start + options.batch_size]
        loss.forget()
        losses[chosen] = loss.score(contents.select(chosen)).double().cpu().numpy()
    if not np.isfinite(losses).all():
        raise ModelError(
            f"{loss.model.name}: loss {options.loss.value!r} is not finite for words put into "
            f"{' '.join(task.words)!r}",
            expected="finite losses",
            remedy="load the model in float32, or use another loss",
        )
    return losses


def report_of(samples: tuple[Sample, ...], options: FidelityOptions) -> FidelityReport:
    """Put the samples' figures together, by prediction."""
    names = tuple(samples[0].predicted)
    correlation = {
        name: Estimate.of([spearman(s.predicted[name], s.change) for s in samples])
        for name in names
    }
    share = {
        name: {
            among: Estimate.of(
                [share_found(s.predicted[name], s.change, options.best, among) for s in samples]
            )
            for among in options.among
        }
        for name in names
    }
    return FidelityReport(correlation, share, options, samples)
