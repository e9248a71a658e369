"""The race at equal compute: which method has the lowest loss after so many FLOPs.

FLOPs are counted by Kaplan's rule, 2 N a token forward and 4 N backward (``Budget(flops=...)``);
losses at equal seconds stand beside. Tracks:

* random: a prompt of 15 free tokens, 10 random tokens to follow; ``random-message``: behind text;
* readable: messages and sentences (``--tasks FILE.tsv``);
* cross: the same for two models with different tokenizers, ``--second``, from the tokens of one;
* inversion: texts to be found again by their embeddings in ``--encoder`` (``--texts FILE``).

Methods are named, with changes of their options behind a plus; the first one is the baseline:

    python tools/bench_race.py --methods gcg best best+residual_scale=0.7+beam=8
    python tools/bench_race.py --model MODEL --device cuda --dtype bfloat16 --flops 1e14
        --tasks-count 10 --seeds 3 --out runs --plot race.png --theirs CHECKOUT
        --methods gcg best theirs:mac theirs:tao

Choose options on ``--part tuning``, report ``--part held-out`` (the default). With ``--out`` a race
that was stopped goes on. Without arguments: the packaged model, two minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import _race_report as report
import _race_runs as runs
import _race_theirs as theirs
from _bench import parser, publish
from _race_methods import method_named
from _race_tracks import (
    HELD_OUT,
    TUNING,
    Task,
    Track,
    caption_tasks,
    random_tasks,
    readable_tasks,
)

TRACKS = ("random", "random-message", "readable", "cross", "inversion")
_THEIRS = "theirs:"
_CPU_FLOPS, _GPU_FLOPS = 5e10, 1e14


def make_track(options: argparse.Namespace, folder: Path) -> Track:
    """Load the models of the track, its words, and its adapters where a method needs them."""
    from fuse_index import load_model

    how = {"device": options.device, "dtype": options.dtype}
    source = load_model(options.model, kind="causal", **how)
    others, encoder = [], None
    if options.track == "cross":
        others = [load_model(options.second, kind="causal", **how)]
    elif options.track == "inversion":
        encoder = load_model(options.encoder, kind="encoder", **how)
    words = read_words(options, source)
    targets = [*others, *([encoder] if encoder else [])]
    adapters = []
    if any(needs_adapter(name) for name in options.methods):
        adapters = [
            build_adapter(source, own, words, folder / str(i)) for i, own in enumerate(targets)
        ]
    return Track(options.track, source, others, adapters, words, options.length, encoder)


def needs_adapter(name: str) -> bool:
    """Whether a method sends gradients through adapters, in a track of several tokenizers."""
    ranking = None if name.startswith(_THEIRS) else method_named(name).method.ranking
    return ranking is not None and ranking[1].needs_adapters


def read_words(options: argparse.Namespace, source: Any) -> list[str]:
    """The words of word moves: of letters alone, from texts, or tokens of the source."""
    if options.words:
        from collections import Counter

        counts: Counter[str] = Counter()
        for path in options.words:
            counts.update(path.read_text(encoding="utf-8").split())
        return [word for word, count in counts.items() if count > 1 and word.isalpha()]
    texts = source.words.decode_batch([[i] for i in range(source.vocabulary_size)])
    begun = [text[1:] for text in texts if text[:1] == " "]
    return list(dict.fromkeys(text for text in begun if text.isascii() and text.isalpha()))


def build_adapter(source: Any, target: Any, words: list[str], folder: Path) -> Any:
    """Build the adapter to one model from the words."""
    from fuse_index import Adapter, build_bundle
    from fuse_index.build import BuildOptions

    folder.mkdir(parents=True)
    path = folder / "words.txt"
    path.write_text("\n".join(f"{word} {word}" for word in words), encoding="utf-8")
    options = BuildOptions(groups=False)
    bundle = build_bundle(source, target, folder / "bundle", [path], options=options).path
    return Adapter.from_pretrained(bundle)


def make_tasks(options: argparse.Namespace, source: Any) -> list[Task]:
    """The targets of the track."""
    count = options.tasks_count
    if options.track.startswith("random"):
        message = options.track == "random-message"
        return random_tasks(source, options.part, count, options.target_tokens, message=message)
    if options.track == "inversion":
        return caption_tasks(options.part, count, options.texts, options.set)
    return readable_tasks(options.part, count, options.tasks)


def race(
    track: Track, tasks: list[Task], options: argparse.Namespace
) -> dict[str, list[runs.Outcome]]:
    """Run every method on every target with every seed; what was run before is read."""
    limits = runs.Limits(options.flops, options.seconds)
    names = [n.removeprefix(_THEIRS) for n in options.methods if n.startswith(_THEIRS)]
    known = theirs.find_methods(options.theirs, names) if names else {}
    common = {
        "track": options.track,
        "models": [own.name for own in (track.source, *track.others, track.encoder) if own],
        "length": track.length,
        "dtype": str(track.source.dtype),
        "device": str(track.source.device),
        "flops": options.flops,
        "seconds": options.seconds,
        "words": len(track.words),
    }
    folder = runs.Folder(options.out, common)
    found: dict[str, list[runs.Outcome]] = {name: [] for name in options.methods}
    for task in tasks:
        for name in options.methods:
            for seed in range(options.seeds):
                key = {"method": name, "task": vars(task), "seed": seed}
                outcome = folder.find(**key)
                if outcome is None:
                    job, own = runs.Job(name, task, seed), name.removeprefix(_THEIRS)
                    if own != name:
                        outcome = theirs.run(track, known[own], job, limits)
                    else:
                        outcome = runs.run(track, method_named(name), job, limits)
                    folder.keep(outcome, **key)
                found[name].append(outcome)
                seconds = outcome.curve[-1][1]
                line = f"{task.name} {name} {seed}: {outcome.final:.3f} in {seconds:.1f} s"
                print(line, file=sys.stderr, flush=True)
    return found


def arguments() -> argparse.ArgumentParser:
    """The arguments of the race."""
    found = parser(__doc__)
    found.add_argument("--track", choices=TRACKS, default="random")
    found.add_argument("--methods", nargs="+", default=["gcg+search_width=64", "best"])
    found.add_argument("--model", default="demo:lm", help="a causal model; the prompt's tokens")
    found.add_argument("--second", help="track cross: a causal model with another tokenizer")
    found.add_argument("--encoder", help="track inversion: a model of texts")
    found.add_argument("--device")
    found.add_argument("--dtype", help="float32, bfloat16; by default the model's")
    found.add_argument("--flops", type=float, help="of a run; by default 5e10, on a GPU 1e14")
    found.add_argument("--seconds", type=float, help="of a run, at most")
    found.add_argument("--part", choices=(TUNING, HELD_OUT), default=HELD_OUT)
    found.add_argument("--tasks-count", type=int, default=3, help="targets")
    found.add_argument("--seeds", type=int, default=1, help="runs on each target")
    found.add_argument("--length", type=int, default=15, help="tokens of the prompt")
    found.add_argument("--target-tokens", type=int, default=10)
    found.add_argument("--tasks", type=Path, help="messages and targets, separated by tabs")
    found.add_argument("--texts", type=Path, help="track inversion: texts, one a line")
    found.add_argument("--set", type=int, default=0, help="track inversion: which texts are drawn")
    found.add_argument("--words", type=Path, nargs="+", help="texts whose words candidates are")
    found.add_argument("--out", type=Path, help="folder of runs, to go on from")
    found.add_argument("--plot", type=Path, help="picture to write")
    found.add_argument("--theirs", type=Path, help="a checkout of Claudini, for theirs:NAME")
    return found


def main() -> int:
    """Run the race."""
    parsed = arguments()
    options = parsed.parse_args()
    for track, name in (("cross", "second"), ("inversion", "encoder")):
        if options.track == track and getattr(options, name) is None:
            parsed.error(f"--track {track} needs --{name}")
    if any(name.startswith(_THEIRS) for name in options.methods) and options.theirs is None:
        parsed.error("a method theirs:NAME needs --theirs FOLDER")
    for name in options.methods:
        if not name.startswith(_THEIRS):
            method_named(name)
    with tempfile.TemporaryDirectory() as folder:
        track = make_track(options, Path(folder))
        if options.flops is None:
            options.flops = _GPU_FLOPS if track.source.device.type == "cuda" else _CPU_FLOPS
        outcomes = race(track, make_tasks(options, track.source), options)
    rows = report.rows_of(outcomes, options.methods[0], options.flops)
    title = f"{options.track}, {track.source.name}, {options.flops:.3g} FLOPs, {options.part}"
    if options.plot is not None:
        report.plot(outcomes, options.flops, options.plot, title)
    if not options.json:
        print(f"{title}, {options.tasks_count} targets x {options.seeds} seeds")
        print(report.table(rows))
        return 0
    publish(
        "bench_race",
        rows,
        options.json,
        ("transformers",),
        track=options.track,
        part=options.part,
        model=track.source.name,
        flops=options.flops,
        parameters=track.source.active_parameters,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
