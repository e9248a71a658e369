"""t_product against its definition, and the laws of DESIGN section 2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import ShapeError
from fuse_index.ops import t_product, t_transpose
from tests.ops.helpers import DEVICES, DTYPES, TOLERANCE, relative_error


def draw(*shape, dtype=torch.float64, device="cpu", seed=0):
    """Random normal tensor."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).to(device)


def brute(a, b):
    """The definition in float64 on the CPU."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    k = a.shape[-3]
    faces = [sum(a[..., s, :, :] @ b[..., (t - s) % k, :, :] for s in range(k)) for t in range(k)]
    return torch.stack(faces, dim=-3)


@pytest.mark.smoke
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("sizes", [(3, 5, 4), (65, 130, 67), (1, 64, 128)], ids=str)
def test_values_are_those_of_the_definition(device, dtype, k, sizes):
    n1, n2, n3 = sizes
    a = draw(2, k, n1, n2, dtype=dtype, device=device)
    b = draw(2, k, n2, n3, dtype=dtype, device=device, seed=1)
    out = t_product(a, b)
    assert out.dtype is dtype
    assert relative_error(out, brute(a, b)) <= TOLERANCE[dtype]


sizes = st.integers(1, 6)


@given(k=sizes, n1=sizes, n2=sizes, n3=sizes, n4=sizes)
def test_associative_and_transposes_in_reverse(k, n1, n2, n3, n4):
    a, b, c = draw(k, n1, n2), draw(k, n2, n3, seed=1), draw(k, n3, n4, seed=2)
    torch.testing.assert_close(t_product(t_product(a, b), c), t_product(a, t_product(b, c)))
    torch.testing.assert_close(
        t_transpose(t_product(a, b)), t_product(t_transpose(b), t_transpose(a))
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_gradients_of_first_and_second_order(device, k):
    a = draw(2, k, 2, 3, device=device).requires_grad_()
    b = draw(2, k, 3, 2, device=device, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(t_product, (a, b))
    assert torch.autograd.gradgradcheck(t_product, (a, b))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(device, dtype):
    for lead in ((), (2, 3)):
        a = draw(*lead, 3, 4, 5, dtype=dtype, device=device).requires_grad_()
        b = draw(*lead, 3, 5, 2, dtype=dtype, device=device).requires_grad_()
        torch.library.opcheck(torch.ops.fuse_index.t_product, (a, b))


@pytest.mark.parametrize("device", DEVICES)
def test_broadcasts_leading_dimensions_and_strides(device):
    a = draw(3, 1, 2, 4, 5, dtype=torch.float32, device=device)
    b = draw(2, 6, 2, 5, dtype=torch.float32, device=device).permute(0, 2, 3, 1)
    out = t_product(a, b)
    assert out.shape == (3, 2, 2, 4, 6)
    want = brute(a.expand(3, 2, 2, 4, 5), b.expand(3, 2, 2, 5, 6))
    assert relative_error(out, want) < 2e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((0, 2, 3, 4), (0, 2, 4, 5)),
        ((2, 0, 4), (2, 4, 5)),
        ((2, 3, 0), (2, 0, 5)),
        ((2, 3, 4), (2, 4, 0)),
        ((0, 3, 4), (0, 4, 5)),
    ],
)
def test_zero_sizes(device, left, right):
    out = t_product(
        draw(*left, device=device, dtype=torch.float32),
        draw(*right, device=device, dtype=torch.float32),
    )
    assert out.shape == (*left[:-1], right[-1])
    assert not out.any()


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device):
    a = draw(3, 8, 8, dtype=torch.float32, device=device).requires_grad_()
    b = draw(3, 8, 8, dtype=torch.float32, device=device, seed=1)
    compiled = torch.compile(
        lambda x, y: t_product(x, y).sin(), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(a, b), t_product(a, b).sin())


@pytest.mark.parametrize("device", DEVICES)
def test_bitwise_deterministic(device):
    a = draw(4, 70, 300, dtype=torch.float32, device=device)
    b = draw(4, 300, 70, dtype=torch.float32, device=device, seed=1)
    first = t_product(a, b).clone()
    assert all(torch.equal(first, t_product(a, b)) for _ in range(3))


def test_errors_say_what_was_given_and_what_to_do():
    a, b = draw(2, 3, 768), draw(2, 1024, 768)
    bad = [
        ((a, b), r"a has 768 columns but b has 1024 rows; did you mean t_transpose\(b\)\?"),
        ((a, b[:, :, :2]), "a has 768 columns but b has 1024 rows$"),
        ((a, b[:1, :768]), "a has 2 faces but b has 1"),
        ((a[0], b), r"a has shape \(3, 768\); expected at least 3 dimensions"),
        ((a, b.float()), "a is torch.float64 but b is torch.float32"),
        ((a.long(), b), "a has dtype torch.int64"),
        ((a.expand(2, 2, 3, 768), b[:, :768].expand(3, 2, 768, 768)), "leading shape"),
    ]
    for arguments, message in bad:
        with pytest.raises(ShapeError, match=message):
            t_product(*arguments)
