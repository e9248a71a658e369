"""pull_back, push_forward and face_grad against the definition, and their laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import ShapeError
from fuse_index.ops import face_grad, pull_back, push_forward
from tests.ops.helpers import (
    DEVICES,
    DTYPES,
    TOLERANCE,
    TUBES,
    WORDS,
    Case,
    brute_face_grad,
    brute_pull_back,
    brute_push_forward,
    make_case,
    relative_error,
)

WIDTHS = [(8, 16), (5, 7), (33, 130), (1, 1), (64, 96)]


def run_all(case: Case):
    """The three word operators on one case."""
    return (
        pull_back(case.target, case.faces, *case.layout, case.source.shape[0]),
        push_forward(case.source, case.faces, *case.layout, case.target.shape[0]),
        face_grad(case.source, case.target, *case.layout, case.faces.shape[0]),
    )


@pytest.mark.smoke
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_values_are_those_of_the_definition(device, dtype, widths):
    case = make_case(WORDS, TUBES, *widths, dtype=dtype, device=device)
    expected = brute_pull_back(case), brute_push_forward(case), brute_face_grad(case)
    for out, want in zip(run_all(case), expected, strict=True):
        assert out.dtype is dtype
        assert out.device.type == device
        assert relative_error(out, want) <= TOLERANCE[dtype]


WORD = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5))


@settings(max_examples=40)
@given(
    words=st.lists(WORD, max_size=12),
    tubes=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    d_src=st.integers(1, 9),
    d_tgt=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_the_three_operators_are_derivatives_of_one_form(words, tubes, d_src, d_tgt, seed):
    case = make_case(words, tubes, d_src, d_tgt, seed=seed)
    to_source, to_target, to_faces = run_all(case)
    forms = [
        (to_source * case.source).sum(),
        (to_target * case.target).sum(),
        (to_faces * case.faces).sum(),
    ]
    torch.testing.assert_close(forms[0], forms[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forms[0], forms[2], rtol=1e-10, atol=1e-10)
    assert relative_error(to_source, brute_pull_back(case)) < 1e-12


def test_one_word_is_the_transposed_t_product():
    """DESIGN section 2: pull-back of a (k, k) word is g * G^T under the t-product."""
    from fuse_index.ops import t_product, t_transpose

    case = make_case([(0, 3, 3)], [3], 5, 7)
    expected = t_product(case.target[:, None], t_transpose(case.faces))[:, 0]
    torch.testing.assert_close(run_all(case)[0], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_first_and_second_order(device):
    words, tubes = [(0, 1, 1), (1, 2, 1), (2, 3, 3), (0, 2, 3)], [1, 2, 3]
    case = make_case(words, tubes, 3, 2, device=device)
    source, target = (v.requires_grad_() for v in (case.source, case.target))
    faces = case.faces.requires_grad_()
    calls = [
        (lambda g, f: pull_back(g, f, *case.layout, source.shape[0]), (target, faces)),
        (lambda x, f: push_forward(x, f, *case.layout, target.shape[0]), (source, faces)),
        (lambda x, g: face_grad(x, g, *case.layout, faces.shape[0]), (source, target)),
    ]
    for call, inputs in calls:
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


def test_autograd_of_push_forward_is_pull_back():
    case = make_case(WORDS, TUBES, 6, 5)
    x = case.source.clone().requires_grad_()
    y = push_forward(x, case.faces, *case.layout, case.target.shape[0])
    (grad,) = torch.autograd.grad(y, x, case.target)
    torch.testing.assert_close(grad, run_all(case)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(device, dtype):
    case = make_case(WORDS, TUBES, 4, 8, dtype=dtype, device=device)
    source, target, faces = (v.requires_grad_() for v in case[:3])
    ops = torch.ops.fuse_index
    torch.library.opcheck(ops.pull_back, (target, faces, *case.layout, source.shape[0]))
    torch.library.opcheck(ops.push_forward, (source, faces, *case.layout, target.shape[0]))
    torch.library.opcheck(ops.face_grad, (source, target, *case.layout, faces.shape[0]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_non_contiguous_inputs(device, dtype):
    case = make_case(WORDS, TUBES, 12, 20, dtype=dtype, device=device)
    strided = Case(
        case.source.T.contiguous().T,
        torch.stack([case.target, case.target], dim=-1)[..., 1],
        case.faces.transpose(1, 2).contiguous().transpose(1, 2),
        tuple(torch.stack([v, v], dim=1)[:, 0] for v in case.layout),
    )
    assert not strided.faces.is_contiguous()
    for out, want in zip(run_all(strided), run_all(case), strict=True):
        torch.testing.assert_close(out, want)


@pytest.mark.parametrize("device", DEVICES)
def test_unaligned_storage(device):
    """A view that starts one element into its storage is not 16-byte aligned."""
    case = make_case(WORDS, TUBES, 16, 32, dtype=torch.float32, device=device)

    def shift(value):
        flat = torch.cat([value.new_zeros(1), value.flatten()])
        return flat[1:].view(value.shape)

    moved = Case(shift(case.source), shift(case.target), shift(case.faces), case.layout)
    assert relative_error(run_all(moved)[0], brute_pull_back(case)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("words", "tubes", "d_src", "d_tgt"),
    [
        ([], [1, 2], 3, 4),
        ([(0, 0, 2), (0, 0, 1)], [1], 3, 4),
        ([(0, 2, 0)], [2], 3, 4),
        ([(0, 1, 1)], [1], 0, 4),
        ([(0, 1, 1)], [1], 4, 0),
        ([], [], 3, 4),
    ],
)
def test_zero_sizes(device, words, tubes, d_src, d_tgt):
    case = make_case(words, tubes, d_src, d_tgt, device=device, dtype=torch.float32)
    expected = brute_pull_back(case), brute_push_forward(case), brute_face_grad(case)
    for out, want in zip(run_all(case), expected, strict=True):
        torch.testing.assert_close(out.cpu().double(), want)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device):
    case = make_case(WORDS, TUBES, 8, 16, dtype=torch.float32, device=device)

    def step(g, f):
        return pull_back(g * 2, f, *case.layout, case.source.shape[0]).square()

    # The aot_eager backend traces forward and backward through the fakes and needs no compiler.
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    g1, g2 = (case.target.clone().requires_grad_() for _ in range(2))
    f1, f2 = (case.faces.clone().requires_grad_() for _ in range(2))
    out, want = compiled(g1, f1), step(g2, f2)
    torch.testing.assert_close(out, want)
    out.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(g1.grad, g2.grad)
    torch.testing.assert_close(f1.grad, f2.grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_deterministic(device, dtype):
    case = make_case(WORDS * 5, TUBES, 72, 264, dtype=dtype, device=device)
    first = [out.clone() for out in run_all(case)]
    for _ in range(3):
        for out, want in zip(run_all(case), first, strict=True):
            assert torch.equal(out, want)


def _replace(case: Case, index: int, value: torch.Tensor):
    layout = list(case.layout)
    layout[index] = value
    return (case.target, case.faces, *layout, case.source.shape[0])


def test_errors_say_what_was_given_and_what_to_do():
    case = make_case([(0, 1, 2), (1, 2, 2)], [2, 2], 3, 4, dtype=torch.float32)
    g, f, rows = case.target, case.faces, case.source.shape[0]
    bad = [
        ((g[:, :3], f, *case.layout, rows), "target_grad has width 3 but faces have d_tgt = 4"),
        ((g.double(), f, *case.layout, rows), "target_grad is torch.float64 but faces is torch"),
        ((g.long(), f, *case.layout, rows), "target_grad has dtype torch.int64"),
        ((g[0], f, *case.layout, rows), r"target_grad has shape \(4,\)"),
        ((g, f[0], *case.layout, rows), r"faces has shape \(3, 4\)"),
        (_replace(case, 1, torch.tensor([0, 2])), "word_groups has values from 0 to 2"),
        (_replace(case, 1, torch.tensor([0.0, 1.0])), "word_groups is torch.float32"),
        (_replace(case, 0, torch.tensor([0, 0, 4])), "group 0 has no face"),
        (_replace(case, 0, torch.tensor([0, 2, 5])), "face_offsets go from 0 to 5"),
        (_replace(case, 2, torch.tensor([0, 3])), "source_offsets has 2 entries for 2 words"),
        (_replace(case, 2, torch.tensor([0, 1, 9])), "source_offsets go from 0 to 9"),
        (_replace(case, 3, torch.tensor([0, 5, 4])), "target_offsets fall somewhere"),
    ]
    for arguments, message in bad:
        with pytest.raises(ShapeError, match=message):
            pull_back(*arguments)
