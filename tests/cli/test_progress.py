"""What people see while a prompt is optimized."""

from __future__ import annotations

import time
from io import StringIO

import pytest

from fuse_index.cli._console import ProgressBar
from fuse_index.cli._progress import RunProgress
from fuse_index.optimize import Budget

START = "the picture contains a small circle on the left"


def test_progress_on_a_terminal(lm_run):
    from rich.console import Console

    console = Console(file=StringIO(), force_terminal=True, width=120)
    run, point = lm_run
    with ProgressBar(after=0.0, console=console) as bar:
        progress = RunProgress(Budget(steps=10, forward_passes=4000), bar)
        progress.about("scene.png (1 of 2)")
        progress(run, point)
        time.sleep(0.3)
        text = progress.render(run, point).plain
    assert "scene.png (1 of 2)" in text
    assert f"step {point.step}/10" in text
    assert f"{point.forward_passes:,}/4,000 passes" in text
    assert "passes/s" in text
    assert " left" in text
    assert f"best {run.best.total:.4f}  fluency {run.best.losses[0]:.4f}" in text
    assert run.problem.decode(run.best.ids).strip() in text
    assert "fluency" in console.file.getvalue()


@pytest.fixture(scope="module")
def lm_run():
    from fuse_index.demo import DemoModel, model_name
    from fuse_index.models import load_model
    from fuse_index.objectives import Fluency
    from fuse_index.optimize import GCG, Problem, Term, optimize

    lm = load_model(model_name(DemoModel.LM), device="cpu")
    seen = []
    optimize(
        Problem(lm, [Term(Fluency(), lm)]),
        START,
        method=GCG(search_width=8),
        budget=Budget(steps=2),
        callbacks=[lambda run, point: seen.append((run, point))],
    )
    return seen[-1]
