"""``fuse-index doctor``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fuse_index.build.forecast import preflight as preflight_module
from fuse_index.cli import _console, _preflight, _probe, doctor
from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name, write_corpus

PAIR = [model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)]


def scripted(monkeypatch, program: str) -> None:
    """Let the doctor start another program than the probe."""
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **kw: real([sys.executable, "-c", program], **kw)
    )


def run_probe() -> tuple[dict, list[str]]:
    report = {"imports": {}, "native": None, "devices": []}
    with _console.ProgressBar() as bar:
        problems = list(doctor._run_probe(report, bar))
    return report, problems


def test_real_installation(capsys):
    """The one test that starts the probe: everything this suite needs can be imported."""
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["imports"]) == set(_probe.MODULES)
    assert report["imports"]["torch"] > 0
    assert report["packages"]["torch"]
    assert report["devices"][0]["device"] == "cpu"
    assert report["native"]["native"] in (True, False)
    assert report["native"]["cuda"] or report["native"]["reason"]
    assert report["cache"]["free_gb"] > 0


def test_sources_in_the_working_directory_do_not_hide_the_installed_package(tmp_path, monkeypatch):
    """As in a clone after ``pip install .``: nothing is built in its own source tree."""
    sources = tmp_path / "fuse_index"
    sources.mkdir()
    (sources / "__init__.py").write_text("raise SystemExit('the source tree was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_probe, "MODULES", ("numpy",))
    report, problems = run_probe()
    assert problems == []
    assert report["native"] is not None


def test_findings_are_gathered_line_by_line(monkeypatch):
    scripted(
        monkeypatch,
        "print('{\"importing\": \"a\"}'); print('a library says hello'); print('[1]')\n"
        'print(\'{"import": "a", "seconds": 0.5}\'); print(\'{"importing": "b"}\')\n'
        'print(\'{"import": "b", "error": "ImportError: no"}\')\n'
        'print(\'{"native": {"native": true, "reason": ""}}\')\n'
        'print(\'{"devices": [{"device": "cpu", "threads": 2}]}\')\n',
    )
    report, problems = run_probe()
    assert report["imports"] == {"a": 0.5, "b": "ImportError: no"}
    assert report["native"] == {"native": True, "reason": ""}
    assert report["devices"] == [{"device": "cpu", "threads": 2}]
    assert problems == []


def test_a_library_that_kills_its_process_is_named(monkeypatch):
    scripted(monkeypatch, 'import os; print(\'{"importing": "bad"}\', flush=True); os.abort()')
    _, problems = run_probe()
    assert problems == ["importing bad ended the process (code -6); reinstall it"]


def test_a_library_that_hangs_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.5)
    scripted(
        monkeypatch,
        'import time; print(\'{"importing": "slow"}\', flush=True); time.sleep(60)',
    )
    _, problems = run_probe()
    assert problems == ["importing slow took more than 0 seconds; reinstall it"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"packages": {"torch": None}}, "torch is not installed; run"),
        ({"imports": {"faiss": "ImportError: x"}}, "faiss cannot be imported (ImportError: x)"),
        ({"native": {"reason": "no compiler"}}, "native core: no compiler (results are the same"),
        ({"cache": {"folder": "/c", "free_gb": 0.5}}, "/c has little space left; set HF_HOME"),
        ({"packages": {"torchvision": None}, "imports": {"torchvision": "ImportError"}}, None),
        ({"native": {"reason": ""}}, None),
    ],
)
def test_problems_say_what_to_do(change, problem):
    sound = {"packages": {}, "imports": {}, "native": None, "cache": {"folder": "", "free_gb": 9}}
    found = list(doctor._judge({**sound, **change}))
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(problem)


def test_text(monkeypatch, capsys):
    report = {
        "fuse_index": "1.2",
        "python": "3",
        "platform": "p",
        "packages": {"torch": "2.9", "faiss-cpu": None},
        "native": {"native": True, "cuda": False, "reason": ""},
        "devices": [
            {"device": "cpu", "threads": 2},
            {"device": "cuda:0", "name": "GPU", "memory_gb": 80.0, "capability": "9.0"},
        ],
        "imports": {"torch": 1.234, "faiss": "ImportError: x"},
        "cache": {"folder": "/c", "free_gb": 9.0},
        "problems": ["first\nproblem"],
    }
    monkeypatch.setattr(doctor, "examine", lambda: report)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["native", "yes"] in rows
    assert ["cuda", "no"] in rows
    assert ["cuda:0", "GPU", "80.0", "GB", "9.0"] in rows
    assert ["cpu", "2", "threads"] in rows
    assert ["torch", "1.23"] in rows
    assert ["faiss-cpu", "-"] in rows
    assert out.splitlines()[-1] == "problem: first problem"


def test_probe_says_why_an_import_failed():
    assert _probe.probe_import("json")["seconds"] >= 0
    assert _probe.probe_import("no_such_module") == {
        "import": "no_such_module",
        "error": "ModuleNotFoundError: No module named 'no_such_module'",
    }


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A corpus of the demo's world; the machine is measured for a moment only."""
    monkeypatch.setattr(preflight_module, "_MEASURED", 0.05)
    path = tmp_path / "corpus.txt"
    write_corpus(path)
    return str(path)


