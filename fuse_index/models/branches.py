"""Residual branches: what every block adds to the hidden states, and their gradients scaled.

A block computes ``x + f(x)``. Backwards the gradient passes the block on two ways, along ``x`` as
it is and through the branch ``f``; scaled branches let ``scale * f`` through. Li et al. 2024
("Improved Generation of Adversarial Examples Against Safety-aligned LLMs") call it LSGM, after the
skip gradient method (Wu et al. 2020). The forward pass stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from fuse_index.errors import ModelError
from fuse_index.models.layers import given_states, output_states, with_states

if TYPE_CHECKING:
    from torch import Tensor, nn

Edge = tuple[Any, int]
"""A tensor in the graph of a backward pass: the node that computes its gradient, and which one."""

_ADDITIONS = (
    torch.add,
    torch.Tensor.add,
    torch.Tensor.add_,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
)
_PASSED = ("Mul", "Div", "View", "Reshape", "UnsafeView", "Clone", "Transpose", "ToCopy", "Alias")
"""Operations between a branch's last module and the sum: constant factors, other shapes, copies."""


def find_branches(
    layers: Sequence[nn.Module], run: Callable[[], object], name: str
) -> tuple[nn.Module, ...]:
    """Find the modules whose outputs are added to the hidden states, by running a short text.

    In every layer they are the last modules before an addition ``x + f(x)``: attention and MLP, or
    what normalizes their outputs. A sum is recognized by one operand being computed from the other.

    Args:
        layers: of the model, :attr:`~fuse_index.models.base.Model.layers`.
        run: runs the model on a batch of at least two tokens.
        name: the model, for the message.

    Raises:
        ModelError: a layer has none, a sum's branch ends in no module, or with all branches scaled
            to 0 a gradient still passes between positions.
    """
    found: list[nn.Module] = []
    for look in _observed(layers, run):
        own = look.branches()
        if not own:
            raise _none_found(layers[0], name)
        found += own
    branches = tuple(dict.fromkeys(found))
    with scaled_branches(branches, 0.0):
        if any(look.mixes_positions() for look in _observed(layers, run)):
            raise _none_found(layers[0], name)
    return branches


@contextmanager
def scaled_branches(branches: Sequence[nn.Module], scale: float) -> Iterator[None]:
    """While entered, gradients through residual branches are scaled.

    Forward passes compute what they always do; those without a gradient are not touched at all.

    Args:
        branches: of the model, :attr:`~fuse_index.models.base.Model.branches`.
        scale: factor of the gradient through each branch; 1 changes nothing.
    """

    def scaled(_: nn.Module, args: Any, output: Any) -> None:
        states = output_states(output)
        if states is not None and states.requires_grad:
            states.register_hook(partial(torch.mul, other=scale))  # type: ignore[no-untyped-call]

    with ExitStack() as hooks:
        for branch in branches if scale != 1 else ():
            hooks.callback(branch.register_forward_hook(scaled).remove)
        yield


@dataclass(eq=False)
class _Look:
    """What one layer computes from its hidden states, taken out of the graph before it.

    Attributes:
        states: its input, a leaf.
        output: its output.
        outputs: by edge, the module that gave a tensor.
        sums: the operands of additions that give hidden states, in order.
    """

    states: Tensor
    output: Tensor | None = None
    outputs: dict[Edge, nn.Module] = field(default_factory=dict)
    sums: list[tuple[Edge, Edge]] = field(default_factory=list)

    def note(self, called: nn.Module, output: Any) -> None:
        """Note what a module gives; of modules that pass a tensor on the first counts."""
        states = output_states(output)
        if states is not None and states.requires_grad and self.fits(states):
            self.outputs.setdefault(_edge(states), called)

    def fits(self, states: Tensor) -> bool:
        """Whether a tensor may be hidden states, of batch and length in any order."""
        same_width = states.ndim and states.shape[-1] == self.states.shape[-1]
        return bool(same_width) and states.numel() == self.states.numel()

    def branches(self) -> list[nn.Module]:
        """The modules that end branches; empty where one cannot be told."""
        found: list[nn.Module] = []
        for first, second in self.sums:
            ends: list[nn.Module] | None = []
            if _comes_from(first, second):
                ends = self._ends(first)
            elif _comes_from(second, first):
                ends = self._ends(second)
            if ends is None:
                return []
            found += ends
        return found

    def _ends(self, edge: Edge) -> list[nn.Module] | None:
        """The modules behind an operand; several where it is a sum, None where there is none."""
        if edge in self.outputs:
            return [self.outputs[edge]]
        name = edge[0].name().removesuffix("Backward0")
        before = [own for own in edge[0].next_functions if own[0] is not None]
        if not (name == "Add" or (name in _PASSED and len(before) == 1)):
            return None
        found: list[nn.Module] = []
        for own in before:
            ends = self._ends(own)
            if ends is None:
                return None
            found += ends
        return found

    def mixes_positions(self) -> bool:
        """Whether the gradient of the output at one position reaches the input at others."""
        assert self.output is not None
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(self.output.shape[-1], generator=generator).to(self.output)
        (gradient,) = torch.autograd.grad((self.output[:, -1] @ direction).sum(), self.states)
        return bool(gradient[:, :-1].any()) or not bool(gradient[:, -1].any())


class _Additions(TorchFunctionMode):
    """While entered, notes the additions of the layer that is run now."""

    def __init__(self, looks: list[_Look]) -> None:
        super().__init__()
        self._looks = looks

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = [own for own in args[:2] if isinstance(own, torch.Tensor) and own.requires_grad]
        edges = []
        if func in _ADDITIONS and len(operands) == 2 and self._looks:
            edges = [_edge(own) for own in operands]  # before an operand is changed in place
        result = func(*args, **(kwargs or {}))
        if edges and self._looks[-1].fits(result):
            self._looks[-1].sums.append((edges[0], edges[1]))
        return result


def _observed(layers: Sequence[nn.Module], run: Callable[[], object]) -> list[_Look]:
    """Run a model with the graph of every layer apart."""
    looks: list[_Look] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        states = given_states(args, kwargs)
        assert states is not None
        looks.append(_Look(states.detach().requires_grad_()))
        return with_states(args, kwargs, looks[-1].states)

    def note(called: nn.Module, args: Any, output: Any) -> None:
        looks[-1].note(called, output)

    def behind(_: nn.Module, args: Any, output: Any) -> None:
        looks[-1].output = output_states(output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            for inside in layer.modules():
                if inside is not layer:
                    hooks.callback(inside.register_forward_hook(note).remove)
            hooks.callback(layer.register_forward_hook(behind).remove)
        with torch.enable_grad(), _Additions(looks):
            run()
    return looks


def _edge(states: Tensor) -> Edge:
    edge = get_gradient_edge(states)
    return edge.node, edge.output_nr


def _comes_from(edge: Edge, origin: Edge) -> bool:
    """Whether a tensor is computed from another one."""
    seen, waiting = {edge}, [edge]
    while waiting:
        for before in waiting.pop()[0].next_functions:
            if before == origin:
                return True
            if before[0] is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return False


def _none_found(layer: nn.Module, name: str) -> ModelError:
    return ModelError(
        f"{name}: the residual branches of {type(layer).__name__} cannot be told apart",
        expected="layers that add outputs of modules to the hidden states",
        remedy="leave residual_scale at 1",
    )
