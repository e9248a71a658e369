import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.adapter import Adapter
from fuse_index.errors import OptionError, ShapeError
from fuse_index.tensors import t_product, t_transpose
from tests.adapter.helpers import PAIRS, apply_word, pull_back_word, random_adapter

D_SRC, D_TGT = 5, 3
ADAPTER = random_adapter(D_SRC, D_TGT)
counts = st.lists(st.sampled_from(PAIRS), min_size=1, max_size=8)


@pytest.mark.smoke
@given(counts)
def test_pull_back_is_the_definition_word_by_word(pairs):
    p, q = [a for a, _ in pairs], [b for _, b in pairs]
    grad = torch.randn(sum(q), D_TGT, dtype=torch.float64)
    out = ADAPTER.pull_back(grad, ADAPTER.layout(p, q)).split(p)
    for word, (a, b) in enumerate(pairs):
        expected = pull_back_word(ADAPTER[f"{a}x{b}"], grad.split(q)[word], a)
        torch.testing.assert_close(out[word], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_pull_back_is_the_t_product_with_the_transpose(p, q):
    faces = ADAPTER[f"{p}x{q}"]
    grad = torch.randn(q, D_TGT, dtype=torch.float64)
    padded = torch.nn.functional.pad(grad, (0, 0, 0, len(faces) - q))[:, None]  # (k, 1, d_tgt)
    expected = t_product(padded, t_transpose(faces))[:p, 0]
    out = ADAPTER.pull_back(grad, ADAPTER.layout([p], [q]))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_pull_back_is_the_exact_vector_jacobian_product_of_apply(p, q):
    layout = ADAPTER.layout([p], [q])
    source = torch.randn(p, D_SRC, dtype=torch.float64, requires_grad=True)
    out = ADAPTER.apply(source, layout)
    torch.testing.assert_close(out, apply_word(ADAPTER[f"{p}x{q}"], source, q))
    grad = torch.randn(q, D_TGT, dtype=torch.float64)
    (expected,) = torch.autograd.grad(out, source, grad)
    torch.testing.assert_close(ADAPTER.pull_back(grad, layout), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: ADAPTER.apply(x, layout), (source,))
    assert torch.autograd.gradgradcheck(lambda x: ADAPTER.apply(x, layout), (source,))


@given(counts, st.data())
def test_a_word_depends_on_its_own_target_rows_only(pairs, data):
    p, q = [a for a, _ in pairs], [b for _, b in pairs]
    layout = ADAPTER.layout(p, q)
    grad = torch.randn(sum(q), D_TGT, dtype=torch.float64)
    before = ADAPTER.pull_back(grad, layout)
    word = data.draw(st.integers(0, len(pairs) - 1))
    other = grad.clone()
    start = sum(q[:word])
    other[start : start + q[word]] += 1.0
    changed = (ADAPTER.pull_back(other, layout) != before).any(1).split(p)
    assert changed[word].all()
    assert not any(rows.any() for i, rows in enumerate(changed) if i != word)


def test_a_batch_of_64_prompts_equals_64_single_calls():
    rng = np.random.default_rng(0)
    prompts = [
        [PAIRS[i] for i in rng.integers(len(PAIRS), size=rng.integers(1, 9))] for _ in range(64)
    ]
    flat = [pair for prompt in prompts for pair in prompt]
    layout = ADAPTER.layout([a for a, _ in flat], [b for _, b in flat], [len(x) for x in prompts])
    length = int(layout.target_lengths.max()) + 2
    grad = torch.randn(64, length, D_TGT, dtype=torch.float64)
    out = ADAPTER.pull_back(grad, layout, source_start=2, target_start=1)
    for row, prompt in enumerate(prompts):
        p, q = [a for a, _ in prompt], [b for _, b in prompt]
        single = ADAPTER.pull_back(grad[row, 1 : 1 + sum(q)], ADAPTER.layout(p, q))
        torch.testing.assert_close(out[row, 2 : 2 + sum(p)], single, rtol=1e-12, atol=1e-12)
        assert not out[row, 2 + sum(p) :].any()
        assert not out[row, :2].any()


@given(st.integers(0, 4), st.floats(-1e6, 1e6))
def test_padding_changes_nothing(extra, filler):
    layout = ADAPTER.layout([2, 1, 3], [1, 2, 3], [2, 1])
    grad = torch.randn(2, 3, D_TGT, dtype=torch.float64)
    wide = torch.full((2, 3 + extra, D_TGT), filler, dtype=torch.float64)
    wide[:, :3] = grad
    out = ADAPTER.pull_back(wide, layout)
    assert torch.equal(out, ADAPTER.pull_back(grad, layout))


def test_words_without_a_group_use_the_fallback():
    pairs = [(1, 1), (5, 2), (2, 7), (9, 9)]
    p, q = [a for a, _ in pairs], [b for _, b in pairs]
    names = [ADAPTER.group_names[i] for i in ADAPTER.group_of(p, q)]
    assert names == ["1x1", "fallback", "fallback", "fallback"]
    grad = torch.randn(sum(q), D_TGT, dtype=torch.float64)
    out = ADAPTER.pull_back(grad, ADAPTER.layout(p, q)).split(p)
    for word in (1, 2, 3):
        expected = ADAPTER["fallback"][0] @ grad.split(q)[word].sum(0)
        for row in out[word]:
            torch.testing.assert_close(row, expected)


def test_a_target_group_serves_every_source_count_its_tube_has_room_for():
    faces = torch.randn(3, 2, 2), torch.randn(2, 2, 2), torch.randn(1, 2, 2)
    adapter = Adapter({"x1": faces[0], "x2": faces[1], "fallback": faces[2]})
    pairs = [(1, 1), (3, 1), (4, 1), (2, 2), (3, 2), (1, 3)]
    names = [adapter.group_names[i] for i in adapter.group_of(*map(list, zip(*pairs, strict=True)))]
    assert names == ["x1", "x1", "fallback", "x2", "fallback", "fallback"]


def test_the_identity_returns_the_gradient_itself():
    adapter = Adapter({}, width=(4, 4))
    layout = adapter.layout([1, 6], [1, 6])
    grad = torch.randn(7, 4)
    assert torch.equal(adapter.pull_back(grad, layout), grad)
    assert torch.equal(adapter.apply(grad, layout), grad)
    assert adapter.is_identity


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_to_another_dtype_keeps_the_values(dtype, tolerance):
    other = ADAPTER.to(dtype=dtype)
    assert other.dtype is dtype
    assert ADAPTER.dtype is torch.float64
    grad = torch.randn(6, D_TGT, dtype=torch.float64)
    layout = ADAPTER.layout([2, 3], [3, 3])
    expected = ADAPTER.pull_back(grad, layout)
    out = other.pull_back(grad, layout)
    assert out.dtype is torch.float64
    assert (out - expected).norm() / expected.norm() < tolerance


def test_half_precision_gradients_are_taken_in_the_adapters_dtype():
    grad = torch.randn(1, D_TGT, dtype=torch.float16)
    out = ADAPTER.pull_back(grad, ADAPTER.layout([1], [1]))
    assert out.dtype is torch.float16
    expected = ADAPTER["1x1"][0] @ grad[0].double()
    torch.testing.assert_close(out[0], expected.half())


def test_rows_that_do_not_fit_are_refused():
    layout = ADAPTER.layout([1, 2], [2, 1])
    with pytest.raises(ShapeError, match=r"pull_back: target_grad has shape \(4, 3\).*\(3, 3\)"):
        ADAPTER.pull_back(torch.zeros(4, D_TGT), layout)
    with pytest.raises(ShapeError, match=r"apply: source has shape \(3, 3\).*\(3, 5\)"):
        ADAPTER.apply(torch.zeros(3, D_TGT), layout)


def test_groups_of_different_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"adapter '1x1' has shape \(1, 2, 3\)"):
        Adapter({"1x1": torch.zeros(1, 2, 3), "fallback": torch.zeros(1, 2, 2)})
    with pytest.raises(ShapeError, match=r"adapter '1x3' has 2 faces; expected k = 3"):
        Adapter({"1x3": torch.zeros(2, 2, 2), "fallback": torch.zeros(1, 2, 2)})


