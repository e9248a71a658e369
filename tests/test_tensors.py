"""The algebra's laws, the Penrose conditions, dense block-circulant oracles, and derivatives."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fuse_index.errors import FuseIndexError, OptionError, ShapeError
from fuse_index.tensors import (
    bcirc,
    fold,
    t_identity,
    t_lstsq,
    t_pinv,
    t_product,
    t_svd,
    t_transpose,
    unfold,
)
from tests.cases import case

DTYPES = (torch.float64, torch.complex128)
KINDS = ("full", "deficient", "zero slice", "zero face", "repeated", "zero")
SHAPES = ((7, 3), (3, 7), (5, 5), (1, 4), (4, 1))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of tiny operations: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


sizes = st.integers(1, 5)
tubes = st.integers(1, 7)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def word_tensor(kind: str, seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A third-order tensor with one of the defects that word tensors have."""
    *batch, k, m, n = shape
    a = draw(seed, *shape, dtype=dtype)
    if kind == "deficient":
        left, right = (
            draw(seed + 1, *batch, k, m, 1, dtype=dtype),
            draw(seed + 2, *batch, k, 1, n, dtype=dtype),
        )
        a = t_product(left, right)
    elif kind == "zero slice":
        a[..., k // 2, :, :] = 0
    elif kind == "zero face":  # sums to zero along the tube: face 0 of the transform vanishes
        a = a - a.mean(-3, keepdim=True)
    elif kind == "repeated":  # all faces of the transform but face 0 vanish
        a = a[..., :1, :, :].expand(*batch, k, m, n).clone()
    elif kind == "zero":
        a = torch.zeros_like(a)
    return a


def relative(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm().clamp_min(1e-30))


def direct_product(a: Tensor, b: Tensor) -> Tensor:
    k = a.shape[-3]
    faces = [sum(a[..., s, :, :] @ b[..., (t - s) % k, :, :] for s in range(k)) for t in range(k)]
    return torch.stack(faces, dim=-3)


@settings(max_examples=50)
@given(tubes, sizes, sizes, sizes, dtypes, seeds)
def test_product_is_its_definition_and_the_block_circulant_product(k, m, n, r, dtype, seed):
    a, b = draw(seed, k, m, n, dtype=dtype), draw(seed + 1, k, n, r, dtype=dtype)
    c = t_product(a, b)
    torch.testing.assert_close(c, direct_product(a, b))
    torch.testing.assert_close(unfold(c), bcirc(a) @ unfold(b))
    torch.testing.assert_close(bcirc(c), bcirc(a) @ bcirc(b))
    assert c.dtype == dtype


@pytest.mark.smoke
@settings(max_examples=50)
@given(tubes, sizes, sizes, sizes, dtypes, seeds)
def test_laws_of_the_algebra(k, m, n, r, dtype, seed):
    a, b = draw(seed, k, m, n, dtype=dtype), draw(seed + 1, k, n, r, dtype=dtype)
    c, d = draw(seed + 2, k, r, 2, dtype=dtype), draw(seed + 3, k, n, r, dtype=dtype)
    close = torch.testing.assert_close
    close(t_product(t_product(a, b), c), t_product(a, t_product(b, c)))
    close(t_product(a, b + d), t_product(a, b) + t_product(a, d))
    close(t_product(t_identity(k, m, dtype=dtype), a), a)
    close(t_product(a, t_identity(k, n, dtype=dtype)), a)
    close(t_transpose(t_product(a, b)), t_product(t_transpose(b), t_transpose(a)))
    assert torch.equal(t_transpose(t_transpose(a)), a)
    close(bcirc(t_transpose(a)), bcirc(a).mH)


@settings(max_examples=50)
@given(tubes, sizes, sizes, sizes, dtypes, seeds)
def test_transpose_is_the_adjoint(k, m, n, r, dtype, seed):
    a, b = draw(seed, k, m, n, dtype=dtype), draw(seed + 1, k, n, r, dtype=dtype)
    c = draw(seed + 2, k, m, r, dtype=dtype)
    left = torch.vdot(t_product(a, b).flatten(), c.flatten())
    torch.testing.assert_close(
        left, torch.vdot(b.flatten(), t_product(t_transpose(a), c).flatten())
    )


def test_transpose_reverses_the_faces_after_the_first():
    a = draw(0, 4, 2, 3)
    expected = torch.stack([a[0].T, a[3].T, a[2].T, a[1].T])
    assert torch.equal(t_transpose(a), expected)


@settings(max_examples=50)
@given(tubes, sizes, sizes, seeds)
def test_fold_undoes_unfold(k, m, n, seed):
    a = draw(seed, 2, k, m, n)
    assert unfold(a).shape == (2, k * m, n)
    assert torch.equal(fold(unfold(a), k), a)


@pytest.mark.smoke
@settings(max_examples=50)
@given(tubes, st.sampled_from(SHAPES), st.sampled_from(KINDS), dtypes, seeds)
def test_four_penrose_conditions(k, shape, kind, dtype, seed):
    a = word_tensor(kind, seed, k, *shape, dtype=dtype)
    p = t_pinv(a)
    assert p.shape == (k, *shape[::-1])
    # absolute tolerances scale with the pseudo-inverse: |P| is large for nearly deficient draws
    scale = max(1.0, float(a.norm() * p.norm()))
    tolerances = {"rtol": 0, "atol": 1e-12 * scale**2}
    ap, pa = t_product(a, p), t_product(p, a)
    torch.testing.assert_close(
        t_product(ap, a) / a.norm().clamp_min(1), a / a.norm().clamp_min(1), **tolerances
    )
    torch.testing.assert_close(
        t_product(pa, p) / p.norm().clamp_min(1), p / p.norm().clamp_min(1), **tolerances
    )
    torch.testing.assert_close(t_transpose(ap), ap, **tolerances)
    torch.testing.assert_close(t_transpose(pa), pa, **tolerances)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-9),
        (torch.complex128, 1e-9),
        (torch.float32, 1e-4),
        (torch.complex64, 1e-4),
    ],
)
def test_pinv_is_the_dense_block_circulant_one(dtype, tolerance):
    double = torch.complex128 if dtype.is_complex else torch.float64
    for k, shape, kind in product(range(1, 6), SHAPES, KINDS):
        with case(k=k, shape=shape, kind=kind):
            a = word_tensor(kind, 31 * k, k, *shape, dtype=dtype)
            dense = torch.linalg.pinv(
                bcirc(a).to(double), rtol=1e-5
            )  # above float32 rounding of the defects
            assert relative(bcirc(t_pinv(a)).to(double), dense) < tolerance


