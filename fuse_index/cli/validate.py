"""``fuse-index validate``: how good a bundle's gradient signal is, on texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuse_index.cli import _console, _flags, _outputs
from fuse_index.common.bounds import MAX_SEED, MAX_WIDTH
from fuse_index.errors import StorageError

if TYPE_CHECKING:
    from fuse_index.evaluate import FidelityReport
    from fuse_index.models.base import Model
    from fuse_index.objectives.target_loss import TargetLoss


def validate_command(
    bundle: _flags.Bundle,
    texts: Annotated[
        Path, typer.Option("--texts", help="Texts, one a line; plain or .gz.", metavar="FILE")
    ],
    samples: Annotated[
        int, typer.Option(max=MAX_WIDTH, help="Texts to measure, one word position each.")
    ] = 60,
    candidates: Annotated[
        int, typer.Option(max=MAX_WIDTH, help="Random candidate words for each.")
    ] = 400,
    loss: Annotated[
        str | None,
        typer.Option(help="similarity, label or nll.  [default: what the target is made for]"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Label of a classifier.  [default: the one a text has least of]"),
    ] = None,
    seed: Annotated[
        int, typer.Option(max=MAX_SEED, help="Decides texts, positions and candidates.")
    ] = 0,
    source: _flags.SourcePlace = None,
    target: _flags.TargetPlace = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Picture to write.", metavar="FILE.png")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the texts.")] = "utf-8",
    device: _flags.Device = None,
    batch_size: _flags.BatchSize = 128,
    anchors: Annotated[
        int,
        typer.Option(
            max=MAX_WIDTH,
            help="Random words whose gradients in the position are averaged; 0: none.",
        ),
    ] = 0,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Also predict from the hidden states of every layer."),
    ] = False,
    residual_scale: Annotated[
        float,
        typer.Option(help="Factor of the gradient through residual branches; 1: as it is."),
    ] = 1.0,
    unit: Annotated[
        str, typer.Option(help="What is replaced: word, or token of the source.")
    ] = "word",
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Measure how well a bundle's gradients predict changes of a target loss.

    In each sampled text one word is replaced by random words of the bundle. The true change of the
    loss is compared with first-order predictions: 'adapter' (the gradient is pulled back to the
    candidate's source tokens), 'word' (the word-space gradient, which needs no adapter) and random
    scores. Both take the gradient with the vocabulary's mean word in the position; the rows
    '..._at_current' take it at the unchanged text, and 'adapter_by_token' there too, token by token
    through the current word's group, as optimizers of single tokens do. With --anchors, the rows
    '..._anchored' average the gradient over random words in the position, and 'word_weighted' lets
    each candidate weigh the anchors by its likeness to them. With --layers, the rows 'layers_...'
    take the gradients at the word's hidden states in every layer instead of at its embedding.
    --residual-scale below 1 scales all gradients in the residual branches of the target (LSGM).
    With --unit token, one token of the source is replaced by random tokens that the source reads
    again, and the rows are the predictions of runs at the unchanged text: through the adapter, by
    the embeddings of each token's own tokens in the target, and with --layers by their states.
    Reported are Spearman's correlation and the share of the 10 truly best candidates among the
    predicted best 10, 50, 100.
    """
    from fuse_index.adapter import Adapter
    from fuse_index.bundle.identity import require_model
    from fuse_index.common.reading import choose
    from fuse_index.evaluate import FidelityOptions, measure_fidelity, measure_token_fidelity
    from fuse_index.models import load_model
    from fuse_index.models.embeddings import load_embeddings
    from fuse_index.objectives.target_loss import TargetLoss
    from fuse_index.predict.units import Unit
    from fuse_index.words.corpus.words import read_texts

    _outputs.require_writable(plot, "--plot")
    wanted = None if loss is None else choose(TargetLoss, loss, "--loss")
    moved = choose(Unit, unit, "--unit")
    adapter = Adapter.from_pretrained(bundle)
    assert adapter.bundle is not None
    manifest = adapter.bundle.manifest
    lines = read_texts(texts, encoding)
    with _console.ProgressBar() as bar:
        bar("loading models", 0, None)
        measure: Callable[..., FidelityReport]
        if moved is Unit.TOKEN:
            begin = load_model(
                source or manifest.source.name, device=device, local_files_only=offline
            )
            identity, measure = begin.identity(), partial(measure_token_fidelity, adapter, begin)
        else:
            read = load_embeddings(source or manifest.source.name, local_files_only=offline)
            identity = read.identity
            measure = partial(measure_fidelity, adapter, adapter.bundle.table, read.table)
        model, wanted = _load_target(target or manifest.target.name, wanted, device, offline)
        require_model("source", manifest.source, identity, str(bundle))
        require_model("target", manifest.target, model.identity(), str(bundle))
        report = measure(
            model,
            texts=lines,
            options=FidelityOptions(
                wanted,
                samples,
                candidates,
                seed,
                label=label,
                batch_size=batch_size,
                anchors=anchors,
                layers=layers,
                residual_scale=residual_scale,
            ),
            progress=bar.stage(f"substituting {moved.value}s"),
            stage=bar.stage(f"looking at {moved.value}s"),
        )
    names = [
        Path(name).name if Path(name).is_absolute() else name
        for name in (manifest.source.name, manifest.target.name)
    ]
    unplotted = _plot(report, plot, f"{names[0]} from {names[1]}, loss {wanted.value}")
    found = {"bundle": str(bundle), "texts": str(texts), "unit": moved.value, **report.to_dict()}
    _outputs.finish(json, found, lambda: _show(report), [unplotted])


def _plot(report: FidelityReport, path: Path | None, title: str) -> _outputs.Unsaved | None:
    """Draw the plot, if one is wanted; the figures are printed even where that fails."""
    from fuse_index.evaluate.plot import plot_fidelity

    if path is None:
        return None
    try:
        plot_fidelity(report, path, title)
    except StorageError as error:
        return _outputs.Unsaved(error)
    _console.note(f"plot: {path}")
    return None


def _load_target(
    name: str, loss: TargetLoss | None, device: str | None, offline: bool
) -> tuple[Model, TargetLoss]:
    """Load the target as the kind that the loss needs."""
    from fuse_index.models import load_model
    from fuse_index.objectives.target_loss import kind_for, loss_for

    model = load_model(name, device=device, local_files_only=offline)
    loss = loss or loss_for(model.kind)
    kind = kind_for(loss, model.kind)
    if kind is not model.kind:
        model = load_model(name, kind=kind, device=device, local_files_only=offline)
    return model, loss


def _show(report: FidelityReport) -> None:
    options = report.options
    header = ["prediction", "Spearman", "s.e."]
    header += [f"best {options.best} in {among}" for among in options.among]
    rows = [
        [
            name,
            f"{estimate.mean:.3f}",
            f"{estimate.stderr:.3f}",
            *(f"{report.share[name][among].mean:.2f}" for among in options.among),
        ]
        for name, estimate in report.spearman.items()
    ]
    title = (
        f"{len(report.samples)} texts, {options.candidates} candidates, {options.loss.value} loss"
    )
    _console.print_table(header, rows, title=title)
