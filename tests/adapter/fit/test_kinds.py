"""Fits of every kind against brute force, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.fit import fit_adapter
from fuse_index.adapter.fit.groups import word_keys
from fuse_index.adapter.fit.kinds import choice
from fuse_index.adapter.fit.kinds.choice import choose_kind, fit_map
from fuse_index.adapter.fit.kinds.local import fit_local
from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.options import FitOptions, Grouping, MapKind
from fuse_index.adapter.fit.quality import predict
from fuse_index.adapter.fit.store import FitStore
from fuse_index.adapter.maps.local import kernel, unit_vectors
from fuse_index.errors import OptionError
from tests.adapter.fit.fitting import CPU, draw, group_rows, make_table, relative

GROUPS = {(1, 1): 90, (1, 3): 70, (2, 1): 60, (3, 2): 24, (4, 2): 3}
DENSE = [kind for kind in MapKind if not kind.is_product and kind is not MapKind.AUTO]
SHIFTS = torch.tensor([3.0, -2.0, 0.5, 1.0, 4.0, -1.0])


@pytest.fixture(scope="module")
def table():
    return make_table(GROUPS, vocabulary=200)


@pytest.fixture(scope="module")
def source():
    return draw(10, 200, 12, dtype=torch.float32) + 0.7


@pytest.fixture(scope="module")
def target():
    """Embeddings that share a large mean, as those of language models do."""
    return draw(11, 200, 6, dtype=torch.float32) + SHIFTS


def words_of(table, source, target, p, q) -> tuple[torch.Tensor, torch.Tensor]:
    rows = group_rows(table, p, q).tolist()
    x = torch.stack([source[torch.from_numpy(table.source[row])] for row in rows])
    y = torch.stack([target[torch.from_numpy(table.target[row])] for row in rows])
    return x.double(), y.double()


def with_ones(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


@pytest.mark.smoke
@pytest.mark.parametrize("chunk_words", [None, 7])
def test_affine_products_are_least_squares_with_an_intercept(table, source, target, chunk_words):
    """Of words of one source token the faces are free, so that any solver with ones agrees."""
    options = FitOptions(
        ridge=0.0, holdout=0.0, min_words=20, chunk_words=chunk_words, kind=MapKind.AFFINE
    )
    fit = fit_adapter(table, source, target, options)
    for q in (1, 3):
        x, y = words_of(table, source, target, 1, q)
        truth = torch.linalg.lstsq(with_ones(x[:, 0]), y.flatten(1)).solution
        faces = fit.adapters[f"1x{q}"].permute(1, 0, 2).flatten(1)
        assert relative(faces, truth[:-1]) < 1e-5
        assert relative(fit.maps[f"1x{q}"]["intercept"].flatten(), truth[-1]) < 1e-5
    assert fit.kinds == dict.fromkeys([*fit.adapters], "affine")
    x, y = words_of(table, source, target, 2, 1)  # the circulant of the centred words
    faces, means = fit.adapters["2x1"].double(), (x.mean(0), y.mean(0))
    away = predict(faces, (x - means[0]).transpose(0, 1), 2).transpose(0, 1)
    wanted = torch.cat([y - means[1], torch.zeros_like(y)], dim=1)
    rest = away - wanted
    for shift in (1e-3, -1e-3):  # no small change of the faces is better
        other = faces + shift * draw(3, *faces.shape)
        changed = predict(other, (x - means[0]).transpose(0, 1), 2).transpose(0, 1) - wanted
        assert changed.square().sum() > rest.square().sum()
    mean = predict(faces, means[0][:, None], 1)[:, 0]
    torch.testing.assert_close(
        fit.maps["2x1"]["intercept"].double(), means[1] - mean, atol=1e-5, rtol=0
    )


def test_the_affine_fallback_is_one_matrix_and_one_intercept_for_all_tokens(table, source, target):
    options = FitOptions(ridge=0.0, holdout=0.0, min_words=20, kind=MapKind.AFFINE)
    fit = fit_adapter(table, source, target, options)
    pairs = [words_of(table, source, target, *group) for group in GROUPS]
    x = torch.cat(
        [own.sum(1)[:, None].expand(-1, y.shape[1], -1).flatten(0, 1) for own, y in pairs]
    )
    y = torch.cat([own.flatten(0, 1) for _, own in pairs])
    truth = torch.linalg.lstsq(with_ones(x), y).solution
    assert relative(fit.adapters["fallback"][0], truth[:-1]) < 1e-5
    assert relative(fit.maps["fallback"]["intercept"][0], truth[-1]) < 1e-5
    other = fit_adapter(
        table, source, target, FitOptions(ridge=0.0, holdout=0.0, min_words=20, kind=MapKind.BLOCK)
    )
    assert relative(other.adapters["fallback"], fit.adapters["fallback"].double()) < 1e-5


def test_the_circulant_kind_ignores_all_that_came_later(table, source, target):
    fit = fit_adapter(table, source, target, FitOptions(kind=MapKind.CIRCULANT))
    assert not fit.maps
    assert not fit.kinds
    assert not fit.selection
    assert "kind" not in fit.options.to_dict()
    assert FitOptions.from_dict(FitOptions().to_dict()) == FitOptions()
    local = FitOptions(kind=MapKind.LOCAL, landmarks=5)
    assert local.to_dict()["kind"] == "local"
    assert FitOptions.from_dict(local.to_dict()) == local
    with pytest.raises(OptionError, match="kind"):
        FitOptions(kind="spline")


@pytest.mark.parametrize("kind", [kind for kind in MapKind if kind is not MapKind.CIRCULANT])
@pytest.mark.parametrize("grouping", list(Grouping))
def test_no_map_is_worse_than_the_mean_on_held_out_words(table, source, target, kind, grouping):
    """The tables are noise, so that least squares of few words is far worse than the mean."""
    options = FitOptions(ridge=0.0, min_words=10, holdout=0.3, kind=kind, grouping=grouping)
    fit = fit_adapter(table, source, target, options)
    assert set(fit.maps) == set(fit.kinds) >= set(fit.adapters)
    for name, quality in fit.quality.groups.items():
        if quality.held_out and name not in fit.fallbacks:
            assert quality.relative_error <= quality.baseline_error * (1 + 1e-6)


@pytest.mark.parametrize("kind", DENSE)
def test_a_group_has_room_for_held_out_words_of_more_tokens(source, target, kind):
    table = make_table({(1, 2): 40, (3, 2): 2}, vocabulary=200)
    rows = group_rows(table, 3, 2)
    for seed in range(200):  # one that holds both longer words out
        options = FitOptions(kind=kind, grouping=Grouping.TARGET, holdout=0.4, seed=seed)
        held = word_keys([table.words[row] for row in rows], seed) < np.uint64(int(0.4 * 2**64))
        if held.all():
            break
    fit = fit_adapter(table, source, target, options)
    shapes = [own.shape for own in fit.maps["x2"].values()]
    assert any(3 * 12 in shape for shape in shapes)


@pytest.mark.parametrize("kind", [MapKind.AFFINE, *DENSE])
def test_the_same_words_give_the_same_maps(table, source, target, kind):
    options = FitOptions(kind=kind, min_words=20)
    one, two = (fit_adapter(table, source, target, options) for _ in range(2))
    for name, tensors in one.maps.items():
        for key, own in tensors.items():
            assert torch.equal(own, two.maps[name][key])
    assert one.quality == two.quality


def planted(kind: MapKind, n: int = 300) -> DenseWords:
    """Words of two source tokens and one target token that a kind explains, with an offset."""
    x = draw(0, n, 2, 5).float()
    if kind is MapKind.LOCAL:
        y = torch.stack([x[:, 0, 0].sign() * x[:, 1, 1].sign(), x[:, 0, 2].abs()], 1) + 5
    elif kind is MapKind.MLP:
        y = x[:, 0, :2].abs() + 5
    else:
        left, right = draw(1, 10, 1).float(), draw(2, 1, 2).float()
        if kind is MapKind.ORTHOGONAL:
            left, right = torch.linalg.qr(draw(1, 10, 2).float())[0], 2.5 * torch.eye(2)
        if kind is MapKind.BLOCK:
            left, right = draw(1, 10, 2).float(), torch.eye(2)
        y = x.flatten(1) @ left @ right + 5 + 0.01 * draw(3, n, 2).float()
    return DenseWords(x, y[:, None], Workers(CPU))


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (MapKind.BLOCK, 0.02),
        (MapKind.ORTHOGONAL, 0.3),
        (MapKind.LOW_RANK, 0.02),
        (MapKind.LOCAL, 0.9),
        (MapKind.MLP, 0.8),
    ],
)
def test_every_kind_finds_what_it_is_made_for(kind, most):
    words = planted(kind)
    fitted, tested = words.select(slice(0, 240)), words.select(slice(240, None))
    options = FitOptions(
        ridge=0.0 if kind in (MapKind.BLOCK, MapKind.LOW_RANK) else "auto", kind=kind
    )
    own = fit_map(fitted, kind, options, torch.zeros(5, 2))
    error = (own.apply(tested.x) - tested.y).norm() / (tested.y - fitted.y.mean(0)).norm()
    assert error < most
    if kind is MapKind.LOW_RANK:
        assert own.tensors()["left"].shape == (10, 1)
    if kind is MapKind.ORTHOGONAL:
        scales = torch.linalg.svdvals(own.tensors()["matrix"])
        torch.testing.assert_close(scales, scales.mean().expand(2))


def test_a_local_map_is_kernel_ridge_regression():
    words = planted(MapKind.LOCAL, 60)
    own = fit_local(words, landmarks=100, seed=0)
    units, _ = unit_vectors(words.x.double() - words.x.double().mean(0))
    gram = kernel(units, units, float(own.sharpness))
    best = min(
        (float(leave_one_out(gram, words.y.double(), penalty).square().sum()), penalty)
        for penalty in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    )
    values = words.y.double() - words.y.double().mean(0)
    truth = torch.linalg.solve(gram + best[1] * torch.eye(60, dtype=torch.float64), values)
    assert relative(own.coefficients, truth) < 1e-3


def leave_one_out(gram: torch.Tensor, y: torch.Tensor, penalty: float) -> torch.Tensor:
    """Residuals of words that are left out, one solve each."""
    values, rows = y - y.mean(0), torch.arange(len(y))
    found = []
    for i in range(len(y)):
        left = rows != i
        system = gram[left][:, left] + penalty * torch.eye(len(y) - 1, dtype=torch.float64)
        found.append(values[i] - gram[i, left] @ torch.linalg.solve(system, values[left]))
    return torch.stack(found)


def test_landmarks_are_the_first_words():
    words = planted(MapKind.LOCAL, 200)
    some, first = fit_local(words, 150, 0), fit_local(words.select(slice(0, 150)), 999, 0)
    assert some.landmarks.shape == (150, 10)
    for name, own in some.tensors().items():
        assert torch.equal(own, first.tensors()[name])


def test_auto_takes_the_kind_of_the_least_cross_validated_error(table, source, target):
    options = FitOptions(kind=MapKind.AUTO, min_words=20)
    for kind in (MapKind.BLOCK, MapKind.LOCAL):
        chosen, errors = choose_kind(planted(kind), options, torch.zeros(5, 2))
        assert [*errors] == ["mean", *(own.value for own in choice.TRIED)]
        assert errors[chosen.value] == min(errors[own.value] for own in choice.TRIED)
    assert chosen is MapKind.LOCAL
    fit = fit_adapter(table, source, target, options)
    for name, errors in fit.selection.items():
        assert (
            fit.kinds[name]
            == min((errors[own.value], i, own.value) for i, own in enumerate(choice.TRIED))[2]
        )
    assert set(fit.selection) == {"1x1", "1x3", "2x1", "3x2"}
    assert np.isfinite([own for errors in fit.selection.values() for own in errors.values()]).all()


@pytest.mark.parametrize("kind", [MapKind.AFFINE, MapKind.LOCAL, MapKind.AUTO])
@pytest.mark.parametrize("groups", [1, 3, 5])
def test_an_interrupted_fit_goes_on_to_the_same_maps(
    table, source, target, kind, groups, tmp_path, monkeypatch
):
    options = FitOptions(kind=kind, min_words=20)
    whole = fit_adapter(table, source, target, options)
    monkeypatch.setattr(FitStore, "save_group", _stop_after(groups))
    with pytest.raises(KeyboardInterrupt):
        fit_adapter(table, source, target, options, store=FitStore(tmp_path))
    monkeypatch.undo()
    found = fit_adapter(table, source, target, options, store=FitStore(tmp_path))
    assert found.quality == whole.quality
    assert (found.kinds, found.selection, found.ridges) == (
        whole.kinds,
        whole.selection,
        whole.ridges,
    )
    for name, tensors in whole.maps.items():
        assert all(torch.equal(own, found.maps[name][key]) for key, own in tensors.items())
    assert all(torch.equal(own, found.adapters[name]) for name, own in whole.adapters.items())


def _stop_after(groups: int):
    """Keep so many groups, then be interrupted."""
    save, left = FitStore.save_group, iter(range(groups - 1, -1, -1))

    def run(self, number, found):
        save(self, number, found)
        if not next(left):
            raise KeyboardInterrupt

    return run
