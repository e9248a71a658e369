import pytest
import torch

from fuse_index.adapter import bridge
from fuse_index.errors import ShapeError
from tests.adapter.helpers import random_adapter

D_SRC, D_TGT = 4, 3
ADAPTER = random_adapter(D_SRC, D_TGT)
LAYOUT = ADAPTER.layout([2, 1, 3], [1, 2, 3], [2, 1])


def test_forward_gives_the_targets_own_embeddings_bit_for_bit():
    source = torch.randn(6, D_SRC, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, D_TGT, dtype=torch.float64)
    out = bridge(ADAPTER, source, target, LAYOUT)
    assert torch.equal(out, target)
    assert out.requires_grad


def test_backward_is_the_pull_back_of_the_losss_gradient():
    source = torch.randn(6, D_SRC, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, D_TGT, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, D_TGT, dtype=torch.float64)
    out = bridge(ADAPTER, source, target, LAYOUT)
    loss = (out.sin() * weights).sum()
    loss.backward()
    grad = target.detach().cos() * weights
    torch.testing.assert_close(source.grad, ADAPTER.pull_back(grad, LAYOUT))
    assert target.grad is None


def test_padded_rows_keep_what_is_outside_the_words():
    source = torch.randn(2, 5, D_SRC, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 6, D_TGT, dtype=torch.float64)
    out = bridge(ADAPTER, source, target, LAYOUT, source_start=1, target_start=2)
    assert torch.equal(out, target)
    weights = torch.randn_like(target)
    (out * weights).sum().backward()
    expected = LAYOUT.pad_source(
        ADAPTER.pull_back(LAYOUT.pack_target(weights, 2), LAYOUT), length=5, start=1
    )
    torch.testing.assert_close(source.grad, expected)
    assert not source.grad[:, 0].any()


def test_the_gradient_can_be_differentiated_again():
    source = torch.randn(6, D_SRC, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, D_TGT, dtype=torch.float64)
    scale = torch.randn(6, D_TGT, dtype=torch.float64, requires_grad=True)
    out = bridge(ADAPTER, source, target, LAYOUT)
    (grad,) = torch.autograd.grad((out * scale).sum(), source, create_graph=True)
    direction = torch.randn_like(grad)
    (second,) = torch.autograd.grad((grad * direction).sum(), scale)
    torch.testing.assert_close(second, ADAPTER.apply(direction, LAYOUT))


def test_packed_and_padded_cannot_be_mixed():
    with pytest.raises(ShapeError, match="both packed"):
        bridge(ADAPTER, torch.zeros(6, D_SRC), torch.zeros(2, 3, D_TGT), LAYOUT)


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ShapeError, match="5 packed source rows; expected 6"):
        bridge(ADAPTER, torch.zeros(5, D_SRC), torch.zeros(6, D_TGT), LAYOUT)
