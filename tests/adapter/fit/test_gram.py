"""Half spectra, and the sums of products against dense complex algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.adapter.fit._spectrum import (
    dft_rows,
    face_weights,
    from_half_spectrum,
    half_spectrum,
)
from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import GroupGram
from tests.adapter.fit.fitting import CPU, draw, pad, relative

lengths = st.integers(1, 6)


def accumulate(x, y, k, chunk=5):
    with Workers(CPU) as workers:
        gram = GroupGram(k, x.shape[2], y.shape[2], workers=workers, device=CPU)
        for start in range(0, x.shape[1], chunk):
            part = slice(start, start + chunk)
            gram.add(gram.prepare(x[:, part], y[:, part]))
        return gram, gram.systems()


def close_above(value, truth):
    """Only the upper triangle of a Gram matrix counts."""
    torch.testing.assert_close(value.triu(), truth.triu())


@settings(max_examples=50)
@given(lengths, lengths, st.integers(0, 1000))
def test_half_spectrum_is_the_first_half_of_the_dft(p, q, seed):
    k = max(p, q)
    tokens = draw(seed, p, 4, 3)
    expected = torch.fft.fft(pad(tokens, k), dim=0)
    faces = half_spectrum(tokens, k)
    assert len(faces) == k // 2 + 1
    for face, truth, weight in zip(faces, expected, face_weights(k), strict=False):
        assert face.is_complex() == (weight == 2)
        torch.testing.assert_close(face.to(truth.dtype), truth)
    torch.testing.assert_close(from_half_spectrum(faces, k), pad(tokens, k))


@pytest.mark.parametrize("k", range(1, 9))
def test_weights_count_every_face_once(k):
    assert sum(face_weights(k)) == k


def test_dft_factors_are_exact_up_to_four_tokens():
    assert dft_rows(4, 1) == ([1, 0, -1, 0], [0, -1, 0, 1])
    assert dft_rows(2, 1)[0] == [1, -1]
    assert dft_rows(3, 1)[0] == [1, -0.5, -0.5]


@settings(max_examples=40)
@given(lengths, lengths, st.integers(1, 12), st.integers(0, 1000))
def test_systems_are_the_normal_equations_of_every_face(p, q, words, seed):
    k = max(p, q)
    x, y = draw(seed, p, words, 5), draw(seed + 1, q, words, 3)
    gram, systems = accumulate(x, y, k)
    x_faces, y_faces = (torch.fft.fft(pad(a, k), dim=0) for a in (x, y))
    assert [s.weight for s in systems] == list(face_weights(k))
    for system, a, b in zip(systems, x_faces, y_faces, strict=False):
        dtype = system.gram.dtype
        assert dtype == (torch.complex128 if system.weight == 2 else torch.float64)
        close_above(system.gram.to(a.dtype), a.mH @ a)
        torch.testing.assert_close(system.right.to(a.dtype), a.mH @ b)
    assert gram.target_energy == pytest.approx(float(y.square().sum()))
    assert not gram.single


@pytest.mark.parametrize("width", [127, 128, 129, 300, 1030])
def test_blocks_cover_the_whole_matrix(width):
    x, y = draw(0, 3, 20, width), draw(1, 3, 20, 2)
    _, systems = accumulate(x, y, 3)
    for system, face in zip(systems, torch.fft.fft(x, dim=0), strict=False):
        close_above(system.gram.to(face.dtype), face.mH @ face)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_float32_products_are_summed_in_float64(k):
    x, y = draw(0, k, 5000, 6), draw(1, k, 5000, 2)
    gram, systems = accumulate(x.float(), y.float(), k, chunk=64)
    assert {s.gram.real.dtype for s in gram.systems(torch.float32)} == {torch.float32}
    _, exact = accumulate(x.float().double(), y.float().double(), k, chunk=64)
    assert gram.single
    for system, truth in zip(systems, exact, strict=True):
        assert system.gram.dtype == truth.gram.dtype
        assert 0 < relative(system.gram.triu().abs(), truth.gram.triu().abs()) < 6e-7
        assert (system.right - truth.right).norm() < 3e-6 * truth.right.norm()


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 3), (4, 2), (3, 4)])
def test_sums_of_the_fallback_come_from_face_zero(p, q):
    x, y = draw(0, p, 9, 4), draw(1, q, 9, 3)
    with Workers(CPU) as workers:
        group = GroupGram(max(p, q), 4, 3, workers=workers, device=CPU)
        group.add(group.prepare(x, y))
        common, direct = (GroupGram(1, 4, 3, workers=workers, device=CPU) for _ in range(2))
        common.add_face(group, q)
        direct.add(direct.prepare_summed(x, y))
        (a,), (b,) = common.systems(), direct.systems()
    rows = x.sum(0).repeat_interleave(q, 0)  # one row for every target token
    targets = y.transpose(0, 1).reshape(-1, 3)
    for system in (a, b):
        close_above(system.gram, rows.T @ rows)
        torch.testing.assert_close(system.right, rows.T @ targets)
    assert common.target_energy == pytest.approx(float(y.square().sum()))
    assert direct.target_energy == pytest.approx(float(y.square().sum()))


def test_tokens_side_by_side_are_summed_for_the_fallback():
    x, y = draw(0, 1, 9, 4), draw(1, 3, 9, 2)
    with Workers(CPU) as workers:
        group = GroupGram(1, 4, 6, workers=workers, device=CPU)
        group.add(group.prepare(x, y.transpose(0, 1).flatten(1)[None]))
        common = GroupGram(1, 4, 2, workers=workers, device=CPU)
        common.add_face(group, 3)
        (system,) = common.systems()
    close_above(system.gram, 3 * x[0].T @ x[0])
    torch.testing.assert_close(system.right, x[0].T @ y.sum(0))
