#!/usr/bin/env python3
"""Benchmark of the pre-flight: what ``doctor SOURCE TARGET`` says against builds that are made.

Every prediction and every build runs in a process of its own, in turns. ``seconds`` is the build's
own total, the baseline what was predicted, so the ratio is predicted over measured; ``size`` and
``memory`` are such ratios too. Without the folder of real models and texts the packaged pair takes
their place.

corpus     image captions, words seen twice
all words  captions and prose, every word
list       a list of words put together from two, of which half are tried
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import _bench

SHARED = _bench.ROOT.parent / "shared"


def main() -> None:
    """Predict and build in turns, and compare."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--words", type=int, default=100_000, help="of the list")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(run(json.loads(options.worker[0]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair, cases = find_cases(folder, options.words)
        found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for turn in range(options.repeats):
            for case, arguments in cases.items():
                found[case].append(measure([*pair, *arguments], folder / "bundle"))
                print(f"turn {turn}, {case}: {found[case][-1]}", file=sys.stderr, flush=True)
    rows = [make_row(case, runs) for case, runs in found.items()]
    _bench.publish("preflight", rows, options.json, ("transformers",))


def find_cases(folder: Path, words: int) -> tuple[list[str], dict[str, list[str]]]:
    """Return the models, and the arguments of every case."""
    from fuse_index.demo import DemoModel, model_name, write_corpus

    models = [SHARED / "models" / name for name in ("gpt2-bpe-lm-18m", "minilm-sentiment")]
    texts = [
        SHARED / "corpora" / name for name in ("flickr8k-captions.txt", "wikitext-2-valid.txt")
    ]
    pair = list(map(str, models))
    if not all(path.exists() for path in [*models, *texts]):
        pair = [model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)]
        texts = [folder / "corpus.txt"] * 2
        write_corpus(texts[0])
    every = ["--corpus", str(texts[0]), "--corpus", str(texts[1]), "--min-count", "1"]
    listed = folder / "list.txt"
    listed.write_text("\n".join(make_words(texts[0], words)), encoding="utf-8")
    return pair, {
        "corpus": ["--corpus", str(texts[0])],
        "all words": every,
        "list": ["--words", str(listed)],
    }


def make_words(text: Path, count: int) -> list[str]:
    """Put words together from the beginnings and ends of those of a text."""
    draw = random.Random(0)
    parts = sorted({word for word in text.read_text(encoding="utf-8").split() if word.isalpha()})
    found: dict[str, None] = {}
    while len(found) < count:
        head, tail = draw.choice(parts), draw.choice(parts)
        found[head[: draw.randint(2, 8)] + tail[-draw.randint(2, 6) :]] = None
    return list(found)


def measure(arguments: list[str], bundle: Path) -> dict[str, float]:
    """Predict one build, make it, and compare."""
    said = worker(["doctor", *arguments, "--json"])["found"]
    build = ["build", *arguments, "--out", str(bundle), "--overwrite", "--json"]
    done = worker(build)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    return {
        "predicted": said["build"]["seconds"],
        "measured": done["found"]["seconds"],
        "size": said["bundle"]["bytes"] / size,
        "memory": said["build"]["memory_bytes"] / done["peak"],
        "words": done["found"]["words"],
    }


def worker(arguments: list[str]) -> dict[str, Any]:
    """Run a verb in a process of its own."""
    return _bench.run_worker(__file__, ["--worker", json.dumps(arguments)])


def run(arguments: list[str]) -> dict[str, Any]:
    """Run a verb here, and say what it printed and the most memory it took."""
    from fuse_index.cli.main import main as command

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = command(["--quiet", *arguments])
    if code:
        sys.exit(code)
    return {"found": json.loads(out.getvalue()), "peak": _bench.peak_rss()}


def make_row(case: str, runs: list[dict[str, float]]) -> _bench.Row:
    """Take the medians."""
    middle = {key: _bench.median([run[key] for run in runs]) for key in runs[0]}
    return _bench.row(
        f"{case}, {middle['words']:,.0f} words",
        middle["measured"],
        "predicted",
        middle["predicted"],
        size=middle["size"],
        memory=middle["memory"],
        time=[round(run["predicted"] / run["measured"], 2) for run in runs],
    )


if __name__ == "__main__":
    main()
