"""The quality report against figures computed word by word."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.adapter.fit.fit import fit_adapter
from fuse_index.adapter.fit.options import FitOptions, Grouping
from fuse_index.adapter.fit.quality import predict
from fuse_index.tensors import t_product
from tests.adapter.fit.fitting import draw, make_table, numbered_groups, pad

GROUPS = {(1, 1): 80, (1, 3): 60, (2, 2): 80, (3, 2): 70, (4, 1): 12}


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 100))
def test_prediction_is_the_first_tokens_of_the_t_product(p, q, seed):
    k = max(p, q)
    faces, source = draw(seed, k, 4, 3), draw(seed + 1, p, 6, 4)
    expected = t_product(pad(source, k), faces)[:q]
    torch.testing.assert_close(predict(faces, source, q), expected)


def test_prediction_wraps_around_for_words_longer_than_the_tube():
    faces, source = draw(0, 2, 4, 3), draw(1, 5, 6, 4)
    expected = [sum(source[s] @ faces[(t - s) % 2] for s in range(5)) for t in range(4)]
    torch.testing.assert_close(predict(faces, source, 4), torch.stack(expected))
    sums = predict(faces[:1], source, 3)
    torch.testing.assert_close(sums, (source.sum(0) @ faces[0]).expand(3, 6, 3))


def figures(pairs):
    """Relative error and cosine of (guess, truth) tokens."""
    guess, truth = (torch.cat(part).double() for part in zip(*pairs, strict=True))
    error = float((guess - truth).norm() / truth.norm())
    return error, float(torch.cosine_similarity(guess, truth, dim=-1).mean())


@pytest.mark.parametrize("grouping", list(Grouping))
@pytest.mark.parametrize("chunk_words", [None, 4])
def test_figures_are_those_of_the_held_out_words(grouping, chunk_words):
    table = make_table(GROUPS, vocabulary=60)
    source, target = (
        draw(seed, 60, width, dtype=torch.float32) for seed, width in ((1, 8), (2, 5))
    )
    options = FitOptions(
        min_words=20, holdout=0.25, ridge=0.1, grouping=grouping, chunk_words=chunk_words
    )
    fit = fit_adapter(table, source, target, options)
    everything, common = [], []
    groups = numbered_groups(table, options)
    tokens = np.concatenate([np.concatenate([table.target[r] for r in g.train]) for g in groups])
    common_mean = target[torch.from_numpy(tokens)].double().mean(0)
    for group in groups:
        own, baseline = [], []
        mean = torch.stack(
            [target[torch.from_numpy(table.target[r])].double() for r in group.train]
        ).mean(0)
        faces = fit.adapters.get(group.name, fit.adapters["fallback"])
        for row in group.held_out:
            x = source[torch.from_numpy(table.source[row])][:, None]
            y = target[torch.from_numpy(table.target[row])]
            own.append((predict(faces, x, len(y))[:, 0], y))
            baseline.append((mean, y))
            everything.append((predict(fit.adapters["fallback"], x, len(y))[:, 0], y))
            common.append((common_mean.expand_as(y), y))
        quality = fit.quality.groups[group.name]
        assert (quality.words, quality.held_out) == (len(group.train), len(group.held_out))
        assert (quality.relative_error, quality.cosine) == pytest.approx(figures(own), rel=1e-5)
        assert (quality.baseline_error, quality.baseline_cosine) == pytest.approx(
            figures(baseline), rel=1e-5
        )
    quality = fit.quality.groups["fallback"]
    assert quality.words == sum(len(g.train) for g in groups)
    assert (quality.relative_error, quality.cosine) == pytest.approx(figures(everything), rel=1e-5)
    assert (quality.baseline_error, quality.baseline_cosine) == pytest.approx(
        figures(common), rel=1e-5
    )


def test_groups_without_held_out_words_have_no_figures():
    table = make_table({(1, 1): 20, (2, 2): 2}, vocabulary=30)
    fit = fit_adapter(table, draw(0, 30, 4), draw(1, 30, 3), FitOptions(holdout=0.0, min_words=5))
    for quality in fit.quality.groups.values():
        assert quality.relative_error is None
        assert quality.cosine is None
        assert quality.baseline_error is None
    assert fit.quality.groups["1x1"].words == 20
    assert json.loads(json.dumps(fit.quality.to_dict()))["2x2"]["held_out"] == 0


def test_a_linear_relation_between_the_models_is_found():
    """Targets that are a linear map of the sources: error near 0, cosine near 1."""
    table = make_table({(1, 1): 300}, vocabulary=400)
    object.__setattr__(table, "target", table.source)
    source = draw(0, 400, 8)
    target = source @ draw(1, 8, 5)
    quality = fit_adapter(table, source, target, FitOptions()).quality.groups["1x1"]
    assert quality.held_out > 10
    assert quality.relative_error < 1e-4
    assert quality.cosine == pytest.approx(1.0, abs=1e-6)
    assert quality.baseline_error > 0.9