def test_pinv_of_a_wide_spectrum_uses_one_cut_off_for_all_faces():
    # Face 0 carries 1, face 1 only rounding noise: a cut-off per face would invert the noise.
    spectrum = torch.stack([torch.eye(3), torch.full((3, 3), 1e-9)]).double()
    a = torch.stack([spectrum.sum(0), spectrum[0] - spectrum[1]]) / 2
    inverse = t_pinv(a, rtol=1e-6)
    assert inverse.abs().max() <= 0.5 + 1e-6
    assert t_pinv(a, rtol=0.0).abs().max() > 1e6


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_lstsq_is_the_dense_ridge_solution(ridge):
    for k, shape, kind in product(range(1, 5), SHAPES, KINDS):
        with case(k=k, shape=shape, kind=kind):
            a, b = word_tensor(kind, 7 * k, k, *shape), draw(5, k, shape[0], 2)
            dense = bcirc(a)
            if ridge:
                gram = dense.T @ dense + ridge * torch.eye(dense.shape[1], dtype=dense.dtype)
                truth = torch.linalg.solve(gram, dense.T @ unfold(b))
            else:
                truth = torch.linalg.pinv(dense) @ unfold(b)
            assert relative(unfold(t_lstsq(a, b, ridge=ridge)), truth) < 1e-9


