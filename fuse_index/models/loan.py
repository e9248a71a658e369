"""A network that belongs to the caller, frozen while models use it and given back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Found:
    """How one module was before the first loan of it that is not over."""

    loans: int
    training: bool
    requires_grad: Mapping[str, bool]


_lent: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()


def lend(module: nn.Module) -> Callable[[], None]:
    """Freeze a network, switch it to evaluation, and remember what it was.

    Several models may use one network, or overlapping ones: every module inside returns to what it
    was when the last of them is done.

    Args:
        module: the network.

    Returns:
        A function that gives the network back; to be called once.
    """
    parts = list(module.modules())
    for part in parts:
        found = _lent.get(part)
        if found is None:
            flags = {n: p.requires_grad for n, p in part.named_parameters(recurse=False)}
            found = _lent[part] = _Found(0, part.training, flags)
        found.loans += 1
    module.eval().requires_grad_(False)

    def give_back() -> None:
        for part in parts:
            found = _lent[part]
            found.loans -= 1
            if not found.loans:
                del _lent[part]
                _restore(part, found)

    return give_back


def _restore(module: nn.Module, found: _Found) -> None:
    module.training = found.training
    # by name: accelerate puts other parameters in the place of those it has offloaded
    for name, flag in found.requires_grad.items():
        weight = module._parameters.get(name)
        if weight is not None:
            weight.requires_grad_(flag)


@contextmanager
def unchanged(tokenizer: Any) -> Iterator[None]:
    """Restore the padding and truncation that calling a fast tokenizer sets in its backend.

    Args:
        tokenizer: of transformers or open_clip; others have no such state.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        backend = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    if backend is None:
        yield
        return
    padding, truncation = backend.padding, backend.truncation
    try:
        yield
    finally:
        backend.no_padding()
        backend.no_truncation()
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
