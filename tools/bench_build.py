#!/usr/bin/env python3
"""Benchmark of the adapter fit against pseudo-inverses face by face.

Random full-rank embeddings of width 1024 (source) and 512 (target); as many words as the case says
in each of the groups 1x1, 2x2, 3x3 and 4x4.

ours       fuse_index.adapter.fit.fit.fit_adapter without ridge and hold-out: from token ids and
           embedding tables to all four adapters and the fallback.
baseline   torch: rfft along the tube, torch.linalg.pinv of every face, product, irfft. The word
           tensors are made beforehand and not timed. Same words, float32.

Every measurement runs in a process of its own, which reports its peak resident memory: in all, and
above what the imports take. The input (tables, word tensors) is part of both. The largest relative
difference of the adapters is reported too.

Other kinds of maps (--kinds) are fitted to the same words, each in a process of its own, and told
as a multiple of the default kind's time.

The authors' own code (FUSE_prompt_inversion) took 136 s and 9.7 GB at 8,192 words per group on a
machine with two cores. That is a published measurement: it is quoted, and not run here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _bench

SOURCE_WIDTH, TARGET_WIDTH, LENGTHS = 1024, 512, (1, 2, 3, 4)
PUBLISHED = {8192: {"published_seconds": 136.0, "published_peak_gb": 9.7}}


def main() -> None:
    """Run all cases, or one measurement of them as a worker."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--words", type=int, nargs="+", default=[16384, 8192], help="per group")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="of our fit, twice; the median counts",
    )
    parser.add_argument(
        "--kinds", nargs="*", default=["affine", "local"], help="other kinds of maps, or none"
    )
    parser.add_argument("--kind", default="circulant", help=argparse.SUPPRESS)
    parser.add_argument("--no-baseline", action="store_true", help="measure our fit only")
    parser.add_argument("--worker", choices=("ours", "baseline"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        arguments = options.words[0], options.repeats, options.output
        if options.worker == "ours":
            print(json.dumps(measure_ours(*arguments, options.kind)))
        else:
            print(json.dumps(measure_baseline(*arguments)))
        return
    rows = [case(words, options.repeats, not options.no_baseline) for words in options.words]
    for words, own in zip(options.words, list(rows), strict=True):
        rows += [kind_case(words, options.repeats, kind, own["seconds"]) for kind in options.kinds]
    shape = f"source width {SOURCE_WIDTH}, target width {TARGET_WIDTH}, k = {LENGTHS}, float32"
    _bench.publish("build", rows, options.json, problem=shape)


def case(words: int, repeats: int, with_baseline: bool) -> _bench.Row:
    """Measure one number of words, ours and the baseline, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, dict[str, Any]] = {}
        # ours before and after the baseline: a machine is not equally fast all the time
        for who in ("ours", "baseline", "ours") if with_baseline else ("ours",):
            print(f"{words} words in each group: {who} ...", file=sys.stderr)
            arguments = ["--worker", who, "--words", str(words), "--repeats", str(repeats)]
            arguments += ["--output", str(Path(folder) / who)]
            result = _bench.run_worker(__file__, arguments)
            if who in results:
                result["seconds"] += results[who]["seconds"]
                result["peak"] = max(result["peak"], results[who]["peak"])
            results[who] = result
        figures: dict[str, Any] = {"all_seconds": results["ours"]["seconds"]}
        figures["methods"] = results["ours"]["methods"]
        for who, result in results.items():
            prefix = "" if who == "ours" else "baseline_"
            figures[f"{prefix}peak_gb"] = result["peak"] / 1e9
            figures[f"{prefix}peak_above_imports_gb"] = (result["peak"] - result["imports"]) / 1e9
        if with_baseline:
            figures["largest_relative_difference"] = difference(Path(folder))
    seconds = _bench.median(results["ours"]["seconds"])
    published = PUBLISHED.get(words)
    if published:
        figures |= published
        figures["published_ratio"] = published["published_seconds"] / seconds
        figures["share_of_published_peak"] = (
            figures["peak_above_imports_gb"] / published["published_peak_gb"]
        )
    reference = sum(results["baseline"]["seconds"]) if with_baseline else None
    name = f"{words} words in each group"
    return _bench.row(name, seconds, "rfft + pinv per face", reference, **figures)


def kind_case(words: int, repeats: int, kind: str, default: float) -> _bench.Row:
    """Measure another kind of maps."""
    print(f"{words} words in each group: {kind} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--worker", "ours", "--words", str(words), "--repeats", str(repeats)]
        arguments += ["--output", str(Path(folder) / "ours"), "--kind", kind]
        result = _bench.run_worker(__file__, arguments)
    seconds = _bench.median(result["seconds"])
    name = f"{words} words in each group, {kind}"
    peak = result["peak"] / 1e9
    return _bench.row(
        name, seconds, "circulant", default, all_seconds=result["seconds"], peak_gb=peak
    )


def measure_ours(words: int, repeats: int, output: Path, kind: str) -> dict[str, Any]:
    """Fit all groups, ``repeats`` times."""
    from safetensors.torch import save_file

    from fuse_index.adapter.fit.fit import fit_adapter
    from fuse_index.adapter.fit.options import FitOptions, MapKind

    imports = _bench.peak_rss()
    table, source, target = make_input(words)
    options = FitOptions(ridge=0.0, holdout=0.0, min_words=1, kind=MapKind(kind))
    fit = fit_adapter(table, source, target, options)  # kept: warm-up and result
    seconds = _bench.times(lambda: fit_adapter(table, source, target, options), repeats, warmup=0)
    peak = _bench.peak_rss()
    adapters = {str(k): fit.adapters.get(f"{k}x{k}") for k in LENGTHS}
    save_file({k: own for k, own in adapters.items() if own is not None}, output)
    methods = sorted({method.value for method in fit.methods.values()})
    return {"seconds": seconds, "peak": peak, "imports": imports, "methods": methods}


def measure_baseline(words: int, repeats: int, output: Path) -> dict[str, Any]:
    """Fit all groups once (it takes long), face by face."""
    import torch
    from safetensors.torch import save_file

    imports = _bench.peak_rss()
    table, source, target = make_input(words)
    adapters, seconds = {}, []
    for index, k in enumerate(LENGTHS):
        rows = range(index * words, (index + 1) * words)
        x = torch.stack([source[torch.from_numpy(table.source[row])] for row in rows], dim=1)
        y = torch.stack([target[torch.from_numpy(table.target[row])] for row in rows], dim=1)

        def fit(x: torch.Tensor = x, y: torch.Tensor = y, k: int = k) -> None:
            x_faces, y_faces = torch.fft.rfft(x, dim=0), torch.fft.rfft(y, dim=0)
            solved = [torch.linalg.pinv(a) @ b for a, b in zip(x_faces, y_faces, strict=True)]
            adapters[k] = torch.fft.irfft(torch.stack(solved), n=k, dim=0)

        seconds += _bench.times(fit, 1, warmup=0)
    save_file({str(k): adapter.contiguous() for k, adapter in adapters.items()}, output)
    return {"seconds": seconds, "peak": _bench.peak_rss(), "imports": imports}


def difference(folder: Path) -> float:
    """Return the largest relative difference between our adapters and the baseline's."""
    from safetensors.torch import load_file

    ours, baseline = (load_file(folder / who) for who in ("ours", "baseline"))
    return max(float((ours[k] - baseline[k]).norm() / baseline[k].norm()) for k in baseline)


def make_input(words: int) -> tuple[Any, Any, Any]:
    """Return a word table of all groups, and embedding tables in which every token is its own."""
    import numpy as np
    import torch

    from fuse_index.words.ragged import Ragged
    from fuse_index.words.table import WordTable

    lengths = np.repeat(LENGTHS, words)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    vocabulary = words * max(LENGTHS)
    tokens = []
    for seed in (0, 1):  # within a group no token is used twice, so that every face has full rank
        generator = np.random.default_rng(seed)
        parts = [generator.permutation(vocabulary)[: words * k] for k in LENGTHS]
        tokens.append(Ragged(offsets, np.concatenate(parts).astype(np.int64)))
    names = tuple(f"word{i}" for i in range(len(lengths)))
    table = WordTable(names, np.ones(len(names), np.int64), *tokens)
    generator = torch.Generator().manual_seed(2)
    source = torch.randn(vocabulary, SOURCE_WIDTH, generator=generator)
    target = torch.randn(vocabulary, TARGET_WIDTH, generator=generator)
    return table, source, target


if __name__ == "__main__":
    main()
