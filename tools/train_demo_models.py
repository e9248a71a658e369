"""Train the demo's four tiny models from generated data alone, and measure them.

On one H100 or H200 all take a few minutes; ``--scale 0.001 --steps 3`` tries the code on a CPU.

    python tools/train_demo_models.py --out weights                 # train, then measure
    python tools/train_demo_models.py --out weights --models lm     # one of them
    python tools/train_demo_models.py --out weights --measure       # measure what is there
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import _bench
import torch
from _demo_clip import train_clip
from _demo_measure import measure
from _demo_text import train_classifier, train_lm
from _demo_training import Plan

from fuse_index.demo.packaged import DemoModel, write_checksums


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the models")
    parser.add_argument("--models", nargs="*", default=[m.value for m in DemoModel])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training scenes")
    parser.add_argument("--steps", type=int, help="steps of each model, instead of its own number")
    parser.add_argument("--seconds", type=float, help="shorten each training to fit in so many")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--measure", action="store_true", help="train nothing")
    parser.add_argument("--no-measure", action="store_true", help="measure nothing")
    return parser.parse_args(arguments)


def main() -> None:
    """Train and measure."""
    options = parse()
    print(json.dumps({"machine": _bench.machine()}), flush=True)
    plan = Plan(
        seed=options.seed,
        scale=options.scale,
        steps=options.steps,
        seconds=options.seconds,
        workers=options.workers,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    models = [] if options.measure else [DemoModel(name) for name in options.models]
    for model in models:
        begin = time.perf_counter()
        folder = options.out / model.value
        folder.mkdir(parents=True, exist_ok=True)
        if model is DemoModel.LM:
            report = train_lm(folder, plan)
        elif model is DemoModel.CLIP:
            report = train_clip(folder, plan)
        else:
            report = train_classifier(folder, plan, judge=model is DemoModel.JUDGE)
        report |= {"model": model.value, "seconds": round(time.perf_counter() - begin, 1)}
        print(json.dumps(report), flush=True)
    if all((options.out / model.value).is_dir() for model in DemoModel):
        write_checksums(options.out)
    if not options.no_measure:
        print(json.dumps(measure(options.out), indent=2), flush=True)


if __name__ == "__main__":
    main()
