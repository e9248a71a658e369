"""The fit of whole word tables against brute force, and what the options promise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.fit import fit_adapter
from fuse_index.adapter.fit.lstsq import Solver
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.errors import ModelError, ShapeError, VocabularyError
from fuse_index.tensors import t_lstsq, t_pinv, t_product
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.adapter.fit.fitting import (
    CPU,
    dense,
    draw,
    group_rows,
    make_table,
    numbered_groups,
    relative,
)

GROUPS = {(1, 1): 90, (1, 3): 70, (2, 1): 60, (2, 2): 80, (3, 4): 70, (4, 4): 9, (4, 2): 3}
ALL = FitOptions(ridge=0.0, holdout=0.0, min_words=5)


@pytest.fixture(scope="module")
def table():
    return make_table(GROUPS, vocabulary=200)


@pytest.fixture(scope="module")
def source():
    return draw(10, 200, 16, dtype=torch.float32)


@pytest.fixture(scope="module")
def target():
    return draw(11, 200, 6, dtype=torch.float32)


def brute_force(table, source, target, rows, k, ridge=0.0):
    x, y = dense(table.source, source, rows, k), dense(table.target, target, rows, k)
    if ridge:
        return t_lstsq(x, y, ridge=ridge * float(x.square().sum()) / x.shape[2])
    return t_product(t_pinv(x, rtol=1e-10), y)


def brute_force_fallback(table, source, target, rows, ridge=0.0):
    """One row for every target token: the sum of the word's source tokens to that token."""
    x = [source[torch.from_numpy(table.source[r])].double().sum(0) for r in rows.tolist()]
    y = [target[torch.from_numpy(table.target[r])].double() for r in rows.tolist()]
    inputs = torch.cat([a.expand(len(b), -1) for a, b in zip(x, y, strict=True)])
    penalty = ridge * float(inputs.square().sum()) / inputs.shape[1]
    return t_lstsq(inputs[None], torch.cat(y)[None], ridge=penalty)


@pytest.mark.smoke
@pytest.mark.parametrize("ridge", [0.0, 0.2])
@pytest.mark.parametrize("chunk_words", [None, 7])
def test_adapters_are_the_least_squares_solutions(table, source, target, ridge, chunk_words):
    options = FitOptions(ridge=ridge, holdout=0.0, min_words=5, chunk_words=chunk_words)
    fit = fit_adapter(table, source, target, options)
    for (p, q), count in GROUPS.items():
        name, k = f"{p}x{q}", max(p, q)
        if count < 5:
            assert name not in fit.adapters
            assert fit.fallbacks[name] == "3 words to fit on, fewer than min_words=5"
            continue
        truth = brute_force(table, source, target, group_rows(table, p, q), k, ridge)
        assert fit.adapters[name].dtype == torch.float32
        assert fit.adapters[name].shape == (k, 16, 6)
        assert fit.adapters[name].is_contiguous()
        assert relative(fit.adapters[name], truth) < 1e-6
    everything = np.arange(len(table))
    truth = brute_force_fallback(table, source, target, everything, ridge)
    assert relative(fit.adapters["fallback"], truth) < 1e-6
    assert set(fit.adapters) | set(fit.fallbacks) == {"fallback", *(f"{p}x{q}" for p, q in GROUPS)}
    assert fit.ridges.keys() == fit.methods.keys() == fit.adapters.keys()
    assert set(fit.ridges.values()) == {ridge}


def test_grouping_by_target_pads_to_the_longest_word(table, source, target):
    options = FitOptions(ridge=0.0, holdout=0.0, min_words=5, grouping=Grouping.TARGET)
    fit = fit_adapter(table, source, target, options)
    assert set(fit.adapters) == {"x1", "x2", "x3", "x4", "fallback"}
    for q, k in ((1, 2), (2, 4), (3, 3), (4, 4)):
        truth = brute_force(table, source, target, group_rows(table, None, q), k)
        assert fit.adapters[f"x{q}"].shape == (k, 16, 6)
        assert relative(fit.adapters[f"x{q}"], truth) < 1e-6


def test_automatic_ridge_gives_one_value_for_every_adapter(table, source, target):
    options = FitOptions(ridge="auto", holdout=0.0, min_words=5)
    fit = fit_adapter(table, source, target, options)
    for name in ("2x2", "1x3", "4x4"):
        p, q = map(int, name.split("x"))
        rows = group_rows(table, p, q)
        truth = brute_force(table, source, target, rows, max(p, q), fit.ridges[name])
        assert relative(fit.adapters[name], truth) < 1e-6
    truth = brute_force_fallback(
        table, source, target, np.arange(len(table)), fit.ridges["fallback"]
    )
    assert relative(fit.adapters["fallback"], truth) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tables_of_other_precisions(table, source, target, dtype):
    source, target = source.to(dtype), target.to(dtype)
    fit = fit_adapter(table, source, target, ALL)
    truth = brute_force(table, source, target, group_rows(table, 3, 4), 4)
    assert relative(fit.adapters["3x4"], truth) < 1e-6


