"""The cost of a step against prompt length, candidates and models; and beside nanoGCG.

Part of ``bench_step.py``. Models, tasks and the comparison are those of ``bench_size.py``: Llama
networks with random weights that continue a text, each with another tokenizer where one is given.
One thing is changed at a time. Besides the plain step there is what of it is no model's pass, with
a synchronization around every pass: a part that grew faster than the models' work would be seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from _bench import publish, row

LENGTHS = (16, 32, 64, 128, 256)
CANDIDATES = (64, 256, 512, 1024, 4096)
SIZES = ("135m", "1.5b", "8b")
_MESSAGE, _TARGET = 8, 8
_AS_NANOGCG = {"message": 100, "prompt": 20, "target": 20}


@dataclass(frozen=True)
class Point:
    """What is measured once.

    Attributes:
        axis: what is changed: ``tokens`` or ``candidates``.
        tokens: of the prompt.
        candidates: of a step.
        models: how many.
    """

    axis: str
    tokens: int
    candidates: int
    models: int


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add the options of the sweep."""
    arguments.add_argument("--sweep", action="store_true", help="cost against length and others")
    arguments.add_argument("--nanogcg", action="store_true", help="a step beside nanoGCG's")
    arguments.add_argument("--plot", metavar="FILE", help="draw the sweep")
    arguments.add_argument("--size", help="of the sweep's models; or the only one for --nanogcg")
    arguments.add_argument(
        "--tokenizer", action="append", default=[], help="folder; repeatable, one a model"
    )
    arguments.add_argument(
        "--seconds", type=float, default=500.0, help="begin nothing new after so long"
    )


def points(tiny: bool) -> Iterator[Point]:
    """Yield what is measured, the cheapest first."""
    lengths, counts = (LENGTHS[:2], (8, 16)) if tiny else (LENGTHS, CANDIDATES)
    for models in (1, 2, 3):
        for tokens in lengths:
            yield Point("tokens", tokens, counts[1] if tiny else 512, models)
        for count in counts:
            yield Point("candidates", 16, count, models)


def main(options: Any) -> int:
    """Measure what was asked for, as far as the time goes."""
    end = time.perf_counter() + options.seconds
    rows = []
    if options.sweep:
        rows += sweep(options, end)
        if options.plot:
            draw(rows, options.plot)
    if options.nanogcg:
        rows += beside(options, end)
    packages = ("transformers", "nanogcg")
    publish("bench_step", rows, options.json, packages, device=options.device)
    return 0


def sweep(options: Any, end: float) -> list[dict[str, Any]]:
    """One row a point: the step, and what of it is no model's pass."""
    import bench_size

    from fuse_index import wrap_model

    size = options.size or ("135m" if options.device.startswith("cuda") else "tiny")
    tokenizers = bench_size.load_tokenizers(options.tokenizer, 3)
    networks = [
        bench_size.make_model(size, own, options.device, seed)
        for seed, own in enumerate(tokenizers)
    ]
    models = [
        wrap_model(network, own, name=f"model {seed}")
        for seed, (network, own) in enumerate(zip(networks, tokenizers, strict=True))
    ]
    rows = []
    for point in points(size == "tiny"):
        if time.perf_counter() > end:
            print(f"out of time before {point}", file=sys.stderr)
            break
        asked = argparse.Namespace(
            message=_MESSAGE, prompt=point.tokens, target=_TARGET, candidates=point.candidates
        )
        run = bench_size.make_run(models[: point.models], bench_size.make_task(models[0], asked))
        # a shape is recorded at its third batch
        plain, memory = bench_size.timed(run.step, options.steps, 4, options.device)
        whole, passes = bench_size.synchronized(run, options.steps, options.device)
        title = f"{size}: {point.tokens} tokens, {point.candidates} candidates, "
        rows.append(
            row(
                title + f"{point.models} models",
                plain,
                "",
                None,
                **vars(point),
                passes=passes,
                not_the_models=whole - passes,
                memory_gb=memory / 1e9,
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def beside(options: Any, end: float) -> list[dict[str, Any]]:
    """One row a size: a step of ours and of nanoGCG on the same network."""
    import bench_size

    from fuse_index import wrap_model

    tokenizer = bench_size.load_tokenizers(options.tokenizer, 1)[0]
    cuda = options.device.startswith("cuda")
    rows = []
    for size in (options.size,) if options.size else SIZES if cuda else ("tiny",):
        if time.perf_counter() > end:
            print(f"out of time before {size}", file=sys.stderr)
            break
        asked = argparse.Namespace(**_AS_NANOGCG, candidates=options.candidates)
        network = bench_size.make_model(size, tokenizer, options.device, 0)
        model = wrap_model(network, tokenizer, name=size)
        task = bench_size.make_task(model, asked)
        own = argparse.Namespace(steps=options.steps, warmup=4, device=options.device)
        rows.append(bench_size.beside_nanogcg(network, model, task, own, size))
        print(rows[-1], file=sys.stderr, flush=True)
        model.release()
        del network, model
        if cuda:
            torch.cuda.empty_cache()
    return rows


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Draw the step against length and candidates, a line for each number of models."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, name in zip(axes, ("tokens", "candidates"), strict=True):
        for models in (1, 2, 3):
            own = [r for r in rows if r["axis"] == name and r["models"] == models]
            places = [r[name] for r in own]
            (line,) = axis.plot(places, [r["seconds"] for r in own], "o-", label=f"{models} models")
            rest = [r["not_the_models"] for r in own]
            axis.plot(places, rest, ":", color=line.get_color())
        axis.set(xscale="log", yscale="log", xlabel=name)
    axes[0].set_ylabel("seconds a step")
    axes[1].legend(title="dotted: no model's pass")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
