"""Fidelity on the real pair; the predictors against sums written out word by word."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fuse_index.adapter import Adapter
from fuse_index.build import BuildOptions, build_bundle
from fuse_index.errors import CorpusError, ModelError, OptionError, VocabularyError
from fuse_index.evaluate import FidelityOptions, measure_fidelity
from fuse_index.evaluate.fidelity import ANCHORED, PREDICTIONS, RANDOM, _with_words, _Words
from fuse_index.evaluate.sampling import Task, draw_tasks
from fuse_index.models import load_model
from fuse_index.objectives.target_loss import TargetLoss
from fuse_index.words.corpus.words import CorpusOptions, read_texts
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.adapter.helpers import apply_word, pull_back_word, random_adapter


def small_words() -> _Words:
    """Words of one to three tokens on both sides, under a random adapter."""
    rng = np.random.default_rng(0)
    counts = [(p, q) for p in range(1, 4) for q in range(1, 4)]
    source = Ragged.from_lists([rng.integers(0, 20, p).tolist() for p, _ in counts])
    target = Ragged.from_lists([rng.integers(0, 15, q).tolist() for _, q in counts])
    names = tuple(f"w{i}" for i in range(len(counts)))
    table = WordTable(names, np.ones(len(names), np.int64), source, target)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(20, 5, generator=generator)
    others = torch.randn(15, 4, generator=generator)
    model = SimpleNamespace(device=torch.device("cpu"), table=lambda: others)
    return _Words(random_adapter(5, 4), table, embeddings, model)


SMALL = small_words()
CANDIDATES = np.array([8, 0, 3, 5])
GRADIENT = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def tokens(side: str, row: int) -> torch.Tensor:
    ids: Ragged = getattr(SMALL.table, side)
    embeddings = SMALL.source if side == "source" else SMALL.model.table()
    return embeddings[torch.from_numpy(ids[row])]


def test_words_are_the_means_of_their_embeddings():
    rows = range(len(SMALL.table))
    expected = torch.stack([tokens("target", row).mean(0) for row in rows])
    torch.testing.assert_close(SMALL.vectors, expected)
    torch.testing.assert_close(SMALL.mean, expected.mean(0))


def test_the_adapter_predicts_with_the_mapped_candidate_in_place_of_its_embedding():
    expected = []
    for row in CANDIDATES:
        p, q = SMALL.table.shapes[row]
        mapped = apply_word(SMALL.adapter[f"{p}x{q}"], tokens("source", row), int(q))
        expected.append(float(GRADIENT.sum(0) @ mapped.mean(0)))
    found = SMALL.adapted(CANDIDATES).changes(GRADIENT.sum(0, keepdim=True))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_by_token_compares_the_pulled_back_gradient_token_by_token():
    row = 4  # a word of two source and two target tokens
    assert tuple(SMALL.table.shapes[row]) == (2, 2)
    pulled = pull_back_word(SMALL.adapter["2x2"], GRADIENT, 2)
    expected = [
        sum(float(x @ g) for x, g in zip(tokens("source", c), pulled, strict=False))
        for c in CANDIDATES
    ]
    scores = SMALL.by_token(GRADIENT, row, CANDIDATES)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_words_stand_in_the_text_of_a_task():
    task = Task(
        words=("a", "b", "c"),
        position=1,
        row=0,
        candidates=CANDIDATES,
        tokens=Ragged.from_lists([[1], [2, 3], [4]]),
        other="",
    )
    rows, spans = _with_words(task, Ragged.from_lists([[7], [8, 9, 10]]))
    assert rows.to_lists() == [[1, 7, 4], [1, 8, 9, 10, 4]]
    assert spans.tolist() == [[1, 2], [1, 4]]


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="samples=1; expected at least 2"):
        FidelityOptions(TargetLoss.NLL, samples=1)
    with pytest.raises(OptionError, match="a label with the loss 'label' only"):
        FidelityOptions(TargetLoss.SIMILARITY, label="positive")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, gpt2_dir, minilm_dir, captions_file):
    path = tmp_path_factory.mktemp("bundle") / "pair"
    options = BuildOptions(corpus=CorpusOptions(min_count=20), groups=False)
    build_bundle(str(gpt2_dir), str(minilm_dir), path, [captions_file], options=options)
    adapter = Adapter.from_pretrained(path)
    from fuse_index.models.embeddings import load_embeddings

    return adapter, load_embeddings(str(gpt2_dir)).table, read_texts(captions_file)


def measure(pair, model, stage=None, **options):
    adapter, embeddings, texts = pair
    chosen = {"samples": 12, "candidates": 60} | options
    return measure_fidelity(
        adapter,
        adapter.bundle.table,
        embeddings,
        model,
        texts=texts,
        options=FidelityOptions(**chosen),
        stage=stage,
    )


def test_predictions_beat_random_scores_and_repeat_exactly(pair, minilm_dir):
    model = load_model(str(minilm_dir), kind="encoder", device="cpu")
    chosen = {"loss": TargetLoss.SIMILARITY, "samples": 8, "candidates": 50}
    report = measure(pair, model, **chosen)
    word, random = report.spearman["word"], report.spearman["random"]
    assert word.mean > 0.25
    assert report.spearman["adapter"].mean > 0.05
    assert abs(random.mean) < 4 * random.stderr
    assert report.share["word"][10].mean > report.share["random"][10].mean
    assert set(report.spearman) == {*PREDICTIONS, RANDOM}
    again = measure(pair, model, **chosen)
    assert again.to_dict() == report.to_dict()


def test_anchors_predict_better_than_the_current_word(pair, minilm_dir):
    model = load_model(str(minilm_dir), kind="encoder", device="cpu")
    report = measure(pair, model, loss=TargetLoss.SIMILARITY, samples=10, candidates=50, anchors=6)
    correlation = {name: value.mean for name, value in report.spearman.items()}
    assert correlation["word_anchored"] > correlation["word_at_current"] + 0.1
    assert correlation["adapter_anchored"] > correlation["adapter_at_current"]
    assert correlation["word_weighted"] > correlation["word_at_current"]
    plain = measure(pair, model, loss=TargetLoss.SIMILARITY, samples=10, candidates=50)
    assert correlation["word"] == plain.spearman["word"].mean


def test_gradients_may_be_scaled_in_residual_branches(pair, minilm_dir):
    model = load_model(str(minilm_dir), kind="encoder", device="cpu")
    chosen = {"loss": TargetLoss.SIMILARITY, "samples": 2, "candidates": 20, "anchors": 2}
    plain, scaled = (measure(pair, model, **chosen, residual_scale=s) for s in (1.0, 0.7))
    for own, other in zip(plain.samples, scaled.samples, strict=True):
        assert own.change.tolist() == other.change.tolist()
        for name in (*PREDICTIONS, *ANCHORED):
            assert own.predicted[name].tolist() != other.predicted[name].tolist(), name


def test_hidden_states_predict_better_than_embeddings(pair, minilm_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path))
    model = load_model(str(minilm_dir), device="cpu")
    seen: list[tuple[int, int]] = []
    report = measure(
        pair,
        model,
        loss=TargetLoss.LABEL,
        samples=6,
        candidates=30,
        anchors=4,
        layers=True,
        stage=lambda *given: seen.append(given),
    )
    assert seen[-1][0] == seen[-1][1] > 0
    found = {name: estimate.mean for name, estimate in report.spearman.items()}
    assert found["layers_at_current"] > found["word_at_current"] + 0.1
    assert found["layers_anchored"] > found["word_anchored"] + 0.05
    assert found["layers_weighted"] > found["word_weighted"] + 0.05
    again = measure(
        pair, model, loss=TargetLoss.LABEL, samples=6, candidates=30, anchors=4, layers=True
    )
    assert again.spearman == report.spearman


def test_true_changes_are_those_of_whole_texts(pair, minilm_dir):
    """Substituting token ids gives the loss of the substituted text, tokenized from scratch."""
    model = load_model(str(minilm_dir), device="cpu")
    report = measure(pair, model, loss=TargetLoss.LABEL, label="positive", samples=2, candidates=5)
    table = pair[0].bundle.table
    index = model.labels.index("positive")
    for sample in report.samples:
        for row, change in zip(sample.task.candidates, sample.change, strict=True):
            words = list(sample.task.words)
            words[sample.task.position] = table.words[row]
            logits = model.encode_texts([" ".join(words)]).logits.double()
            loss = -torch.log_softmax(logits, -1)[0, index].item()
            assert loss - sample.loss == pytest.approx(change, abs=2e-5)


def test_the_likelihood_of_a_causal_target(tmp_path, gpt2_dir, minilm_dir, captions_file):
    options = BuildOptions(corpus=CorpusOptions(min_count=40), groups=False)
    build_bundle(str(minilm_dir), str(gpt2_dir), tmp_path / "b", [captions_file], options=options)
    adapter = Adapter.from_pretrained(tmp_path / "b")
    from fuse_index.models.embeddings import load_embeddings

    model = load_model(str(gpt2_dir), device="cpu")
    texts = read_texts(captions_file)[:200]
    embeddings = load_embeddings(str(minilm_dir)).table
    report = measure_fidelity(
        adapter,
        adapter.bundle.table,
        embeddings,
        model,
        texts=texts,
        options=FidelityOptions(TargetLoss.NLL, samples=3, candidates=20),
    )
    task = report.samples[0].task
    ids = torch.tensor(model.words.encode_text(model.words.lead + " ".join(task.words)))[None]
    logits = model.module(input_ids=ids).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert report.samples[0].loss == pytest.approx(expected.item(), rel=1e-4)


def test_unknown_labels_are_listed(pair, minilm_dir):
    model = load_model(str(minilm_dir), device="cpu")
    with pytest.raises(
        ModelError, match="no label 'joyful'; expected one of 'negative', 'positive'"
    ):
        measure(pair, model, loss=TargetLoss.LABEL, label="joyful", samples=2, candidates=5)


def test_too_few_texts_or_words_are_refused(pair, minilm_dir):
    model = load_model(str(minilm_dir), device="cpu")
    adapter, embeddings, _ = pair
    few = (adapter, embeddings, ["one", "a dog runs", "zzzqqq xxyyzz"])
    with pytest.raises(CorpusError, match=r"1 of 3 texts can be measured; expected at least 2"):
        measure(few, model, loss=TargetLoss.LABEL, samples=2, candidates=5)
    with pytest.raises(VocabularyError, match="lower --candidates"):
        measure(pair, model, loss=TargetLoss.LABEL, candidates=10**6)


def test_tasks_do_not_depend_on_the_loss(pair, minilm_dir):
    adapter, _, texts = pair
    model = load_model(str(minilm_dir), device="cpu")
    first, second = (
        draw_tasks(adapter.bundle.table, model, texts, samples=5, candidates=7, seed=3)
        for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert (a.words, a.position, a.row, a.other) == (b.words, b.position, b.row, b.other)
        assert np.array_equal(a.candidates, b.candidates)
        assert a.row not in a.candidates
        assert dataclasses.asdict(a)["other"] != " ".join(a.words)