def test_a_pair_as_json(capsys, corpus):
    assert main(["doctor", *PAIR, "--corpus", corpus, "--no-groups", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report[side]["model"] for side in ("source", "target")] == PAIR
    assert report["words"]["kept"] == 147  # what examples/first_bundle.py builds
    assert {item["reason"]: item["words"] for item in report["left_out"]} == {
        "source: more than 4 tokens": 4,
        "target: more than 4 tokens": 1,
    }
    assert all(item["examples"] for item in report["left_out"])
    assert "groups.safetensors" not in report["bundle"]["files"]
    assert report["bundle"]["files"]["adapter.safetensors"] == 1_081_792
    assert report["build"]["seconds"] > 0
    assert report["build"]["memory_bytes"] > 5e8
    assert "imports" not in report  # the installation is not looked at


def test_a_pair_as_text(capsys, corpus):
    assert main(["doctor", *PAIR, "-c", corpus]) == 0
    out = capsys.readouterr().out
    assert "words: 152 from the corpus, 152 of them tried; 147 will be in the bundle" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["1x1", "89", "its", "own"] in rows
    assert ["2x1", "3", "fallback"] in rows
    assert any(row[:2] == ["bundle", "1.4"] for row in rows)
    assert "byte-level BPE (GPT-2)" in out
    assert "Builds were measured within a factor of 2 of the time" in out
    assert out.splitlines()[-1].startswith("note: the fallback adapter will serve")


def test_a_pair_with_a_list_keeps_words_seen_once(capsys, corpus, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("red\ncircle\n", encoding="utf-8")
    assert main(["doctor", *PAIR, "--words", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["words"] == {
        "from": "list of words",
        "counted": 2,
        "extrapolated": False,
        "tried": 2,
        "kept": 2,
        "corpus_bytes": 0,
        "read_bytes": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([PAIR[0]], "doctor: one model; expected SOURCE and TARGET, or neither; name both models"),
        (["--words", "w.txt"], "doctor: words but no models; expected SOURCE and TARGET"),
        (["--corpus", "c.txt"], "doctor: words but no models; expected SOURCE and TARGET"),
        ([*PAIR, "--corpus", "-"], "standard input can be read only once"),
        ([*PAIR, "--corpus", "missing.txt"], "corpus missing.txt does not exist"),
        ([*PAIR, "--min-count", "0"], "min_count=0; expected at least 1"),
        ([*PAIR, "--corpus", "c", "--words", "w"], "both a corpus and a word list"),
        ([PAIR[0], "no/such-model", "--offline"], "no/such-model"),
    ],
)
def test_mistakes_with_a_pair_are_one_line(capsys, arguments, line):
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err


def test_sizes_and_times_for_people():
    sizes = [_preflight._size(size) for size in (None, 999.0, 1.5e6, 2e9, 3.25e12)]
    assert sizes == ["not known", "999 bytes", "1.5 MB", "2.0 GB", "3.2 TB"]
    times = [_preflight._duration(seconds) for seconds in (3.4, 125, 7300)]
    assert times == ["3 s", "2 min", "2.0 h"]
