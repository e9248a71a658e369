"""The verb ``validate`` on the packaged models: every prediction, the table, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse_index.cli import main as cli
from fuse_index.demo import DemoModel, Split, corpus, model_name, write_vocabulary
from fuse_index.evaluate.fidelity import ANCHORED, LAYERED, LAYERED_ANCHORED, PREDICTIONS, RANDOM
from fuse_index.models import load_model
from fuse_index.run import AdapterConfig, AdapterStore

SMALL = ["--samples", "3", "--candidates", "6"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle from the language model to the classifier."""
    folder = tmp_path_factory.mktemp("bundles")
    words = write_vocabulary(folder / "words.txt")
    lm, target = (load_model(model_name(m)) for m in (DemoModel.LM, DemoModel.SENTIMENT))
    store = AdapterStore(lm, AdapterConfig(words=str(words), max_tokens=5, cache=folder))
    store.get(target)
    return store.path_of(target)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(s.text for s in corpus(Split.TEST, 40)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _use_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path_factory.mktemp("cache")))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["validate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_prediction_is_measured(capsys, bundle, texts):
    flags = [*SMALL, "--anchors", 2, "--layers", "--json"]
    code, stdout, stderr = run(capsys, bundle, "--texts", texts, *flags)
    assert (code, stderr) == (0, "")
    found = json.loads(stdout)
    names = {*PREDICTIONS, *ANCHORED, *LAYERED, *LAYERED_ANCHORED, RANDOM}
    assert set(found["spearman"]) == set(found["share"]) == names
    assert all(-1 <= value["mean"] <= 1 for value in found["spearman"].values())
    assert found["options"]["loss"] == "label"
    again = json.loads(run(capsys, bundle, "--texts", texts, *flags)[1])
    assert again == found


def test_tokens_of_the_source_are_replaced(capsys, bundle, texts):
    flags = [*SMALL, "--unit", "token", "--layers", "--json"]
    code, stdout, stderr = run(capsys, bundle, "--texts", texts, *flags)
    assert (code, stderr) == (0, "")
    found = json.loads(stdout)
    kinds = "adapter_at_current", "embedding_at_current", "layers_at_current", RANDOM
    assert tuple(found["spearman"]) == tuple(found["share"]) == kinds
    assert found["unit"] == "token"


def test_the_table_and_the_picture(capsys, bundle, texts, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "signal.png"
    code, stdout, stderr = run(capsys, bundle, "--texts", texts, *SMALL, "--plot", picture)
    assert (code, stderr) == (0, f"plot: {picture}\n")
    assert "3 texts, 6 candidates, label loss" in stdout
    rows = [line.split()[0] for line in stdout.splitlines() if line.strip()]
    assert [name for name in rows if name in PREDICTIONS] == list(PREDICTIONS)
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "cosine"], "--loss cosine; expected one of "),
        (["--unit", "phrase"], "--unit phrase; expected one of token, word"),
        (["--unit", "token", "--anchors", "2"], "anchors=2 for tokens; expected 0"),
        (["--samples", "1"], "samples=1; expected at least 2"),
        (["--loss", "similarity", "--label", "positive"], "expected a label with the loss 'label'"),
        (["--label", "merry"], "no label 'merry'"),
        (["--target", model_name(DemoModel.JUDGE)], "the target model is"),
    ],
)
def test_mistakes_get_one_line(capsys, bundle, texts, flags, message):
    code, _, stderr = run(capsys, bundle, "--texts", texts, *SMALL, *flags)
    assert (code, stderr.count("\n")) == (2, 1)
    assert message in stderr
