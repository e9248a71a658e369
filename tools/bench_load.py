#!/usr/bin/env python3
"""How long a bundle takes to load and verify, and its first pull-back on the CPU.

Builds a bundle of N words of the source tokenizer's own pieces, group tensors included, and loads
it in processes of their own, with the files in the page cache and torch imported: manifest,
checksums, words and adapters, which is what a run reads; the same with every tensor of the groups
checked, which is what ``fuse-index verify`` does; and the gradient of a prompt of 32 words.
Models are not counted, nor the import of torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _bench
import bench_scale

PROMPT = 32
"""Words of the prompt whose gradient is pulled back."""


def main() -> None:
    """Build once, load several times."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--words", type=int, default=50_000)
    parser.add_argument("--models", type=Path, nargs=2, default=bench_scale.MODELS)
    parser.add_argument("--repeats", type=int, default=7, help="processes")
    parser.add_argument("--bundle", type=Path, help="load this one, build none")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(load(Path(options.worker))))
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or build(options, Path(folder))
        arguments = ["--worker", str(bundle)]
        found = [_bench.run_worker(__file__, arguments) for _ in range(options.repeats)]
    what = found[0]["what"]
    rows = [
        _bench.row(case, _bench.median([one[case] for one in found]), "", None)
        for case in found[0]
        if case != "what"
    ]
    _bench.publish("load", rows, options.json, ("safetensors",), bundle=what)


def build(options: argparse.Namespace, folder: Path) -> Path:
    """Build a bundle of so many words, group tensors included."""
    text, bundle = folder / "text.txt", folder / "bundle"
    bench_scale.write_text(options.words, str(text), str(options.models[0]))
    command = [sys.executable, "-m", "fuse_index.cli.main", "build", *map(str, options.models)]
    command += ["--corpus", str(text), "--out", str(bundle)]
    command += ["--min-count", "1", "--max-words", str(options.words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=_bench.ROOT)
    return bundle


def load(bundle: Path) -> dict[str, Any]:
    """Load a bundle in this process, pull gradients back, and check it whole."""
    import torch

    from fuse_index import Adapter
    from fuse_index.bundle import verify_bundle

    adapter, loading = _timed(lambda: Adapter.from_pretrained(bundle))
    assert adapter.bundle is not None
    manifest, table = adapter.bundle.manifest, adapter.bundle.table
    counts = [ids.lengths[:PROMPT] for ids in (table.source, table.target)]
    layout, laying = _timed(lambda: adapter.layout(*counts))
    gradient = torch.randn(int(counts[1].sum()), adapter.target_width)
    (first,) = _bench.times(lambda: adapter.pull_back(gradient, layout), 1, warmup=0)
    again = _bench.times(lambda: adapter.pull_back(gradient, layout), 20, warmup=0)
    (verifying,) = _bench.times(lambda: verify_bundle(bundle), 1, warmup=0)
    return {
        "load and verify words and adapters": loading,
        "first pull-back, 32 words": laying + first,
        "a later pull-back": _bench.median(again),
        "verify everything, group tensors too": verifying,
        "what": {
            "words": manifest.words,
            "widths": [manifest.source.width, manifest.target.width],
            "megabytes": {n: round(f.size / 1e6, 1) for n, f in manifest.files.items()},
        },
    }


def _timed(call: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


if __name__ == "__main__":
    main()
