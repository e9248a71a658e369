"""Modules of models that run slowly, replaced by equal ones that run fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_TANH_GELU = ("NewGELUActivation", "FastGELUActivation")
_ALIGNED = 8
"""Rows of an output layer in half precision that matrix units want to be divisible by."""


def replace_slow_modules(module: nn.Module) -> None:
    """Replace modules of a network in place.

    GELU in its tanh form, which transformers composes of eight operations, becomes torch's own, and
    on a GPU the output layer an :class:`OutputLayer`.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in _TANH_GELU:
                setattr(parent, name, nn.GELU(approximate="tanh"))
    if next(module.parameters()).device.type != "cuda":
        return
    get = getattr(module, "get_output_embeddings", None)
    head: Any = get() if get is not None else None
    if type(head) is nn.Linear:
        module.set_output_embeddings(OutputLayer(head))  # type: ignore[operator]


class OutputLayer(nn.Module):
    """A linear layer over a vocabulary, computed as one matrix product.

    Of states that are cut out of longer rows torch makes a product for every row, eight times as
    slow. And a vocabulary in half precision that is not divisible by 8 (GPT-2's 50,257) is
    multiplied by kernels of five generations ago, so that its weights are padded with zeros here
    and the logits are cut; the padded copy takes the layer's memory again where the layer is tied
    to the embeddings.

    Args:
        layer: the layer; its weights are shared where they need no padding.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        half = layer.weight.dtype in (torch.float16, torch.bfloat16)
        more = -layer.out_features % _ALIGNED if half else 0
        self.weight, self.bias = layer.weight, layer.bias
        if more:
            weight = functional.pad(layer.weight.detach(), (0, 0, 0, more))
            self.weight = nn.Parameter(weight, requires_grad=False)
        if more and layer.bias is not None:
            self.bias = nn.Parameter(functional.pad(layer.bias.detach(), (0, more)), False)

    def forward(self, states: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), a view where more were computed."""
        logits = functional.linear(states.contiguous(), self.weight, self.bias)
        return logits[..., : self.out_features]