def test_fewer_words_than_the_width_fit_the_fallback_too(source, target):
    table = make_table({(2, 2): 6, (1, 3): 3}, vocabulary=200)
    fit = fit_adapter(table, source, target, FitOptions(ridge=0.0, holdout=0.0, min_words=4))
    truth = brute_force_fallback(table, source, target, np.arange(9))
    assert relative(fit.adapters["fallback"], truth) < 1e-6
    truth = brute_force(table, source, target, group_rows(table, 2, 2), 2)
    assert relative(fit.adapters["2x2"], truth) < 1e-6


@pytest.mark.parametrize("grouping", list(Grouping))
def test_same_bits_for_any_number_of_threads(table, source, target, grouping):
    options = FitOptions(min_words=5, grouping=grouping)
    before, fits = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            fits.append(fit_adapter(table, source, target, options))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in fits[1:]:
        assert other.quality == fits[0].quality
        assert other.ridges == fits[0].ridges
        assert other.adapters.keys() == fits[0].adapters.keys()
        for name, faces in other.adapters.items():
            assert torch.equal(faces, fits[0].adapters[name])


def permuted(table, seed):
    order = np.random.default_rng(seed).permutation(len(table))
    return table.select(order)


def words_of(table, groups):
    return {
        g.name: tuple(frozenset(table.words[r] for r in rows) for rows in (g.train, g.held_out))
        for g in groups
    }


@pytest.mark.parametrize("max_words", [None, 40])
def test_lots_depend_on_the_words_alone(table, max_words):
    options = FitOptions(holdout=0.2, max_words=max_words, min_words=5, seed=3)
    chosen = words_of(table, numbered_groups(table, options))
    other = permuted(table, 1)
    assert words_of(other, numbered_groups(other, options)) == chosen
    half = table.select(np.arange(0, len(table), 2))
    for name, (_, held_out) in words_of(half, numbered_groups(half, options)).items():
        assert held_out == chosen[name][1] & set(half.words)
    reseeded = FitOptions(holdout=0.2, max_words=max_words, min_words=5, seed=4)
    assert words_of(table, numbered_groups(table, reseeded)) != chosen


def test_share_of_held_out_words_and_cap():
    table = make_table({(1, 1): 4000, (2, 2): 1000}, vocabulary=50)
    options = FitOptions(holdout=0.1, max_words=500)
    groups = numbered_groups(table, options)
    assert [len(g.train) for g in groups] == [500, 500]
    assert 330 < len(groups[0].held_out) < 470  # 400 expected, standard deviation 19
    assert not set(groups[0].train) & set(groups[0].held_out)
    plain = numbered_groups(table, FitOptions(holdout=0.0))
    assert [len(g.train) for g in plain] == [4000, 1000]


def test_held_out_words_are_not_fitted_on(table, source, target):
    """Changing their targets changes their figures and no adapter."""
    options = FitOptions(ridge=0.1, min_words=5, holdout=0.3)
    held_out = np.concatenate([g.held_out for g in numbered_groups(table, options)])
    values = table.target.values.copy()
    for row in held_out:
        values[table.target.offsets[row] : table.target.offsets[row + 1]] = 7
    changed = WordTable(
        table.words, table.counts, table.source, Ragged(table.target.offsets, values)
    )
    before = fit_adapter(table, source, target, options)
    after = fit_adapter(changed, source, target, options)
    for name, faces in before.adapters.items():
        assert torch.equal(faces, after.adapters[name])
    assert before.quality != after.quality


def test_capped_words_are_the_only_ones_fitted_on(table, source, target):
    options = FitOptions(ridge=0.0, holdout=0.0, min_words=5, max_words=30)
    fit = fit_adapter(table, source, target, options)
    groups = {g.name: g for g in numbered_groups(table, options)}
    truth = brute_force(table, source, target, groups["2x2"].train, 2)
    assert len(groups["2x2"].train) == 30
    assert relative(fit.adapters["2x2"], truth) < 1e-6
    rows = np.concatenate([g.train for g in groups.values()])
    truth = brute_force_fallback(table, source, target, rows)
    assert relative(fit.adapters["fallback"], truth) < 1e-6


