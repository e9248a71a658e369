"""What the trainings of the demo models share: plan, schedule, data from many processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from fuse_index.demo import Sentence, SentenceOptions, Split, corpus

T = TypeVar("T")
CHUNK = 500


@dataclass(frozen=True)
class Plan:
    """How much is trained on.

    Attributes:
        seed: of the world, of initial weights and of the order.
        scale: share of the scenes.
        steps: of every model, instead of its own number; evaluation happens at the end then.
        seconds: a training that would take longer gets fewer steps.
        workers: processes that make data.
    """

    seed: int = 0
    scale: float = 1.0
    steps: int | None = None
    seconds: float | None = None
    workers: int = 1

    def scenes(self, full: int) -> int:
        """Number of scenes out of the full number, a multiple of four."""
        return max(int(full * self.scale) // 4 * 4, 40)

    @property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def spread(work: Callable[[Any], T], jobs: Iterable[Any], workers: int) -> list[T]:
    """Run jobs in several processes, results in order."""
    if workers == 1:
        return [work(job) for job in jobs]
    # fork: CUDA has not started yet, and the workers need no start of their own
    with get_context("fork").Pool(workers) as pool:
        return pool.map(work, list(jobs), chunksize=1)


def _sentences(job: tuple[Split, int, int, int, SentenceOptions | None]) -> list[Sentence]:
    split, start, count, seed, options = job
    return list(corpus(split, count, sentences=4, seed=seed, start=start, options=options))


def sentences_of(
    split: Split, scenes: int, plan: Plan, options: SentenceOptions | None = None
) -> list[Sentence]:
    """Make four sentences about each scene of a split."""
    jobs = [
        (split, start, min(CHUNK, scenes - start), plan.seed, options)
        for start in range(0, scenes, CHUNK)
    ]
    return [s for part in spread(_sentences, jobs, plan.workers) for s in part]


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        steps: optimizer steps.
        rate: highest learning rate; a tenth of the steps warms up, the rest is a cosine.
        decay: weight decay of matrices.
        checks: how often the validation score is taken; the best state is kept.
    """

    steps: int
    rate: float
    decay: float = 0.05
    checks: int = 12


def fit(
    module: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    score_of: Callable[[], float],
    recipe: Recipe,
    plan: Plan,
) -> dict[str, Any]:
    """Train a module and leave it in the state with the highest validation score.

    Args:
        module: what is trained.
        loss_of: step -> loss.
        score_of: validation score, higher is better; called in evaluation mode without gradient.
        recipe: steps and rates.
        plan: may shorten it.

    Returns:
        Steps, scores and which was kept.
    """
    steps = plan.steps or recipe.steps
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=False)
    best, kept, history = float("-inf"), None, []
    step, timed, begin = 0, 40, time.perf_counter()
    while step < steps:
        if plan.seconds and step in (10, timed):
            if plan.device.type == "cuda":
                torch.cuda.synchronize()
            if step == timed:
                each = (time.perf_counter() - begin) / (timed - 10)
                steps = min(steps, max(int(plan.seconds / each), timed + 1))
            begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _share(step, steps)
        module.train()
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % max(steps // recipe.checks, 50) == 0 or step == steps:
            module.eval()
            with torch.no_grad():
                score = score_of()
            history.append((step, round(float(loss), 4), round(score, 4)))
            print(type(module).__name__, *history[-1], flush=True)
            if score >= best:
                best = score
                kept = {k: v.detach().clone() for k, v in module.state_dict().items()}
    if kept is not None:
        module.load_state_dict(kept)
    module.eval()
    return {"steps": steps, "history": history, "best": best}


def _share(step: int, steps: int) -> float:
    warm = max(steps // 10, 1)
    if step < warm:
        return (step + 1) / warm
    angle = torch.pi * (step - warm) / max(steps - warm, 1)
    return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(angle))))


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as people read it."""
    import json

    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
