"""The parameters that a token passes, by which floating-point operations are counted.

Kaplan et al. 2020 ("Scaling Laws for Neural Language Models") count 2 N operations a token forward
and 4 N backward, N being the parameters without embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fuse_index.errors import ModelError

_EXPERTS = "experts"
"""What transformers calls the experts of a layer, of which a token passes some."""
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE_COUNTS = ("num_experts_per_tok", "num_selected_experts", "moe_top_k", "moe_k", "top_k")


def active_parameters(whole: Any, run: Callable[[], object], name: str) -> int:
    """Count the parameters that a token of a model's text passes.

    Tables of embeddings are left out, and with them an output layer that shares theirs; what a text
    does not pass is left out, such as an image tower. Of the experts of a layer those count that a
    token is sent to. Parameters of quantized models are packed, so those of the model's
    configuration are counted.

    Args:
        whole: the network, perhaps with adapters of PEFT.
        run: runs it on a short text.
        name: the model, for the message.

    Raises:
        ModelError: they cannot be counted.
    """
    module: nn.Module = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    sizes, left_out = _sizes(module, name), _left_out(module, run)
    total = 0.0
    for own, size in sizes.items():
        path = own.split(".")
        owners = {".".join(path[:end]) for end in range(1, len(path))}
        if owners & left_out or path[-1].endswith("embedding"):
            continue
        share = _active_share(module, name) if _EXPERTS in path[:-1] else 1.0
        total += size * share
    if total < 1:
        raise _uncounted(name, f"{type(module).__name__} has no parameters")
    return round(total)


def _sizes(module: Any, name: str) -> dict[str, int]:
    """The parameters by name; of a quantized model those of a twin that holds no numbers."""
    if getattr(getattr(module, "config", None), "quantization_config", None) is None:
        return _named_sizes(module)
    config: Any = copy.deepcopy(module.config)
    del config.quantization_config
    try:
        with torch.device("meta"):
            twin = type(module)(config)
        twin.tie_weights()
    except (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        reason = f"{type(module).__name__} is quantized, and none is made of its configuration"
        raise _uncounted(name, f"{reason} ({text})") from error
    return _named_sizes(twin)


def _named_sizes(module: nn.Module) -> dict[str, int]:
    return {name: prod(own.shape) for name, own in module.named_parameters()}


def _left_out(module: nn.Module, run: Callable[[], object]) -> set[str]:
    """The names of tables of embeddings, and of what a text does not pass."""
    called: set[int] = set()

    def note(own: nn.Module, args: Any) -> None:
        called.add(id(own))

    hook = register_module_forward_pre_hook(note)
    try:
        with torch.no_grad():
            run()
    finally:
        hook.remove()
    tables = (name for name, own in module.named_modules() if isinstance(own, nn.Embedding))
    return {*tables, *_passed_by(module, "", called)}


def _passed_by(module: nn.Module, prefix: str, called: set[int]) -> Iterator[str]:
    """The names of parts that were not run; a part whose owner reads its weights itself was."""
    for name, child in module.named_children():
        if name == _EXPERTS:
            continue
        inside = list(child.modules())
        if any(id(own) in called for own in inside):
            yield from _passed_by(child, f"{prefix}{name}.", called)
        elif len(inside) > 1 or id(module) not in called:
            yield prefix + name


def _active_share(module: nn.Module, name: str) -> float:
    """The share of the experts that a token is sent to."""
    config = getattr(module, "config", None)
    config = getattr(config, "text_config", config)
    values: Mapping[str, Any] = config.to_dict() if config is not None else {}
    experts = next((values[key] for key in _EXPERT_COUNTS if values.get(key)), None)
    active = next((values[key] for key in _ACTIVE_COUNTS if values.get(key)), None)
    if experts is None or active is None:
        raise _uncounted(name, "its configuration does not say how many experts a token is sent to")
    return float(active) / float(experts)


def _uncounted(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name}: its parameters cannot be counted: {reason}",
        expected="a model whose parameters a token passes are known",
        remedy="give a budget of forward passes or seconds instead of flops",
    )
