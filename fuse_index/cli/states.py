"""``fuse-index states``: the hidden states of a bundle's words, computed ahead of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.predict.store import StateFolder
    from fuse_index.words.ragged import Ragged


def states_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_flags.MODEL_HELP)],
    bundle: _flags.Bundle,
    device: _flags.Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="Dtype that runs will have: float32, bfloat16, float16.")
    ] = None,
    into_bundle: Annotated[
        bool, typer.Option("--into-bundle", help="Put them into BUNDLE, too, for others.")
    ] = False,
    offline: _flags.Offline = False,
    json: _flags.Json = False,
) -> None:
    """Compute the hidden states that word moves by layers need, ahead of time.

    The words of BUNDLE are run through every layer of MODEL between a few other words, once; runs
    that rank words by layers (predictor 'layers') then find their states in the cache, in half
    precision. What is computed stays if this is interrupted, and only words that are missing are
    run. States depend on the model's weights, its dtype and the kind of device.

    With --into-bundle BUNDLE carries them: whoever has it and the same model finds them in there.
    """
    import torch

    from fuse_index.bundle import read_bundle
    from fuse_index.common.reading import choose
    from fuse_index.models import load_model
    from fuse_index.predict.carried import put_states
    from fuse_index.predict.store import offer_states
    from fuse_index.run.config import Precision

    opened = read_bundle(bundle)
    words = opened.table.words
    chosen = None if dtype is None else getattr(torch, choose(Precision, dtype, "--dtype").value)
    with _console.ProgressBar() as bar:
        bar("loading the model", 0, None)
        loaded = load_model(model, device=device, dtype=chosen, local_files_only=offline)
        units = loaded.words.encode_words(words)
        units = units.select([row for row, size in enumerate(units.lengths) if size])
        offer_states(loaded, opened)
        folder, report = _prepare(loaded, units, bar)
        if into_bundle:
            bar(f"writing {bundle}", 0, None)
            report["carried"] = put_states(folder, units, opened)
    report = {"model": model, "bundle": str(bundle), **report}
    _console.answer(json, report, lambda: _show(report))


def _prepare(
    model: Model, units: Ragged, bar: _console.ProgressBar
) -> tuple[StateFolder, dict[str, Any]]:
    """Compute what is missing; return where the states are, and what was done."""
    from fuse_index.predict.states import Contexts, states_seconds
    from fuse_index.predict.store import StateFolder

    if not len(units):
        raise OptionError(
            f"the bundle's words have no tokens in {model.name}",
            expected="a model that reads them",
        )
    contexts = Contexts()
    folder = StateFolder(model, contexts)
    missing = folder.missing(units)
    size = 2 * len(units) * (len(model.layers) + 1) * model.width
    if len(missing):
        expected = states_seconds(model, units.select(missing), contexts)
        _console.note(
            f"{len(missing):,} of {len(units):,} words in {contexts.count} contexts: about "
            f"{expected:,.0f} s, {size / 1e6:,.0f} MB in all"
        )
    begin = time.perf_counter()
    folder.states(units, bar.stage(f"states of words in {model.name}"))
    return folder, {
        "words": len(units),
        "computed": len(missing),
        "seconds": round(time.perf_counter() - begin, 2),
        "bytes": size,
        "folder": str(folder.path),
    }


def _show(report: dict[str, Any]) -> None:
    _console.say(
        f"states of {report['words']:,} words, {report['computed']:,} of them computed in "
        f"{report['seconds']:.1f} s, {report['bytes'] / 1e6:,.0f} MB: {report['folder']}"
    )
    if "carried" in report:
        _console.say(f"{report['bundle']} carries them, {report['carried'] / 1e6:,.0f} MB")
