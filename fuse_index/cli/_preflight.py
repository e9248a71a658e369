"""``fuse-index doctor SOURCE TARGET``: what is asked, and what is printed."""

from __future__ import annotations

from typing import Any

from fuse_index.cli import _console
from fuse_index.cli._words import TextFlags

_WHY = {
    "native": "native kernels",
    "torch": "pure torch: the same numbers, slower",
    "not needed": "not needed: the adapter is the identity",
}
_RETOKENIZER = {
    "native": "native",
    "python": "in Python: the same ids, slower",
    "tokenizers": "by decoding and encoding text: these tokenizers give no shortcut",
}


def examine_pair(
    models: tuple[str, str], text: TextFlags, *, groups: bool, offline: bool
) -> dict[str, Any]:
    """Gather everything that ``--json`` prints of a pair."""
    from fuse_index.build import BuildOptions
    from fuse_index.build.forecast.preflight import preflight

    with _console.ProgressBar() as bar:
        found = preflight(
            *models,
            text.corpus or (),
            word_list=text.words,
            nested=not text.flat,
            options=BuildOptions(*text.options(), groups=groups),
            local_files_only=offline,
            progress=bar,
        )
    return found.to_dict()


def show(report: dict[str, Any]) -> None:
    """Write the report of a pre-flight as tables."""
    source, target = report["source"], report["target"]
    rows = [("model", "model"), ("tokenizer", "tokenizer"), ("words follow", "after")]
    _console.print_table(
        ["", "source", "target"],
        [
            *([label, str(source[key]), str(target[key])] for label, key in rows),
            ["embeddings", *(f"{m['vocabulary']:,} x {m['width']:,}" for m in (source, target))],
            ["weights", *(_size(m["weights_bytes"]) for m in (source, target))],
        ],
    )
    _show_words(report)
    _show_costs(report)
    for note in report["notes"]:
        _console.say(f"note: {_console.one_line(note)}")


def _show_words(report: dict[str, Any]) -> None:
    words = report["words"]
    guess = "about " if words["extrapolated"] else ""
    _console.say(
        f"words: {guess}{words['counted']:,} from the {words['from']}, {words['tried']:,} of them "
        f"tried; {guess}{words['kept']:,} will be in the bundle"
    )
    _console.say()
    _console.print_table(
        ["words that will not align", "words", "such as"],
        [
            [item["reason"], f"{item['words']:,}", ", ".join(item["examples"])]
            for item in report["left_out"]
        ],
        justify="left",
    )
    _console.print_table(
        ["group", "words", "adapter"],
        [
            [item["group"], f"{item['words']:,}", "its own" if item["own_adapter"] else "fallback"]
            for item in report["groups"]
        ],
    )


def _show_costs(report: dict[str, Any]) -> None:
    bundle, build, run = report["bundle"], report["build"], report["run_time"]
    files = ", ".join(f"{name} {_size(size)}" for name, size in bundle["files"].items())
    stages = ", ".join(f"{name} {seconds:,.1f}" for name, seconds in build["stages"].items())
    native = report["native"]
    backs = native["pull_back"]
    _console.print_table(
        ["expected", "", ""],
        [
            ["bundle", _size(bundle["bytes"]), files],
            ["build: time", _duration(build["seconds"]), f"{stages} s"],
            ["build: memory", _size(build["memory_bytes"]), "largest resident set"],
            ["build: disk", _size(build["disk_bytes"]), "until it is finished"],
            ["in use: adapter", _size(run["adapter_bytes"]), "float32; half of it in bfloat16"],
            ["in use: words", _size(run["words_bytes"]), "where the word table is read"],
            ["in use: weights", _size(run["weights_bytes"]), "both models, as they are stored"],
            ["in use: states", _size(run["states_bytes"]), "of words, where 'layers' ranks them"],
            ["pull-back", "CPU", _WHY[backs["cpu"]]],
            ["", "CUDA", _WHY[backs["cuda"]] + _because(native)],
            ["retokenizer", "", _RETOKENIZER[report["native"]["retokenizer"]]],
        ],
        justify="left",
    )
    _console.say(
        f"Builds were measured within a factor of {build['time_factor']:g} of the time and "
        f"{build['memory_factor']:g} of the memory, on a machine that does nothing else."
    )


def _because(native: dict[str, Any]) -> str:
    return f" ({native['reason']})" if native["reason"] and not native["cuda"] else ""


def _size(size: float | None) -> str:
    from rich.filesize import decimal

    return "not known" if size is None else decimal(int(size))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h"