def test_a_missing_fallback_is_refused():
    with pytest.raises(OptionError, match="'fallback' among them"):
        Adapter({"1x1": torch.zeros(1, 2, 2)})


def test_an_identity_between_two_widths_is_refused():
    with pytest.raises(OptionError, match="twice the same width"):
        Adapter({}, width=(2, 3))


def test_an_adapter_without_a_bundle_cannot_be_saved(tmp_path):
    with pytest.raises(OptionError, match="an adapter without a bundle"):
        ADAPTER.save_pretrained(tmp_path / "bundle")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapters_that_are_not_finite_are_refused(value):
    with pytest.raises(ShapeError, match=r"adapters that are not finite in torch\.float32"):
        Adapter({"fallback": torch.full((1, 2, 2), value)})


@pytest.mark.parametrize(
    ("dtype", "narrow", "largest"),
    [
        (torch.float64, torch.float32, 3e38),
        (torch.float32, torch.float16, 6e4),
        (torch.float64, torch.bfloat16, 3e38),
    ],
)
def test_finiteness_is_checked_after_every_conversion(dtype, narrow, largest):
    adapter = Adapter({"fallback": torch.full((1, 2, 2), largest, dtype=dtype)})
    assert adapter.to(dtype=narrow).faces.isfinite().all()
    beyond = Adapter({"fallback": torch.full((1, 2, 2), 2 * largest, dtype=torch.float64)})
    with pytest.raises(ShapeError, match=f"not finite in {narrow}; .*; use a wider dtype"):
        beyond.to(dtype=narrow)
