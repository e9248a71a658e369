"""Checkpoints: runs that go on, configurations that differ, and damage."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fuse_index.errors import CheckpointError
from fuse_index.objectives import Fluency
from fuse_index.optimize import (
    GCG,
    Beam,
    Budget,
    Greedy,
    Problem,
    Result,
    RunOptions,
    Term,
    TokenFilter,
    optimize,
)
from fuse_index.optimize.checkpoint import Checkpoint, first_difference
from tests.demo_models import START

SMALL = GCG(search_width=8, positions=2)


def trace(result: Result) -> list[Any]:
    return [(p.step, p.ids, p.losses, p.forward_passes, p.best) for p in result.trajectory]


def resumed(problem, path, **options):
    return optimize(
        problem, START, method=SMALL, budget=Budget(steps=4), checkpoint=path, **options
    )


def test_a_longer_budget_goes_on(problem, tmp_path):
    path = tmp_path / "run.ckpt"
    optimize(problem, START, method=SMALL, budget=Budget(steps=2), checkpoint=path)
    assert trace(resumed(problem, path)) == trace(
        optimize(problem, START, method=SMALL, budget=Budget(steps=4))
    )


def test_another_configuration_is_refused_and_named(lm, lm_problem, tmp_path):
    path = tmp_path / "run.ckpt"
    resumed(lm_problem, path)
    saved = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"with options.seed = 0; expected 5, as asked"):
        resumed(lm_problem, path, options=RunOptions(seed=5))
    with pytest.raises(CheckpointError, match=r"search.buffer = 1; expected 3"):
        resumed(lm_problem, path, search=Greedy(buffer=3))
    heavier = Problem(lm, [Term(Fluency(weight=2.0), lm)], tokens=TokenFilter(words_only=True))
    with pytest.raises(CheckpointError, match=r"objective.weight = 1.0; expected 2.0"):
        resumed(heavier, path)
    assert path.read_bytes() == saved, "nothing is lost"


def test_a_run_from_before_an_option_was_there_goes_on(lm_problem, tmp_path):
    path = tmp_path / "run.ckpt"
    optimize(lm_problem, START, method=SMALL, budget=Budget(steps=2), checkpoint=path)
    saved = Checkpoint.load(path)
    del saved.configuration["method"]["residual_scale"]
    saved.save(path)
    whole = optimize(lm_problem, START, method=SMALL, budget=Budget(steps=4))
    assert trace(resumed(lm_problem, path)) == trace(whole)
    with pytest.raises(CheckpointError, match=r"method.residual_scale = 1.0; expected 0.5"):
        optimize(
            lm_problem,
            START,
            method=GCG(search_width=8, positions=2, residual_scale=0.5),
            checkpoint=path,
        )


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damage_is_found_before_parsing(lm_problem, tmp_path, damage):
    path = tmp_path / "run.ckpt"
    resumed(lm_problem, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b"", "text": b"x" * 99}[damage]
    )
    with pytest.raises(CheckpointError, match=r"run.ckpt is damaged or no checkpoint"):
        resumed(lm_problem, path)


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b"{", b"[" * 5000, b'{"values": 1}'])
def test_another_file_with_a_checksum_is_refused(lm_problem, tmp_path, text):
    json_only = {"json": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    for body in (text, save(json_only), save({"other": torch.zeros(1)})):
        path = tmp_path / "run.ckpt"
        path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
        with pytest.raises(CheckpointError, match=r"run.ckpt cannot be read"):
            resumed(lm_problem, path)


def test_differences_are_named_by_their_path():
    old = {"a": [1, {"b": 2}], "c": 3}
    assert first_difference(old, {"a": [1, {"b": 4}], "c": 3}) == ("a[1].b", 2, 4)
    assert first_difference(old, {"a": [1, {"b": 2}], "c": 3, "d": 1}) == ("d", None, 1)
    assert first_difference(old, json.loads(json.dumps(old))) is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing.ckpt: No such file"):
        Checkpoint.load(tmp_path / "nothing.ckpt")


def test_what_is_written_is_read(lm_problem, tmp_path):
    path = tmp_path / "run.ckpt"
    result = resumed(lm_problem, path)
    saved = Checkpoint.load(path)
    assert saved.values["spent"]["steps"] == result.spent["steps"]
    assert saved.configuration["method"] == SMALL.to_json()
    again = tmp_path / "again.ckpt"
    saved.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_resumed_run_keeps_the_method_that_was_chosen(lm_problem, tmp_path, monkeypatch):
    """Not what would be chosen now: states may have been kept in between, or the budget grown."""
    path = tmp_path / "run.checkpoint"
    first = optimize(lm_problem, START, budget=Budget(steps=2), checkpoint=path)
    module = import_module("fuse_index.optimize.optimize")
    monkeypatch.setattr(module, "choose", lambda *_: pytest.fail("chosen anew"))
    second = optimize(lm_problem, START, budget=Budget(steps=4), checkpoint=path)
    assert second.configuration["method"] == first.configuration["method"]
    whole = optimize(lm_problem, START, method=GCG(), search=Beam(), budget=Budget(steps=4))
    assert [point.ids for point in second.trajectory] == [point.ids for point in whole.trajectory]
