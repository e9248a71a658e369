"""The layers a text passes through, and hidden states that are cut out as leaves of a gradient.

A first-order prediction at the input embeddings must follow a word through every layer in a
straight line. Here the word's own path is cut: before every layer, and behind the last, the hidden
states at its positions become variables of their own, which the other positions and the head read.
The gradients at all of them say what the loss would do if a word had other states there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models.lengths import rows_running

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

_STATES = "hidden_states"
"""What transformers calls the argument that holds a layer's input, where it has a name."""


def find_layers(
    module: nn.Module, run: Callable[[], object], shape: tuple[int, ...], name: str
) -> tuple[nn.Module, ...]:
    """Find the layers that a text passes through one after another, by running a short one.

    They are the list of modules with the most parameters whose members are each called once, in
    order, with hidden states ``(b, L, width)`` of one width in and out.

    Args:
        module: the network.
        run: runs it on a batch.
        shape: ``(b, L)`` of that batch.
        name: the model, for the message.

    Raises:
        ModelError: there is no such list, as where layers share their weights.
    """
    calls: list[nn.Module] = []
    widths: dict[int, int] = {}

    def note(called: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(called)
        before, after = given_states(args, kwargs), output_states(output)
        if before is None or after is None or before.shape != after.shape:
            return
        if before.ndim == 3 and before.shape[:2] == shape:
            widths[id(called)] = int(before.shape[2])

    kinds = (nn.ModuleList, nn.Sequential)
    lists = [tuple(own) for own in module.modules() if isinstance(own, kinds) and len(own)]
    with ExitStack() as hooks, torch.no_grad():
        for member in {member for own in lists for member in own}:
            hooks.callback(member.register_forward_hook(note, with_kwargs=True).remove)
        run()
    found = [own for own in lists if _in_order(own, calls, widths)]
    if not found:
        raise ModelError(
            f"{name}: no layers found in {type(module).__name__}",
            expected="a list of layers, each called once with hidden states of one width",
            remedy="use the gradient at the embeddings (predictor 'embedding')",
        )
    return max(found, key=lambda own: sum(p.numel() for m in own for p in m.parameters()))


class CutStates(ExitStack):
    """While entered, hidden states at some positions are leaves, before every layer and behind.

    Entered with gradients on, it leaves alone what runs with gradients off, as the cached beginning
    that all rows share does.

    Args:
        layers: of the model, :attr:`~fuse_index.models.base.Model.layers`.
        where: ``(b, L)`` bool, which positions of the batch that is about to be run.

    Attributes:
        states: filled by the forward pass: ``layers + 1`` tensors ``(n, width)`` that require a
            gradient, the cut positions of all rows one after another. Where rows of equal length
            run apart, so many for every length.
    """

    def __init__(self, layers: Sequence[nn.Module], where: Tensor) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._layers = layers
        self._where = where
        self._with_gradient = False

    def __enter__(self) -> Self:
        self._with_gradient = torch.is_grad_enabled()
        for layer in self._layers:
            hook = layer.register_forward_pre_hook(self._before, with_kwargs=True)
            self.callback(hook.remove)
        self.callback(self._layers[-1].register_forward_hook(self._behind).remove)
        return self

    def sums(self, values: Sequence[Tensor]) -> Tensor:
        """Add up, by row of the batch, what belongs to the positions that were cut.

        Args:
            values: for each of :attr:`states` a tensor of its shape.

        Returns:
            ``(b, (layers + 1) * width)`` float32, the layers one after another.
        """
        every = self._where.nonzero()[:, 0]
        rows = self._rows or [every] * len(values)
        layers = len(self._layers) + 1
        empty = (len(self._where), values[0].shape[1])
        parts = [own.new_zeros(empty, dtype=torch.float32) for own in values[:layers]]
        for at, (own, where) in enumerate(zip(values, rows, strict=True)):
            part = parts[at % layers]
            part.index_add_(0, where.to(part.device), own.float())
        return torch.cat([part.to(parts[0].device) for part in parts], dim=1)

    def _before(self, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        states = given_states(args, kwargs)
        assert states is not None
        return with_states(args, kwargs, self._cut(states))

    def _behind(self, _: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self._cut(output[0]), *output[1:])
        return self._cut(output)

    def _cut(self, states: Tensor) -> Tensor:
        if torch.is_grad_enabled() is not self._with_gradient:
            return states
        where, running = self._where, rows_running()
        if running is not None:
            rows, length = running
            where = where[rows, :length]
        # keys and values of a prefix may be cached, and its positions not computed again
        own, positions = where[:, where.shape[1] - states.shape[1] :].nonzero(as_tuple=True)
        leaf = states.detach()[own, positions].requires_grad_()
        self.states.append(leaf)
        self._rows.append(own if running is None else rows[own])
        return states.index_put((own, positions), leaf)


class _Behind(Exception):  # noqa: N818 - no error
    """Ends a forward pass behind the last layer."""


def span_states(
    layers: Sequence[nn.Module], span: slice, run: Callable[[], object]
) -> list[Tensor]:
    """Return the hidden states at a span of positions, without running what follows the layers.

    Args:
        layers: of the model, :attr:`~fuse_index.models.base.Model.layers`.
        span: the positions, of those that are run.
        run: runs the model on a batch, once.

    Returns:
        ``layers + 1`` tensors ``(b, n, width)``: the input of every layer, the output of the last.
    """
    found: list[Tensor] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        given = given_states(args, kwargs)
        assert given is not None
        found.append(given[:, span])

    def behind(_: nn.Module, args: Any, output: Any) -> None:
        given = output_states(output)
        assert given is not None
        found.append(given[:, span])
        raise _Behind

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(layers[-1].register_forward_hook(behind).remove)
        with suppress(_Behind):
            run()
    return found


def _in_order(own: tuple[nn.Module, ...], calls: list[nn.Module], widths: dict[int, int]) -> bool:
    here = {id(member) for member in own}
    called = [id(module) for module in calls if id(module) in here]
    alike = {widths.get(id(member)) for member in own}
    return called == [id(member) for member in own] and len(alike) == 1 and None not in alike


def given_states(args: Any, kwargs: Any) -> Tensor | None:
    """Return the hidden states among the arguments of a layer, None where there are none."""
    given = args[0] if args else kwargs.get(_STATES)
    return given if isinstance(given, torch.Tensor) else None


def with_states(args: Any, kwargs: Any, states: Tensor) -> tuple[Any, Any]:
    """Return the arguments of a layer with other hidden states."""
    if args:
        return (states, *args[1:]), kwargs
    return args, kwargs | {_STATES: states}


def output_states(output: Any) -> Tensor | None:
    """Return the hidden states of a module's output, which may be a tuple that begins with them."""
    given = output[0] if isinstance(output, tuple) and output else output
    return given if isinstance(given, torch.Tensor) else None
