"""How well a first-order prediction ranks candidate words: the gradient signal, measured.

For each sampled text one word position is taken and every candidate word is put there. The true
change of a target loss is compared with first-order predictions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.errors import ModelError, OptionError
from fuse_index.evaluate.layered import ANCHORED as LAYERS_ANCHORED
from fuse_index.evaluate.layered import AT_CURRENT, WordStates, predict_by_layers
from fuse_index.evaluate.layered import WEIGHTED as LAYERS_WEIGHTED
from fuse_index.evaluate.losses import Loss, RowLoss, label_loss, nll_loss, similarity_loss
from fuse_index.evaluate.predictors import (
    ANCHORED,
    PREDICTORS,
    WEIGHTED,
    Anchors,
    Vocabulary,
    by_weighted_anchors,
    mean_word,
)
from fuse_index.evaluate.ranking import Estimate, share_found, spearman
from fuse_index.evaluate.sampling import Task, draw_tasks
from fuse_index.optimize.word_gradient import Expansion
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.models.base import Model
    from fuse_index.words.table import WordTable

Progress = Callable[[int, int], None]
RANDOM = "random"
"""Name of the random scores that every prediction is compared with."""


@dataclass(frozen=True)
class FidelityOptions:
    """Options of :func:`measure_fidelity`.

    Attributes:
        loss: the target loss.
        samples: texts; one word position is taken in each.
        candidates: random words of the table that are put there.
        seed: decides texts, positions, candidates and random scores.
        label: label of a classifier; ``None`` takes the one each text has least of.
        best: how many truly best candidates the shares look for.
        among: among how many predicted best.
        batch_size: rows of one forward pass.
        anchors: random words whose gradients in the position are averaged, for the predictions
            ``..._anchored``; 0 leaves them out.
        layers: whether to predict from the gradients at the hidden states of every layer too, which
            first takes 16 short forward passes for every word that is put anywhere.
    """

    loss: Loss
    samples: int = 60
    candidates: int = 400
    seed: int = 0
    label: str | None = None
    best: int = 10
    among: tuple[int, ...] = (10, 50, 100)
    batch_size: int = 128
    anchors: int = 0
    layers: bool = False

    def __post_init__(self) -> None:
        least = {"samples": 2, "candidates": 3, "seed": 0, "best": 1, "batch_size": 1, "anchors": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise OptionError(f"{name}={getattr(self, name)}", expected=f"at least {value}")
        if self.label is not None and self.loss is not Loss.LABEL:
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
    progress: Progress | None = None,
    stage: Progress | None = None,
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
        OptionError: the classifier does not have the label.
        ModelError: the loss is not finite.
    """
    tasks = draw_tasks(
        table,
        model,
        texts,
        samples=options.samples,
        candidates=options.candidates,
        seed=options.seed,
    )
    device, dtype = model.device, torch.float32
    vocabulary = Vocabulary(
        table,
        adapter.to(device, dtype),
        source_embeddings.to(device, dtype),
        model.table().to(device, dtype),
    )
    mean = mean_word(vocabulary)
    states = (
        _word_states(tasks, table, model, texts, options=options, progress=stage)
        if options.layers
        else None
    )
    rng = np.random.default_rng([options.seed, 1])
    samples = []
    for done, task in enumerate(tasks, 1):
        samples.append(_measure(task, vocabulary, mean, model, states, options=options, rng=rng))
        if progress is not None:
            progress(done, len(tasks))
    return _report(tuple(samples), options)


def _measure(
    task: Task,
    vocabulary: Vocabulary,
    mean: Tensor,
    model: Model,
    states: WordStates | None,
    *,
    options: FidelityOptions,
    rng: np.random.Generator,
) -> Sample:
    loss_of = _row_loss(task, model, options)
    gradients = {
        Expansion.CURRENT: _gradient(task, None, model, loss_of),
        Expansion.MEAN_WORD: _gradient(task, mean, model, loss_of),
    }
    rows = vocabulary.table.target.select(np.concatenate([[task.row], task.candidates]))
    contents = _with_words(task, rows)
    losses = _losses(contents, model, loss_of, options.batch_size)
    if not np.isfinite(losses).all():
        raise ModelError(
            f"{model.name}: loss {options.loss.value!r} is not finite for words put into "
            f"{' '.join(task.words)!r}",
            expected="finite losses",
            remedy="load the model in float32, or use another loss",
        )
    predicted = {
        name: predict(vocabulary, gradients[at], task.row, task.candidates).double().cpu().numpy()
        for name, (predict, at) in PREDICTORS.items()
    }
    if options.anchors:
        predicted |= _anchored(task, vocabulary, model, loss_of, options=options)
    if states is not None:
        anchors = _anchor_rows(task, vocabulary.table, options)
        layered = predict_by_layers(
            task, vocabulary.table.target, anchors, states, model=model, loss_of=loss_of
        )
        predicted |= {name: own.double().cpu().numpy() for name, own in layered.items()}
    predicted[RANDOM] = rng.standard_normal(len(task.candidates))
    return Sample(task, float(losses[0]), losses[1:] - losses[0], predicted)


