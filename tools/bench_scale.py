#!/usr/bin/env python3
"""Benchmark of a build whose words do not fit into the memory.

Makes a text with N distinct words: pieces of the source tokenizer's own vocabulary, one or two of
them a word, so that nearly all keep to four tokens under both tokenizers; drawn by Zipf's law, and
every word at least once. Then builds a bundle from it
(without group tensors, which would take 2.5 KB a token) in a process of its own under --max-memory,
and reports peak resident memory and the rate over the first and over the last fifth of every stage:
in bytes or words a second, and of the fit, whose groups cost differently, in floating-point
operations a second.

--ray N repeats the build on a local Ray cluster of N workers and compares time and result.
--predict compares every stage with the cost model (fuse_index/build/forecast/cost.py), with rates
taken from a run of a tenth of the words.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _bench

SHARED = _bench.ROOT.parent / "shared"
MODELS = (SHARED / "models/gpt2-bpe-lm-18m", SHARED / "models/minilm-sentiment")
TOKENS_PER_WORD = 8
ZIPF = 1.05


def main() -> None:
    """Make the text, build, compare."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--words", type=float, default=10e6, help="distinct words")
    parser.add_argument("--max-memory", default="2G")
    parser.add_argument("--models", type=Path, nargs=2, default=MODELS)
    parser.add_argument("--folder", type=Path, help="for the text and the bundle (a lot of disk)")
    parser.add_argument("--ray", type=int, help="also on so many workers of a local Ray cluster")
    parser.add_argument("--predict", action="store_true", help="compare with the cost model")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    rows: list[_bench.Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        small = None
        if options.predict:
            small = case(options, int(options.words / 10), Path(folder), None)
            keep(rows, small, "a tenth of the words")
        whole = case(options, int(options.words), Path(folder), None)
        keep(rows, whole, "one process")
        if small:
            compare(rows, predict(small, whole), whole)
        if options.ray:
            spread = case(options, int(options.words), Path(folder), options.ray)
            equal = {"same_words": spread["words_sha256"] == whole["words_sha256"]}
            equal["same_adapters"] = spread["adapter_sha256"] == whole["adapter_sha256"]
            keep(rows, spread, f"Ray, {options.ray} workers", whole, **equal)
    _bench.publish("scale", rows, options.json, ("duckdb", "ray", "tokenizers"))


def keep(
    rows: list[_bench.Row],
    result: dict[str, Any],
    name: str,
    baseline: dict[str, Any] | None = None,
    **figures: Any,
) -> None:
    """Make a row of a build, and print it at once."""
    figures |= {
        "stages": result["stages"],
        "first_and_last_fifth": result["rates"],
        "last_by_first": {k: v[1] / v[0] for k, v in result["rates"].items()},
        "last_by_first_of_cpu": {k: v[1] / v[0] for k, v in result["cpu_rates"].items()},
        "cpu_seconds": result["cpu"],
        "words_in_table": result["in_table"],
        "peak_gb": result["peak"] / 1e9,
        "corpus_gb": result["corpus"] / 1e9,
        "words_a_second": result["words"] / result["seconds"],
        "load": os.getloadavg()[0],
    }
    seconds = None if baseline is None else baseline["seconds"]
    title = f"{result['words']:,} words, {name}"
    rows.append(_bench.row(title, result["seconds"], "one process", seconds, **figures))
    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)


def compare(rows: list[_bench.Row], predicted: dict[str, float], result: dict[str, Any]) -> None:
    """One row a stage: what the cost model predicted and what was measured."""
    for stage, seconds in result["stages"].items():
        if stage in predicted:
            title = f"{result['words']:,} words, {stage}: measured, against the cost model"
            rows.append(_bench.row(title, seconds, "predicted", predicted[stage]))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)


def predict(small: dict[str, Any], whole: dict[str, Any]) -> dict[str, float]:
    """Predict the stages of a build, with the rates that another one showed."""
    from fuse_index.build.forecast.cost import estimate

    def estimated(result: dict[str, Any]) -> dict[str, float]:
        groups = {
            tuple(map(int, name.split("x"))): float(sum(counts))
            for name, counts in result["groups"].items()
            if name != "fallback"
        }
        words, corpus = int(sum(groups.values())), float(result["corpus"])
        found = estimate(
            words, tuple(result["widths"]), groups, corpus_bytes=corpus, with_groups=False
        )
        return found.seconds

    before, after = estimated(small), estimated(whole)
    return {
        stage: after[stage] * small["stages"][stage] / before[stage]
        for stage in after
        if stage in small["stages"]
    }


def case(
    options: argparse.Namespace, words: int, folder: Path, workers: int | None
) -> dict[str, Any]:
    """Build from a text of so many distinct words, in a process of its own."""
    text = folder / f"{words}.txt"
    if not text.exists():
        start = time.perf_counter()
        command = [sys.executable, "-c", f"import bench_scale as b; b.write_text({words},"]
        command[-1] += f" {str(text)!r}, {str(options.models[0])!r})"
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
        size = text.stat().st_size / 1e9
        print(f"{text.name}: {size:.2f} GB in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    given = {
        "words": words,
        "text": str(text),
        "output": str(folder / f"bundle-{words}-{workers}"),
        "models": [str(path) for path in options.models],
        "memory": options.max_memory if workers is None else None,
        "ray": workers,
    }
    return _bench.run_worker(__file__, ["--worker", json.dumps(given)])


