"""The verb ``states`` as a user types it, mistakes included."""

from __future__ import annotations

import json

import pytest

from fuse_index.bundle import write_bundle
from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name
from fuse_index.models import load_model
from fuse_index.predict import store
from fuse_index.predict.store import are_kept
from tests.bundle import sample

MODEL = model_name(DemoModel.SENTIMENT)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A small bundle, and a cache for this test that keeps few words, too."""
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "KEPT_FROM", 1)
    content = sample.contents()
    write_bundle(tmp_path / "bundle", content)
    return tmp_path / "bundle", content


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_states_are_there_for_runs_and_computed_once(capsys, bundle):
    folder, content = bundle
    code, out, err = run(capsys, "states", MODEL, folder, "--device", "cpu", "--json")
    assert code == 0
    assert "in 4 contexts: about " in err
    report = json.loads(out)
    model = load_model(MODEL, device="cpu")
    units = model.words.encode_words(content.table.words)
    assert report["words"] == len(units)
    assert report["computed"] == len({tuple(row) for row in units.to_lists()})
    assert report["bytes"] == 2 * len(units) * (len(model.layers) + 1) * model.width
    assert are_kept(model, units)
    code, out, err = run(capsys, "states", MODEL, folder, "--device", "cpu")
    assert (code, err) == (0, "")
    assert f"states of {len(units):,} words, 0 of them computed" in out


def test_a_folder_that_is_no_bundle_is_refused_before_the_model_is_loaded(capsys, tmp_path):
    code, _, err = run(capsys, "states", "no/such/model", tmp_path)
    assert code == 2
    assert "manifest.json" in err


def test_a_bundle_carries_the_states_for_others(capsys, bundle, monkeypatch, tmp_path):
    folder, _ = bundle
    arguments = ("states", MODEL, folder, "--device", "cpu")
    code, out, err = run(capsys, *arguments, "--into-bundle", "--json")
    assert code == 0, err
    assert json.loads(out)["carried"] > 0
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "of-another"))
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert json.loads(out)["computed"] == 0
    assert run(capsys, "verify", folder)[0] == 0
    assert run(capsys, "inspect", folder)[0] == 0