def _row_loss(task: Task, model: Model, options: FidelityOptions) -> RowLoss:
    if options.loss is Loss.NLL:
        return nll_loss(model)
    if options.loss is Loss.SIMILARITY:
        features = model.encode_texts([task.other], normalize=True).features
        assert features is not None
        return similarity_loss(model, features[0])
    if options.label is not None:
        return label_loss(model, _label_index(model, options.label))
    logits = model.encode_texts([model.words.lead + " ".join(task.words)]).logits
    assert logits is not None
    return label_loss(model, int(logits[0].argmin()))


def _label_index(model: Model, label: str) -> int:
    labels = list(getattr(model, "labels", ()))
    if label not in labels:
        raise OptionError(
            f"{model.name} has no label {label!r}",
            expected=f"one of {', '.join(map(repr, labels))}",
        )
    return labels.index(label)


def _gradient(task: Task, mean: Tensor | None, model: Model, loss_of: RowLoss) -> Tensor:
    """``(q, d_tgt)`` float32: gradient at the current word's tokens, or at ``mean`` in their place.

    The mean word takes one position; any token of the model stands for it in the batch's ids.
    """
    word = task.tokens[task.position] if mean is None else task.tokens[task.position][:1]
    batch = model.batch([[*task.before.tolist(), *word.tolist(), *task.after.tolist()]])
    embeds = model.embed(batch.ids)
    start = batch.start + len(task.before)
    if mean is not None:
        embeds[0, start] = mean.to(embeds.dtype)
    embeds.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(embeds, batch).sum(), embeds)
    return gradient[0, start : start + len(word)].float()


def _anchored(
    task: Task,
    vocabulary: Vocabulary,
    model: Model,
    loss_of: RowLoss,
    *,
    options: FidelityOptions,
) -> dict[str, NDArray[np.float64]]:
    """Predictions from gradients with random words in the position, none of them a candidate."""
    rows = _anchor_rows(task, vocabulary.table, options)
    contents = _with_words(task, vocabulary.table.target.select(rows))
    batch = model.batch(contents)
    embeds = model.embed(batch.ids).requires_grad_(True)
    losses = loss_of(embeds, batch)
    (gradient,) = torch.autograd.grad(losses.sum(), embeds)
    counts = vocabulary.table.target.lengths[rows]
    start = batch.start + len(task.before)
    sums = torch.stack(
        [gradient[i, start : start + n].float().sum(0) for i, n in enumerate(counts)]
    )
    mean = sums.mean(0, keepdim=True)
    found = {
        name: predict(vocabulary, mean, task.row, task.candidates)
        for name, predict in ANCHORED.items()
    }
    anchors = Anchors(rows, losses.detach().float(), sums)
    found[WEIGHTED] = by_weighted_anchors(vocabulary, anchors, task.candidates)
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def _anchor_rows(task: Task, table: WordTable, options: FidelityOptions) -> NDArray[np.int64]:
    others = np.setdiff1d(np.arange(len(table)), [*task.candidates, task.row])
    rng = np.random.default_rng([options.seed, 2, task.row, task.position])
    rows: NDArray[np.int64] = rng.choice(others, min(options.anchors, len(others)), replace=False)
    return rows


def _word_states(
    tasks: Sequence[Task],
    table: WordTable,
    model: Model,
    texts: Sequence[str],
    *,
    options: FidelityOptions,
    progress: Progress | None,
) -> WordStates:
    """The states of all words that are put anywhere."""
    anchors = [_anchor_rows(task, table, options) for task in tasks]
    rows = np.concatenate([*(task.candidates for task in tasks), *anchors])
    return WordStates.of(model, table.target, rows, texts, progress)


def _with_words(task: Task, words: Ragged) -> Ragged:
    """The text with each of some words in the position, in the target's tokens."""
    return Ragged.from_lists(
        [np.concatenate([task.before, word, task.after]).tolist() for word in words]
    )


def _losses(
    contents: Ragged, model: Model, loss_of: RowLoss, batch_size: int
) -> NDArray[np.float64]:
    """``(rows,)``: the loss of every row; rows of like length share a batch to pad little."""
    order = np.argsort(contents.lengths, kind="stable")
    losses = np.empty(len(contents))
    for start in range(0, len(contents), batch_size):
        chosen = order[start : start + batch_size]
        batch = model.batch(contents.select(chosen))
        with torch.no_grad():
            losses[chosen] = loss_of(model.embed(batch.ids), batch).double().cpu().numpy()
    return losses


def _report(samples: tuple[Sample, ...], options: FidelityOptions) -> FidelityReport:
    anchored = (*ANCHORED, WEIGHTED) if options.anchors else ()
    layered: tuple[str, ...] = ()
    if options.layers:
        layered = (AT_CURRENT, *((LAYERS_ANCHORED, LAYERS_WEIGHTED) if options.anchors else ()))
    names = (*PREDICTORS, *anchored, *layered, RANDOM)
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
