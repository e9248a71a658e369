"""Methods of a checkout of Claudini (arXiv 2603.24511) on the targets of the race.

They run in this process, with their own count of FLOPs, which is the same rule, and without the
constraint that prompts survive being read as text. Nothing of the checkout is here.
"""

from __future__ import annotations

import copy
import importlib
import logging
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from _race_runs import Job, Limits, Outcome, thinned
from _race_tracks import Track

_PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template that adds nothing, as the targets here have none."""
_STEPS = 10_000_000


def find_methods(folder: Path, names: list[str]) -> dict[str, Any]:
    """Import a checkout, and return its methods by name.

    Args:
        folder: the checkout, which holds the package ``claudini``.
        names: the methods; several of one name of theirs are looked for in all their packages.

    Raises:
        SystemExit: it is no checkout, or has no such method.
    """
    if not (folder / "claudini" / "base.py").is_file():
        raise SystemExit(f"--theirs {folder}; expected a checkout of Claudini (claudini/base.py)")
    sys.path.insert(0, str(folder.resolve()))
    base = importlib.import_module("claudini.base")
    base.tqdm = partial(base.tqdm, disable=True)
    package = importlib.import_module("claudini.methods")
    logging.getLogger("claudini").setLevel(logging.WARNING)
    registry: dict[str, Any] = base.TokenOptimizer._REGISTRY
    for module in pkgutil.walk_packages(package.__path__, "claudini.methods."):
        if all(name in registry for name in names):
            break
        if not module.name.endswith("optimizer"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(f"{module.name}: {error}", file=sys.stderr)
    missing = [name for name in names if name not in registry]
    if missing:
        raise SystemExit(
            f"theirs:{missing[0]}; expected one of {', '.join(sorted(registry)) or 'none'}"
        )
    return {name: registry[name] for name in names}


def run(track: Track, method: Any, job: Job, limits: Limits) -> Outcome:
    """Run a method of theirs.

    Raises:
        SystemExit: the track has several models, or an encoder.
    """
    if track.others or track.encoder is not None:
        raise SystemExit(
            f"{job.method} on the track {track.name}; expected a track of one causal model"
        )
    source = track.source
    tokenizer = copy.deepcopy(source.tokenizer)
    tokenizer.chat_template = _PLAIN
    task = job.task
    around = track.problem(task).losses[0].surroundings
    spec = importlib.import_module("claudini.input_spec")
    sample = spec.SampleSpec(
        messages=[{"role": "user", "content": f"{around.text_before}{{optim_str}}{around.suffix}"}],
        target=task.target,
    )
    with _left_as_found(source.module):
        made = method(source.module, tokenizer, optim_length=track.length, seed=job.seed)
        made._sample_spec = sample
        result = made.run(
            around.text_before,
            task.target,
            num_steps=_STEPS,
            max_flops=limits.flops,
            max_time=limits.seconds,
        )
    rows = zip(result.flops, result.wall_times, result.best_losses, strict=True)
    curve = thinned([[float(a), float(b), float(c)] for a, b, c in rows])
    text = result.best_string
    return Outcome(job.method, task.name, job.seed, curve, text, {"type": job.method})


@contextmanager
def _left_as_found(module: Any) -> Iterator[None]:
    """Remove the hooks that a method of theirs leaves on the model, and its settings of torch."""
    import torch

    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
    )
    places = [getattr(inside, kind) for inside in module.modules() for kind in kinds]
    before = [dict(hooks) for hooks in places]
    try:
        yield
    finally:
        for hooks, own in zip(places, before, strict=True):
            hooks.clear()
            hooks.update(own)
        torch.use_deterministic_algorithms(False)
