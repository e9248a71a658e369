"""Where the modules of a network compute: on their weights' device, or where accelerate says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fuse_index.errors import ModelError


def device_of(module: nn.Module, name: str) -> torch.device:
    """Return the device that a module computes on.

    Weights that accelerate has offloaded are on the meta device between two forward passes; then
    it is the device that they are brought to.

    Args:
        module: a module with weights.
        name: the model, for the message.

    Raises:
        ModelError: its weights are on the meta device, and nothing brings them elsewhere.
    """
    weight = next(module.parameters())
    if weight.device.type != "meta":
        return weight.device
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    raise ModelError(
        f"{name}: the weights of {type(module).__name__} are on the meta device",
        expected="weights, or accelerate's hooks that bring them",
        remedy="load the weights first",
    )


def is_offloaded(module: nn.Module) -> bool:
    """Whether some weights of a network are brought to their device for each forward pass."""
    return any(weight.device.type == "meta" for weight in module.parameters())


def is_spread(module: nn.Module) -> bool:
    """Whether a network computes on several devices, or brings its weights for each pass."""
    devices = {weight.device for weight in module.parameters()}
    return len(devices) > 1 or is_offloaded(module)


def require_near_first_layer(module: nn.Module, device: torch.device, name: str) -> None:
    """Refuse a network that looks its tokens up on another device than its first layer's.

    Args:
        module: the network.
        device: of the input embeddings.
        name: the model, for the message.

    Raises:
        ModelError: the first layer is elsewhere.
    """
    first = _first_layer(module)
    if first is None or next(first.parameters(), None) is None:
        return
    there = device_of(first, name)
    if there != device:
        raise ModelError(
            f"{name}: its input embeddings are on {device} and its first layer on {there}",
            expected="both on one device",
            remedy=f"put the embeddings on {there} in the device_map",
        )


def _first_layer(module: nn.Module) -> nn.Module | None:
    """The first of the list of modules with the most parameters."""
    lists = [own for own in module.modules() if isinstance(own, nn.ModuleList) and len(own)]
    if not lists:
        return None
    largest = max(lists, key=lambda own: sum(p.numel() for p in own.parameters()))
    return largest[0]


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks that accelerate has put on a module and what is inside it."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if hook is not None:
            yield from getattr(hook, "hooks", (hook,))
