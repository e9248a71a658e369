"""The race of methods at equal compute: a small one, run twice."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module
    sys.path.remove(str(TOOLS))


def raced(tool: ModuleType, monkeypatch, capsys, *arguments: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["bench_race.py", "--json", *arguments])
    assert tool.main() == 0
    return json.loads(capsys.readouterr().out)


def test_a_race_goes_on_where_it_stopped(tools, monkeypatch, capsys, tmp_path):
    given = ["--flops", "4e9", "--tasks-count", "2", "--out", str(tmp_path / "runs")]
    plot = tmp_path / "race.png"
    first = ["gcg+search_width=8", "best+search_width=16+residual_scale=0.7"]
    tool = tools("bench_race")
    found = raced(tool, monkeypatch, capsys, *given, "--methods", *first, "--plot", str(plot))
    assert plot.stat().st_size > 0
    assert [own["case"] for own in found["rows"]] == first
    for own in found["rows"]:
        assert own["runs"] == 2
        assert 1 <= own["spent"] < 1.5
        assert own["standard_error"] > 0
    assert found["rows"][0]["difference"] == [0.0, 0.0, 0.0]
    assert found["rows"][1]["options"]["method"]["residual_scale"] == 0.7
    monkeypatch.setattr(tool.runs, "run", lambda *_: pytest.fail("run again"))
    again = raced(tool, monkeypatch, capsys, *given, "--methods", *first)
    assert again["rows"] == found["rows"]


def test_targets_of_both_parts_are_apart(tools):
    tracks = tools("_race_tracks")
    from fuse_index import load_model

    source = load_model("demo:lm")
    parts = [
        {task.target for task in tracks.random_tasks(source, part, 3, 4, message=False)}
        for part in (tracks.TUNING, tracks.HELD_OUT)
    ]
    assert all(len(part) == 3 for part in parts)
    assert not parts[0] & parts[1]
    texts = [
        {task.target for task in tracks.readable_tasks(part, 9, None)}
        for part in (tracks.TUNING, tracks.HELD_OUT)
    ]
    assert not texts[0] & texts[1]


def test_differences_are_of_paired_targets(tools):
    runs, report = tools("_race_runs"), tools("_race_report")
    rng = np.random.default_rng(0)
    hard = rng.normal(8, 3, 12)

    def outcomes(name, gain):
        return [
            runs.Outcome(name, f"t{i}", 0, [[1.0, 1.0, 20.0], [9.0, 2.0, float(h - gain)]], "", {})
            for i, h in enumerate(hard)
        ]

    rows = report.rows_of({"gcg": outcomes("gcg", 0), "other": outcomes("other", 1.0)}, "gcg", 9.0)
    mean, low, high = rows[1]["difference"]
    assert mean == pytest.approx(-1) == low == high  # as hard as each target is, it is 1 better
    assert rows[1]["curve"] == [20.0, 20.0, 20.0]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert "other" in report.table(rows).splitlines()[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "method 'none'; expected one of gcg, best"),
        ("best+wide=3", "option 'wide'; expected one of unit"),
        ("best+search_width", "'search_width'; expected OPTION=VALUE"),
        ("best+search_width=0", "search_width=0; expected at least 1"),
    ],
)
def test_mistakes_are_one_line(tools, name, message):
    with pytest.raises(SystemExit, match=message):
        tools("_race_methods").method_named(name)


def test_a_folder_that_is_no_checkout_is_refused(tools, tmp_path):
    with pytest.raises(SystemExit, match="expected a checkout of Claudini"):
        tools("_race_theirs").find_methods(tmp_path, ["mac"])