def test_a_table_that_would_be_held_out_entirely_is_fitted_on(source, target):
    table = make_table({(1, 1): 1}, vocabulary=200)
    for seed in range(30):
        fit = fit_adapter(table, source, target, FitOptions(holdout=0.5, seed=seed, min_words=1))
        assert fit.quality.groups["1x1"].words == 1


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_progress_counts_every_word_once(table, source, target, holdout):
    seen = []
    options = FitOptions(min_words=5, holdout=holdout, chunk_words=10)
    fit_adapter(table, source, target, options, lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert {total for _, total in seen} == {len(table)}
    assert done == sorted(done)
    assert done[-1] == len(table)
    assert len(done) > 20


def test_parameters_are_read_without_a_graph_and_not_changed(table, source, target):
    parameters = [torch.nn.Parameter(t.clone()) for t in (source, target)]
    fit = fit_adapter(table, *parameters, ALL)
    assert not any(faces.requires_grad for faces in fit.adapters.values())
    assert torch.equal(parameters[0], source)
    assert torch.equal(parameters[1], target)
    with torch.inference_mode():
        inside = fit_adapter(table, source, target, ALL)
    assert torch.equal(inside.adapters["2x2"], fit.adapters["2x2"])


def test_fit_can_be_copied_and_says_how_it_was_made(table, source, target):
    fit = fit_adapter(table, source, target, ALL)
    assert fit.options == ALL
    assert fit.methods["2x2"] is Solver.CHOLESKY
    assert copy.deepcopy(fit).ridges == fit.ridges


def test_errors(table, source, target):
    empty = table.select(np.arange(0))
    with pytest.raises(VocabularyError, match="the word table is empty; expected at least one"):
        fit_adapter(empty, source, target)
    with pytest.raises(ShapeError, match=r"target_embeddings has shape \(200,\) and dtype"):
        fit_adapter(table, source, target[:, 0])
    with pytest.raises(ShapeError, match=r"source_embeddings has shape .* and dtype torch\.int32"):
        fit_adapter(table, source.int(), target)
    with pytest.raises(
        ShapeError,
        match="source token ids from 0 to 199, but source_embeddings has 150 rows; pass the "
        "embeddings of the model whose tokenizer made the table",
    ):
        fit_adapter(table, source[:150], target)
    nothing = WordTable(("a",), np.ones(1, np.int64), *(Ragged.from_lists([[]]),) * 2)
    with pytest.raises(ShapeError, match="the word 'a' has no source token; expected at least one"):
        fit_adapter(nothing, source, target)
    broken = source.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinity"):
        fit_adapter(table, broken, target)


@pytest.fixture(scope="module")
def real(gpt2_dir, minilm_dir, captions_file, wikitext_file):
    """The word table and the embeddings of the real pair."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    from fuse_index.words.corpus.words import CorpusOptions, count_words
    from fuse_index.words.table import TableOptions, build_word_table
    from fuse_index.words.tokenizers.tokenization import WordTokenizer

    counts = count_words([captions_file, wikitext_file], CorpusOptions())
    tokenizers = [
        WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(d))
        for d in (gpt2_dir, minilm_dir)
    ]
    table, _ = build_word_table(counts, *tokenizers, TableOptions())
    embeddings = []
    for folder, key in (
        (gpt2_dir, "transformer.wte.weight"),
        (minilm_dir, "bert.embeddings.word_embeddings.weight"),
    ):
        with safe_open(folder / "model.safetensors", "pt") as file:
            embeddings.append(file.get_tensor(key))
    return table, *embeddings


def test_real_words_equal_the_pseudo_inverse(real):
    """Words of real models repeat tokens; some groups lose rank, all must be solved to 1e-5."""
    table, source, target = real
    options = FitOptions(ridge=0.0, holdout=0.0, min_words=1, max_words=1000)
    fit = fit_adapter(table, source, target, options)
    for group in numbered_groups(table, options):
        name, k, rows = group.name, group.k, group.train
        faces = fit.adapters[name]
        x, y = dense(table.source, source, rows, k), dense(table.target, target, rows, k)
        x_faces, y_faces = torch.fft.rfft(x, dim=0), torch.fft.rfft(y, dim=0)
        with Workers(CPU):  # one thread: factorizations do not like a busy machine
            top = float(torch.linalg.matrix_norm(x_faces, 2).max())
            inverse = torch.linalg.pinv(x_faces, atol=1e-10 * top, rtol=0.0)
        truth = torch.fft.irfft(inverse @ y_faces, n=k, dim=0)
        assert relative(faces, truth) < 1e-6, name
    assert Solver.EIGENVALUES in fit.methods.values()


def test_real_adapters_predict_words_they_have_not_seen(real):
    table, source, target = real
    quality = fit_adapter(table, source, target, FitOptions()).quality.groups
    for name in ("1x1", "2x1", "2x2", "2x3", "3x3", "fallback"):
        group = quality[name]
        assert group.relative_error < group.baseline_error
        assert group.cosine > group.baseline_cosine + 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("ridge", [0.0, "auto"])
def test_cuda_equals_cpu(table, source, target, ridge):
    options = FitOptions(ridge=ridge, min_words=5)
    on_device = fit_adapter(table, source.cuda(), target.cuda(), options)
    on_cpu = fit_adapter(table, source, target, options)
    assert on_device.ridges == pytest.approx(on_cpu.ridges)
    for name, faces in on_device.adapters.items():
        assert faces.is_cuda
        assert relative(faces.cpu(), on_cpu.adapters[name].double()) < 1e-5
