"""``fuse-index optimize``: a run file and flags in, a prompt out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuse_index.cli import _console, _flags, _outputs, _run
from fuse_index.common.bounds import MAX_COUNT
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.optimize import Check, Result
    from fuse_index.run import Assembly, RunConfig
    from fuse_index.run.files import FieldPath


@_flags.with_flags
def optimize_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="RUN.yaml", help="Run file, YAML or JSON.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME=MODEL", help="Add or replace a model. Can be repeated."
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="{type: T, model: NAME, ...}",
            help="Add an objective. Can be repeated.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Model whose tokens prompts are made of, by its name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.json", help="Where the result goes.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="State of the run; if it is there, the run goes on."),
    ] = None,
    check: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_COUNT,
            help="Paste the best prompt into every model: N tokens of what a causal one writes.",
        ),
    ] = None,
    *,
    flags: _flags.RunFlags,
) -> None:
    """Find a prompt with a small weighted sum of losses of several models.

    A run file says which models, which objectives, from where, and how (docs/run.md; --fields lists
    every field). Every field is a flag too, and flags override the file: --budget.steps 50,
    --models.lm.dtype bfloat16, --objectives.image.weight 22, --method gcg --method.unit word.

    Without --method the best that was measured for these models and this budget is taken; a line on
    stderr says which, and why. A limit that is given (--steps, --seconds, --forward-passes) is the
    only one; without any a run has 100 steps.

    Adapters to models with other tokens are built on first use and kept in ~/.cache/fuse_index (or
    $FUSE_INDEX_CACHE). Ctrl-C ends the run after the step it is in and gives the best so far (exit
    code 130). The same file and seed give the same result.
    """
    if flags.answered():
        return
    settings: list[tuple[FieldPath, Any]] = [
        (("models", name), item) for name, item in map(_named, model or ())
    ]
    settings += [("source", source)] if source is not None else []
    config = _config(file, [*settings, *flags.settings()], objective or [])
    for path, flag in ((out, "--out"), (checkpoint, "--checkpoint"), (flags.events, "--events")):
        _outputs.require_writable(path, flag)
    with _console.ProgressBar() as bar:
        from fuse_index.run import assemble

        ready = assemble(config, offline=flags.offline, progress=bar, checkpoint=checkpoint)
    _run.note_choice(ready.method)
    _run.note_memory(ready.problem, ready.method, ready.initial, config.options)
    resuming = checkpoint is not None and checkpoint.exists()
    with _run.Output(config.budget, flags.events, append=resuming) as output:
        result = output.watch(
            lambda callbacks: ready.run(
                callbacks, checkpoint=checkpoint, checkpoint_every=flags.checkpoint_every
            ),
            on_failure=lambda result: _failed(ready, result, out, flags.json),
        )
    if check is not None:
        result = _checked(ready, result, check, out, flags.json)
    unsaved = _outputs.save(result.to_bytes(), out, "--out")
    _outputs.finish(flags.json, result.to_json(), lambda: _show(ready, result), [unsaved])
    _run.stop_if_interrupted(result)


def _named(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not equals or not name or not model:
        raise OptionError(
            f"--model {text}", expected="NAME=MODEL, such as lm=openai-community/gpt2"
        )
    return name, model


def _config(
    file: Path | None, settings: list[tuple[FieldPath, Any]], objectives: list[str]
) -> RunConfig:
    from fuse_index.common.reading import FlagText
    from fuse_index.run import read_run

    value = _run.read_file(file)
    listed = value.get("objectives")
    if objectives:
        before = listed if isinstance(listed, list) else [] if listed is None else [listed]
        value["objectives"] = [*before, *map(FlagText, objectives)]
    _flags.put(value, settings)
    return read_run(value)


def _checked(ready: Assembly, result: Result, tokens: int, out: Path | None, json: bool) -> Result:
    """Let the models do what the prompt asks; where that fails, the result is kept as it is."""
    from fuse_index.optimize import Stop

    try:
        return replace(result, checks=result.check(ready.problem, tokens))
    except KeyboardInterrupt:
        return replace(result, stop=Stop.INTERRUPTED)
    except Exception as error:  # also where memory runs out
        error.result = result  # type: ignore[attr-defined]
        _failed(ready, result, out, json)
        raise


def _failed(ready: Assembly, result: Result, out: Path | None, json: bool) -> None:
    """Save and show the best so far of a run that failed; its error follows."""
    unsaved = _outputs.save(result.to_bytes(), out, "--out")
    if not json:
        _outputs.finish_failed(lambda: _show(ready, result), [unsaved])


def _show(ready: Assembly, result: Result) -> None:
    _console.say(result.text.strip())
    rows = []
    for name, term in zip(ready.problem.names, ready.problem.terms, strict=True):
        weight, loss = f"{result.weights[name]:g}", f"{result.losses[name]:.4f}"
        rows.append([name, term.model.name, weight, loss])
        for index, own in enumerate(result.items.get(name, ())):
            item = "not added yet" if own is None else f"{own:.4f}"
            rows.append([f"{name}[{index}]", "", "", item])
    rows.append(["total", "", "", f"{result.total:.4f}"])
    spent = result.spent
    title = (
        f"stopped by {result.stop.value}: {spent['steps']:,} steps, "
        f"{spent['forward_passes']:,} forward passes, {_flops(spent['flops'])}"
        f"{spent['seconds']:.1f} s"
    )
    _console.say()
    _console.print_table(["objective", "model", "weight", "loss"], rows, title=title)
    for name, text in result.full_texts.items():
        if text != result.text:
            _console.say(f"{name} reads {dumps(text, ensure_ascii=False)}")
    if result.checks:
        _console.say()
        _show_checks(result.checks)


def _flops(count: int | None) -> str:
    return "" if count is None else f"{count:.3g} FLOPs, "


def _show_checks(checks: Sequence[Check]) -> None:
    """Show what every model does with the prompt once it is pasted."""
    header = ["pasted", "model", "met", "wanted", "found"]
    rows = [
        [check.name, check.model, _met(check), _quoted(check.wanted), _found(check)]
        for check in checks
    ]
    known = [check.met for check in checks if check.met is not None]
    title = f"{sum(known)} of {len(known)} met" if known else "nothing that can be met"
    _console.print_table(header, rows, title=title)


def _met(check: Check) -> str:
    if check.met is None:
        return ""
    same = sum(wanted == found for wanted, found in check.tokens)
    counted = f" ({same} of {len(check.tokens)} tokens)" if check.tokens else ""
    return ("yes" if check.met else "no") + counted


def _found(check: Check) -> str:
    rank = "" if check.rank is None else f", rank {check.rank}"
    if check.value is None:
        return _quoted(check.found)
    if check.met is None:
        return f"similarity {check.value:.4f}{rank}"
    return f"{_quoted(check.found)} (wanted: {check.value:.1%})"


def _quoted(text: str) -> str:
    return _console.clean(dumps(text, ensure_ascii=False)) if text else ""
