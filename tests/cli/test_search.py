"""The verb ``search`` as a user types it, mistakes included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fuse_index.build import BuildOptions, build_bundle
from fuse_index.cli.main import main
from fuse_index.demo.packaged import DemoModel, model_name
from fuse_index.models.embeddings import load_embeddings
from fuse_index.words.corpus.words import CorpusOptions

TEXT = "a red circle left of two big blue squares and a small green circle above one triangle\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle of two of the package's own models."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "text.txt").write_text(TEXT * 2, encoding="utf-8")
    build_bundle(
        model_name(DemoModel.LM),
        model_name(DemoModel.JUDGE),
        folder / "bundle",
        [folder / "text.txt"],
        options=BuildOptions(corpus=CorpusOptions(min_count=1), groups=False),
    )
    return folder / "bundle"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_json_holds_the_true_scores(capsys, bundle, metric):
    code, out, _ = run(
        *(capsys, "search", bundle, "red", "--model", "source", "--metric", metric),
        *("--top", 4, "--json"),
    )
    assert code == 0
    report = json.loads(out)
    (result,) = report["results"]
    assert (report["model"], report["metric"]) == ("source", metric)
    assert (result["word"], result["in_bundle"]) == ("red", True)
    source = load_embeddings(model_name(DemoModel.LM))

    def vector(word: str) -> torch.Tensor:
        return source.table[source.words.encode_words([word])[0]].mean(0)

    query = vector("red")
    scores = {}
    for word in set(TEXT.split()) - {"red"}:
        other = vector(word)
        scores[word] = float(
            {
                "cosine": torch.cosine_similarity(query, other, dim=0),
                "l2": -(query - other).square().sum(),
                "ip": query @ other,
            }[metric]
        )
    best = sorted(scores.values(), reverse=True)[:4]
    assert [found["score"] for found in result["nearest"]] == pytest.approx(best, rel=1e-4)
    for found in result["nearest"]:
        assert found["score"] == pytest.approx(scores[found["word"]], rel=1e-4)
        assert found["tokens"]["source"] == len(source.words.encode_words([found["word"]])[0])


def test_words_outside_the_bundle_and_several_at_once_in_both_models(capsys, bundle):
    words = ["reddish", "circle"]
    code, out, err = run(
        *(capsys, "search", bundle, *words, "--model", "joint", "--top", 3, "--json")
    )
    assert (code, err) == (0, "")
    first, second = json.loads(out)["results"]
    assert not first["in_bundle"]
    assert second["in_bundle"]
    assert set(first["tokens"]) == {"source", "target"}
    assert len(first["nearest"]) == len(second["nearest"]) == 3
    assert "circle" not in [found["word"] for found in second["nearest"]]


def test_the_table_names_words_scores_and_tokens(capsys, bundle):
    code, out, _ = run(capsys, "search", bundle, "circle", "purplish", "--top", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("circle (target ")
    assert ["word", "cosine", "count", "target", "tokens"] in [line.split() for line in lines]
    assert any("purplish, not in the bundle (target " in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["circle", "--metric", "dot"], "--metric dot; expected one of ip, cosine, l2"),
        (["circle", "--model", "both"], "--model both; expected one of source, target"),
        (["circle", "--top", "0"], "--top 0; expected 1 to"),
        (["circle", "--top", "999"], "--top 999; expected 1 to"),
        (["two words"], "word 'two words'; expected one word without white space"),
        ([""], "word ''; expected one word"),
    ],
)
def test_mistakes_are_one_line(capsys, bundle, arguments, message):
    code, out, err = run(capsys, "search", bundle, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_another_model_is_refused(capsys, bundle):
    other = model_name(DemoModel.SENTIMENT)
    code, _, err = run(capsys, "search", bundle, "circle", "--target", other)
    assert code == 2
    assert "the target model is" in err
    code, _, err = run(capsys, "search", bundle.parent / "nothing", "circle")
    assert code == 2
    assert "does not exist" in err