@settings(max_examples=50)
@given(tubes, st.sampled_from(SHAPES), st.sampled_from(KINDS), dtypes, seeds)
def test_svd_rebuilds_with_orthogonal_factors(k, shape, kind, dtype, seed):
    a = word_tensor(kind, seed, k, *shape, dtype=dtype)
    u, s, v = t_svd(a)
    assert u.dtype == s.dtype == v.dtype == dtype
    torch.testing.assert_close(t_product(t_product(u, s), t_transpose(v)), a, atol=1e-11, rtol=0)
    eye = t_identity(k, min(shape), dtype=dtype)
    torch.testing.assert_close(t_product(t_transpose(u), u), eye, atol=1e-11, rtol=0)
    torch.testing.assert_close(t_product(t_transpose(v), v), eye, atol=1e-11, rtol=0)
    off_diagonal = s - torch.diag_embed(s.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() == 0


def test_svd_holds_the_singular_values_of_the_block_circulant_matrix():
    a = draw(3, 4, 5, 3)
    values = (
        torch.fft.fft(t_svd(a).s.diagonal(dim1=-2, dim2=-1), dim=0).real.flatten().sort().values
    )
    torch.testing.assert_close(values, torch.linalg.svdvals(bcirc(a)).sort().values)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_equal_single_calls_and_broadcast(k, dtype):
    a, b = draw(0, 2, 3, k, 4, 3, dtype=dtype), draw(1, 3, k, 3, 2, dtype=dtype)
    product, inverse = t_product(a, b), t_pinv(a)
    solution = t_lstsq(a, t_product(a, b))
    assert product.shape == (2, 3, k, 4, 2)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(product[i, j], t_product(a[i, j], b[j]))
            torch.testing.assert_close(inverse[i, j], t_pinv(a[i, j]))
            torch.testing.assert_close(solution[i, j], b[j])


def test_cut_off_is_per_tensor_of_a_batch():
    a = draw(0, 3, 4, 2)
    batch = torch.stack([a, a * 1e-20])
    torch.testing.assert_close(t_pinv(batch)[1] * 1e-20, t_pinv(a))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_half_precision_is_computed_in_float32(k, dtype):
    a, b = draw(0, k, 6, 3).to(dtype), draw(1, k, 3, 2).to(dtype)
    for half, single in (
        (t_product(a, b), t_product(a.float(), b.float())),
        (t_pinv(a), t_pinv(a.float())),
        (t_svd(a).s, t_svd(a.float()).s),
        (t_lstsq(a, a, ridge=0.1), t_lstsq(a.float(), a.float(), ridge=0.1)),
    ):
        assert half.dtype == dtype
        assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_derivatives_of_first_and_second_order(k, dtype, shape):
    a = draw(0, k, *shape, dtype=dtype).requires_grad_()
    b = draw(1, k, shape[0], 1, dtype=dtype).requires_grad_()
    calls = [
        (lambda x, y: t_product(t_transpose(x), y), (a, b)),
        (t_pinv, (a,)),
        (t_lstsq, (a, b)),
        (lambda x, y: t_lstsq(x, y, ridge=0.2), (a, b)),
        (lambda x: t_svd(x).s, (a,)),
        (lambda x: fold(bcirc(x) @ unfold(t_pinv(x)), k), (a,)),
    ]
    for function, inputs in calls:
        assert gradcheck(function, inputs)
        # Element by element for the shortest tubes, along random directions for longer ones.
        assert gradgradcheck(function, inputs, fast_mode=k > 2)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_pinv_differentiates_at_deficient_rank_along_the_rank(k):
    """Zero faces and repeated singular values make the derivative of an SVD infinite, not ours."""
    left = draw(0, k, 4, 1).requires_grad_()
    right = draw(1, k, 1, 3).requires_grad_()
    assert gradcheck(lambda x, y: t_pinv(t_product(x, y)), (left, right))
    assert gradgradcheck(lambda x, y: t_pinv(t_product(x, y)), (left, right))
    identity = t_identity(k, 3, dtype=torch.float64).requires_grad_()
    assert gradcheck(t_pinv, (identity,))


def test_non_contiguous_and_lazily_conjugated_input():
    a = draw(0, 5, 3, 4, dtype=torch.complex128)
    view = a.permute(1, 2, 0).conj()  # (3, 4, 5)
    torch.testing.assert_close(t_pinv(view), t_pinv(view.resolve_conj().contiguous()))
    torch.testing.assert_close(
        t_product(view, t_transpose(view)), direct_product(view, t_transpose(view))
    )


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("shape", [(3, 0, 4), (3, 4, 0), (2, 0, 1), (0, 3, 2, 5)])
def test_zero_size(shape, dtype):
    a = torch.zeros(shape, dtype=dtype)
    m, n = shape[-2:]
    assert t_pinv(a).shape == (*shape[:-2], n, m)
    product = t_product(a, t_transpose(a))
    assert product.shape == (*shape[:-2], m, m)
    assert not product.abs().sum()
    assert t_lstsq(a, a, ridge=1.0).shape == (*shape[:-2], n, n)
    assert t_svd(a).s.shape == (*shape[:-2], min(m, n), min(m, n))
    assert fold(unfold(a), shape[-3]).shape == a.shape


A = torch.zeros(2, 3, 5)
THIRD = "expected a third-order tensor (*, k, n1, n2), faces first, with k >= 1"
ERRORS = [
    (
        lambda: t_product(A, A),
        "t_product: a has 5 columns but b has 3 rows (a is 2x3x5, b is 2x3x5); "
        "did you mean t_transpose(b)?",
    ),
    (
        lambda: t_product(A, A[:1].mT),
        "t_product: a has 2 faces but b has 1 (a is 2x3x5, b is 1x5x3); "
        "expected one tube length k; zero-pad the shorter tube",
    ),
    (
        lambda: t_product(A, A.mT.double()),
        "t_product: a is torch.float32 on cpu but b is torch.float64 on cpu; "
        "expected one dtype and device; use b.to(a)",
    ),
    (
        lambda: t_product(A.expand(2, 2, 3, 5), A.mT.expand(3, 2, 5, 3)),
        "t_product: a has batch dimensions (2,) but b has (3,) (a is 2x2x3x5, b is 3x2x5x3); "
        "expected batch dimensions that broadcast",
    ),
    (
        lambda: t_product(A, A[0]),
        f"t_product: b is 3x5; {THIRD}; for one face, pass b[None]",
    ),
    (
        lambda: t_pinv(A.int()),
        "t_pinv: a has dtype torch.int32; expected a floating or complex dtype",
    ),
    (lambda: t_pinv(A[:0]), f"t_pinv: a is 0x3x5; {THIRD}"),
    (
        lambda: t_lstsq(A, A.mT),
        "t_lstsq: a has 3 rows but b has 5 rows (a is 2x3x5, b is 2x5x3); "
        "did you mean t_transpose(a)?",
    ),
    (lambda: t_svd(torch.tensor(1.0)), f"t_svd: a is a scalar; {THIRD}"),
    (
        lambda: fold(torch.zeros(5, 2), 2),
        "fold: matrix is 5x2 and k=2; expected (*, k * n1, n2): rows that are a multiple of k >= 1",
    ),
    (lambda: t_identity(0, 3), "t_identity: k=0, n=3; expected k >= 1 and n >= 0"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m.split(";")[0] for _, m in ERRORS])
def test_errors_restate_the_call(call, message):
    with pytest.raises(ShapeError) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, FuseIndexError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_bad_numbers(value):
    with pytest.raises(OptionError, match=r"t_pinv: rtol=.*; expected a finite number >= 0"):
        t_pinv(A, rtol=value)
    with pytest.raises(OptionError, match=r"t_lstsq: ridge=.*; expected a finite number >= 0"):
        t_lstsq(A, A, ridge=value)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_cuda_equals_cpu(k, dtype):
    a, b = draw(0, 2, k, 9, 5, dtype=dtype), draw(1, k, 5, 3, dtype=dtype)
    for function, inputs in ((t_product, (a, b)), (t_pinv, (a,)), (t_lstsq, (a, t_product(a, b)))):
        on_device = function(*(x.cuda() for x in inputs))
        assert on_device.is_cuda
        torch.testing.assert_close(on_device.cpu(), function(*inputs))
