"""The verb ``index``, and ``build --index``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fuse_index.build import BuildOptions, build_bundle
from fuse_index.build.queries import sample_queries
from fuse_index.bundle import read_bundle, read_manifest, verify_bundle
from fuse_index.cli.main import main
from fuse_index.demo.packaged import DemoModel, model_name
from fuse_index.index import read_index
from fuse_index.models import load_model
from fuse_index.models.embeddings import load_embeddings
from fuse_index.words.corpus.words import CorpusOptions

SOURCE, TARGET = model_name(DemoModel.LM), model_name(DemoModel.JUDGE)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Words that both small models know, each twice."""
    line = "a red circle left of two big blue squares and small green above one triangle"
    words = line.split()
    path = tmp_path_factory.mktemp("index") / "text.txt"
    path.write_text(" ".join(words) + "\n" + "\n".join(words[::-1]), encoding="utf-8")
    return path


@pytest.fixture
def bundle(text, tmp_path) -> Path:
    options = BuildOptions(corpus=CorpusOptions(min_count=1), groups=False)
    build_bundle(SOURCE, TARGET, tmp_path / "bundle", [text], options=options)
    return tmp_path / "bundle"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_index_is_added_and_reported(capsys, bundle):
    code, out, _ = run(capsys, "index", bundle, "--model", "joint", "--best", 5, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["index"] == "joint"
    assert report["models"] == ["source", "target"]
    assert report["kind"] in ("flat", "tokens")
    assert (report["recall"], report["recall_at"]) == (1.0, 5)
    assert report["queries"] == "given"
    assert report["bytes_on_disk"] == (bundle / "index" / "joint.json").stat().st_size
    manifest = verify_bundle(bundle)
    assert manifest.indexes["joint"]["kind"] == report["kind"]
    code, out, _ = run(capsys, "index", bundle, "--kind", "tokens", "--metric", "l2")
    assert code == 0
    assert "index 'target'" in out
    assert sorted(read_manifest(bundle).indexes) == ["joint", "target"]
    code, out, _ = run(capsys, "inspect", bundle)
    assert ["target", "tokens", "l2", "mean", "1.000"] in [
        line.split()[:5] for line in out.splitlines()
    ]
    target = load_embeddings(TARGET).table
    index = read_index(read_bundle(bundle), "target", target=target)
    ids, _ = index.search(index.vector([2]), 1)
    torch.testing.assert_close(index.vector(ids[0]), index.vector([2]))


def test_build_makes_one_in_the_same_go(capsys, text, tmp_path):
    out = tmp_path / "bundle"
    code, stdout, _ = run(
        *(capsys, "build", SOURCE, TARGET, "-c", text, "-o", out, "--min-count", 1),
        *("--no-groups", "--index", "flat", "--index-model", "source", "--json"),
    )
    assert code == 0
    built = json.loads(stdout)
    assert built["indexes"]["source"]["kind"] == "flat"
    assert "building the word index" in built["stages"]
    verify_bundle(out)
    index = read_index(read_bundle(out), "source", source=load_embeddings(SOURCE).table)
    assert index.models == ("source",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "tree"], "--kind='tree'; expected one of 'auto', 'flat'"),
        (["--model", "clip"], "--model='clip'; expected one of 'source', 'target', 'joint'"),
        (["--recall", "2"], "recall=2.0; expected at most 1"),
        (["--kind", "pq"], "words; expected at least 1024 words; use 'flat', 'tokens' or"),
        (["--target", SOURCE], "the target model is"),
    ],
)
def test_mistakes_are_one_line_and_leave_the_bundle_alone(capsys, bundle, arguments, message):
    before = (bundle / "manifest.json").read_bytes()
    code, out, err = run(capsys, "index", bundle, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert (bundle / "manifest.json").read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("slots", [None, 2])
@pytest.mark.parametrize("name", [SOURCE, TARGET])
def test_sample_queries_are_gradients(bundle, name, slots):
    table = read_bundle(bundle).table
    model = load_model(name, device="cpu")
    tokens = table.source if name == SOURCE else table.target
    queries = sample_queries(model, tokens, table.counts, slots=slots, samples=40)
    assert queries.shape == (40, model.width * (slots or 1))
    assert torch.isfinite(queries).all()
    assert (queries.abs().amax(1) > 0).all()
    again = sample_queries(model, tokens, table.counts, slots=slots, samples=40)
    torch.testing.assert_close(again, queries)
    other = sample_queries(model, tokens, table.counts, slots=slots, samples=40, seed=1)
    assert not torch.allclose(other, queries)
