"""Initial prompts: drawn reproducibly, of allowed words that survive as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fuse_index.errors import CorpusError, ModelError, OptionError, PromptError
from fuse_index.objectives import ClassifierLabel, Fluency, ImageSimilarity, TextSimilarity
from fuse_index.optimize import Problem, Term, TokenFilter
from fuse_index.run import (
    AdapterConfig,
    SearchConfig,
    StartConfig,
    assemble,
    initial_prompts,
    read_run,
)
from fuse_index.run.assembly import start_corpus
from fuse_index.words.ragged import Ragged


@pytest.fixture(scope="module")
def problem(lm) -> Problem:
    return Problem(lm, [Term(Fluency(), lm)])


def test_texts_are_tokenized(problem):
    found = initial_prompts(problem, StartConfig(texts=("a red star", "the ring")), 0)
    assert [problem.decode(ids).strip() for ids in found] == ["a red star", "the ring"]


@pytest.mark.parametrize("draw", ["uniform", "model"])
def test_prompts_are_drawn_from_the_seed(problem, draw):
    start = StartConfig(length=6, count=5, draw=draw)
    found = initial_prompts(problem, start, 3)
    assert found == initial_prompts(problem, start, 3)
    assert found != initial_prompts(problem, start, 4)
    assert len(set(found)) == 5
    assert {len(ids) for ids in found} == {6}
    assert problem.words.survives(Ragged.from_lists(found)).all()
    assert problem.allowed[[i for ids in found for i in ids]].all()


def test_filters_hold_for_what_is_drawn(lm):
    some = Problem(lm, [Term(Fluency(), lm)], tokens=TokenFilter(allow_pattern=" (red|a|star)"))
    for draw in ("uniform", "model"):
        found = initial_prompts(some, StartConfig(length=4, count=3, draw=draw), 0)
        words = {word for ids in found for word in some.decode(ids).split()}
        assert words <= {"red", "a", "star"}


def test_the_source_writes_better_than_chance(problem):
    loss = problem.losses[0]
    means = {
        draw: loss.score(
            initial_prompts(problem, StartConfig(length=8, count=16, draw=draw), 0)
        ).mean()
        for draw in ("uniform", "model")
    }
    assert means["model"] < 0.6 * means["uniform"]


def test_it_goes_on_from_a_prefix(problem, lm):
    start = StartConfig(length=4, count=8, draw="model", temperature=0.3)
    prefix = "i like the"
    found = initial_prompts(problem, start, 0, prefix)
    alone = initial_prompts(problem, start, 0)
    loss = Fluency(prefix=prefix).prepare(lm)
    assert loss.score(found).mean() < loss.score(alone).mean()


def test_only_causal_models_write(sentiment):
    own = Problem(sentiment, [Term(ClassifierLabel(label="positive"), sentiment)])
    assert len(initial_prompts(own, StartConfig(length=3), 0)[0]) == 3
    with pytest.raises(ModelError, match=r"cannot write a prompt.*give an initial text"):
        initial_prompts(own, StartConfig(draw="model"), 0)


def test_nothing_that_survives(problem, monkeypatch):
    monkeypatch.setattr(
        type(problem.words), "survives", lambda _self, rows: torch.zeros(len(rows)).bool().numpy()
    )
    with pytest.raises(PromptError, match=r"no prompt of 3 tokens drawn from .* survives as text"):
        initial_prompts(problem, StartConfig(length=3), 0)


def test_mistakes():
    with pytest.raises(OptionError, match="expected one of uniform, model, retrieval"):
        StartConfig(draw="best")
    with pytest.raises(OptionError, match="temperature=0"):
        replace(StartConfig(), temperature=0)


SENTENCES = ["a small red star", "a big blue ring", "the green plus is above a ring", "\u00e9toile"]


def written(path, texts=SENTENCES):
    path.write_text("\n".join(texts), encoding="utf-8")
    return StartConfig(draw="retrieval", corpus=(str(path),), count=2)


def test_sentences_are_retrieved_by_image_and_by_text(lm, clip, image, tmp_path):
    start = written(tmp_path / "corpus.txt")
    like = Problem(lm, [Term(Fluency(), lm), Term(TextSimilarity(texts="ring of blue"), clip)])
    texts = [like.decode(ids).strip() for ids in initial_prompts(like, start, 0)]
    assert texts[0] == "a big blue ring"
    seen = Problem(lm, [Term(ImageSimilarity(images=image, weight=40.0), clip)])
    losses = {
        text: float(seen.losses[0].score([seen.losses[0].surroundings.encode(" " + text)]))
        for text in SENTENCES[:3]
    }
    found = [seen.decode(ids).strip() for ids in initial_prompts(seen, start, 0)]
    assert found == sorted(losses, key=lambda text: losses[text])[:2]


def test_several_objectives_rank_together_and_a_negative_one_pushes_away(lm, clip, tmp_path):
    start = written(tmp_path / "corpus.txt")
    wanted = TextSimilarity(texts="a small red star")
    against = TextSimilarity(texts="a small red star", weight=-2.0)
    one = Problem(lm, [Term(wanted, clip)])
    both = Problem(lm, [Term(wanted, clip), Term(against, clip)])
    best = [
        problem.decode(initial_prompts(problem, start, 0)[0]).strip() for problem in (one, both)
    ]
    assert best[0] == "a small red star" != best[1]


def test_some_are_written_by_the_source(lm, clip, tmp_path):
    start = replace(written(tmp_path / "corpus.txt"), count=4, written=2, length=5)
    problem = Problem(lm, [Term(TextSimilarity(texts="red"), clip)])
    found = initial_prompts(problem, start, 0)
    assert [len(ids) for ids in found[2:]] == [5, 5]
    assert found == initial_prompts(problem, start, 0)


def test_a_corpus_without_a_usable_sentence(lm, clip, sentiment, tmp_path):
    problem = Problem(lm, [Term(TextSimilarity(texts="red"), clip)])
    with pytest.raises(CorpusError, match=r"none of 1 sentences may be a prompt; .*filter less"):
        initial_prompts(problem, written(tmp_path / "corpus.txt", ["\u00e9toile"]), 0)
    with pytest.raises(CorpusError, match="no sentence; expected lines, or captions in JSON"):
        initial_prompts(problem, written(tmp_path / "corpus.txt", ["12", ""]), 0)
    with pytest.raises(CorpusError, match=r"retrieval without a corpus.*initial\.corpus"):
        initial_prompts(problem, StartConfig(draw="retrieval"), 0)
    alone = Problem(sentiment, [Term(ClassifierLabel(label="positive"), sentiment)])
    with pytest.raises(OptionError, match="retrieval; expected an objective 'image' or 'text'"):
        initial_prompts(alone, written(tmp_path / "corpus.txt"), 0)
    with pytest.raises(OptionError, match="written=3 of 2 prompts"):
        StartConfig(draw="retrieval", count=2, written=3)


def test_the_corpus_of_the_adapters_is_the_default(lm, clip, tmp_path):
    path = written(tmp_path / "corpus.txt").corpus[0]
    problem = Problem(lm, [Term(TextSimilarity(texts="red"), clip)])
    start = StartConfig(draw="retrieval")
    for given in ({"corpus": (path,)}, {"texts": (path,)}):
        corpus = start_corpus(SearchConfig(initial=start, adapters=AdapterConfig(**given)), problem)
        assert corpus.texts == SENTENCES
    assert start_corpus(SearchConfig(initial=StartConfig(texts=("a",))), problem) is None


def test_a_run_file_of_a_text_begins_from_the_corpus(words, config, tmp_path):
    written(tmp_path / "corpus.txt")
    value = {
        "models": {"lm": "demo:lm", "clip": "demo:clip"},
        "objectives": [{"type": "text", "model": "clip", "texts": "ring of blue"}],
        "initial": {"draw": "retrieval", "corpus": str(tmp_path / "*.txt"), "count": 1},
        "method": {"type": "gcg", "unit": "word", "predictor": "embedding"},
        "adapters": {"words": str(words), "cache": str(config.cache)},
    }
    assembly = assemble(read_run(value))
    assert [assembly.problem.decode(ids).strip() for ids in assembly.initial] == ["a big blue ring"]