def write_text(words: int, path: str, model: str) -> None:
    """Write a text with at least so many distinct words."""
    import numpy as np
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    plain = [token for token in vocabulary if token.lstrip("Ġ").isascii()]
    inner = sorted(t for t in plain if t.isalpha() and 2 <= len(t) <= 4 and t.isascii())
    first = sorted(t[1:] for t in plain if t[0] == "Ġ" and t[1:].isalpha() and len(t) <= 7)
    generator = np.random.default_rng(0)
    heads, tails = np.array(first, object), np.array(inner, object)
    count = int(words * 1.08) + 1000  # some words are made twice
    # the frequent words are whole tokens, the rare ones pairs: as in text
    ranks = np.arange(count)
    pieces = heads[np.where(ranks < len(heads), ranks, generator.integers(len(heads), size=count))]
    pieces[len(heads) :] += tails[generator.integers(len(tails), size=max(0, count - len(heads)))]
    weights = 1 / np.arange(1, count + 1) ** ZIPF
    cumulated = np.cumsum(weights) / weights.sum()
    every = generator.permutation(count)
    step = 1 << 18
    with open(path, "w", encoding="ascii") as stream:
        for start in range(0, count, step):
            once = every[start : start + step]
            drawn = np.searchsorted(cumulated, generator.random((TOKENS_PER_WORD - 1) * len(once)))
            mixed = generator.permutation(np.concatenate([once, np.minimum(drawn, count - 1)]))
            chosen = pieces[mixed].tolist()
            lines = (" ".join(chosen[i : i + 20]) for i in range(0, len(chosen), 20))
            stream.write("\n".join(lines) + "\n")


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Build once; called in a process of its own."""
    from fuse_index.build import BuildOptions, Resources, build_bundle
    from fuse_index.build.forecast.memory import parse_bytes
    from fuse_index.words.corpus.words import CorpusOptions

    if given["ray"]:
        import ray

        ray.init(num_cpus=given["ray"], include_dashboard=False, log_to_driver=False)
    points: dict[str, list[tuple[float, float, int]]] = {}

    def progress(stage: Any, done: int, total: int | None) -> None:
        now = time.perf_counter()
        if stage.value not in points or now - points["told"][-1][0] > 60:
            points["told"] = [(now, 0.0, 0)]
            print(f"{time.strftime('%X')} {stage.value}: {done} of {total}", file=sys.stderr)
        points.setdefault(stage.value, []).append((now, time.process_time(), done))

    memory = given["memory"] and parse_bytes(given["memory"])
    corpus = CorpusOptions(min_count=1, max_words=given["words"])
    result = build_bundle(
        *given["models"],
        given["output"],
        [given["text"]],
        options=BuildOptions(corpus=corpus, groups=False),
        overwrite=True,
        local_files_only=True,
        progress=progress,
        resources=Resources(max_memory=memory, ray=given["ray"] and "auto"),
    )
    output = Path(given["output"])
    groups = {
        name: (report["words"], report["held_out"])
        for name, report in result.manifest.quality.items()
    }
    source, target = result.manifest.source.width, result.manifest.target.width
    return {
        "words": result.counted,
        "in_table": result.manifest.words,
        "seconds": result.total_seconds,
        "stages": {stage.value: seconds for stage, seconds in result.seconds.items()},
        "peak": _bench.peak_rss(),
        "corpus": os.path.getsize(given["text"]),
        "groups": groups,
        "widths": (source, target),
        "rates": fifths(points, groups, (source, target), 0),
        "cpu_rates": fifths(points, groups, (source, target), 1),
        "cpu": {stage: seen[-1][1] - seen[0][1] for stage, seen in points.items()},
        "words_sha256": digest(output / "words.safetensors"),
        "adapter_sha256": digest(output / "adapter.safetensors"),
    }


def fifths(
    points: dict[str, list[tuple[float, float, int]]],
    groups: dict[str, tuple[int, int]],
    widths: tuple[int, int],
    clock: int,
) -> dict[str, tuple[float, float]]:
    """The rate over the first and over the last fifth of the work of every long stage.

    ``clock`` 0 is that on the wall; 1 is the processor time of the process, which tells more where
    others use the machine too.
    """
    import numpy as np

    from fuse_index.build.forecast.cost import sum_flops

    found = {}
    for stage, unit in (
        ("counting words", "bytes/s"),
        ("tokenizing words", "steps/s"),
        ("fitting adapters", "flop/s"),
    ):
        seen = points[stage]
        columns = [np.array(column, float) for column in zip(*seen, strict=True)]
        times, done = columns[clock], columns[2]
        if stage == "fitting adapters":  # words to operations, group after group
            ends, flops = [0.0], [0.0]
            for name, (train, _) in groups.items():
                if name != "fallback":
                    p, q = map(int, name.split("x"))
                    ends.append(ends[-1] + train)
                    flops.append(flops[-1] + train * sum_flops((p, q), widths))
            inside = done <= ends[-1]  # after the sums comes the quality report
            times, done = times[inside], np.interp(done[inside], ends, flops)
        marks = np.interp([0, 0.2, 0.8, 1], done / done[-1], times)
        amount = 0.2 * done[-1]
        first, last = marks[1] - marks[0], marks[3] - marks[2]
        if min(first, last) > 0:
            found[f"{stage}, {unit}"] = (float(amount / first), float(amount / last))
    return found


def digest(path: Path) -> str:
    """Sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
