"""The network of a transformers checkpoint: its dtype, its devices, and how it is quantized."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from fuse_index.common.reading import choose
from fuse_index.errors import MissingDependencyError, ModelError, OptionError
from fuse_index.models.checkpoint import TransformersCheckpoint, loading
from fuse_index.models.kinds import ModelKind
from fuse_index.models.placement import is_spread
from fuse_index.models.replacements import replace_slow_modules


class Quantization(str, Enum):
    """How bitsandbytes quantizes linear layers; embeddings stay as they are."""

    FOUR_BIT = "4bit"
    """NF4 (Dettmers et al. 2023)."""
    EIGHT_BIT = "8bit"
    """LLM.int8() (Dettmers et al. 2022)."""


@dataclass(frozen=True)
class Placement:
    """Where and how weights are loaded; see :func:`fuse_index.models.load_model`.

    Attributes:
        device: of the model, or None for a ``device_map``.
        dtype: of the weights, or None for the default.
        device_map: as transformers takes it.
        quantization: a :class:`Quantization`, its value, or a configuration of transformers.
    """

    device: torch.device | None
    dtype: torch.dtype | None = None
    device_map: Any = None
    quantization: Any = None

    @property
    def default_dtype(self) -> torch.dtype | None:
        """The dtype asked for, or float32 for a model on a CPU, or None: as it is stored."""
        on_cpu = self.device is not None and self.device.type == "cpu"
        on_cpu = on_cpu or not torch.cuda.is_available()
        return torch.float32 if self.dtype is None and on_cpu else self.dtype


def placement_of(
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    device_map: Any = None,
    quantization: Any = None,
) -> Placement:
    """Check the arguments of :func:`fuse_index.models.load_model`.

    Raises:
        OptionError: a device and a device map are given, the device cannot be used, or the
            quantization is unknown.
        MissingDependencyError: the library for a device map or a quantization is not installed.
    """
    if device_map is not None:
        if device is not None:
            raise OptionError(
                f"device={str(device)!r} and a device_map",
                expected="one of the two",
                remedy="leave the device out",
            )
        require_library("accelerate", "device_map")
    if isinstance(quantization, str):
        quantization = choose(Quantization, quantization, "quantization")
    if isinstance(quantization, Quantization):
        require_library("bitsandbytes", f"quantization={quantization.value!r}")
    elif quantization is not None and not hasattr(quantization, "quant_method"):
        raise OptionError(
            f"quantization {quantization!r}",
            expected="'4bit', '8bit', or a quantization configuration of transformers",
        )
    place = None
    if device_map is None:
        place = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Placement(place, dtype, device_map, quantization)


def usable_device(name: torch.device | str) -> torch.device:
    """Return a device after putting a number on it and reading it back.

    Raises:
        OptionError: there is no such device here, or it holds no data.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        count = torch.cuda.device_count()
        here = ["cpu", *(f"cuda:{index}" for index in range(count))]
        raise OptionError(
            f"device {str(name)[:40]!r}: {reason[:200]}",
            expected="one of " + ", ".join(here) + ", or another that torch has here",
        ) from None
    return torch.device("cpu") if device.type == "cpu" else device


def require_library(library: str, option: str) -> None:
    """Refuse an option whose library is not installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec(library) is None:
        raise MissingDependencyError(
            f"{option} without {library}",
            expected=f"{library} beside transformers",
            remedy=f"pip install {library}",
        )


def load_module(
    checkpoint: TransformersCheckpoint, config: Any, kind: ModelKind, placement: Placement
) -> Any:
    """Load the network of a checkpoint.

    Raises:
        ModelError: it lacks weights that the kind needs, or does not fit its configuration.
    """
    import transformers  # noqa: PLC0415

    auto = {
        ModelKind.CAUSAL: transformers.AutoModelForCausalLM,
        ModelKind.CLASSIFIER: transformers.AutoModelForSequenceClassification,
        ModelKind.ENCODER: transformers.AutoModel,
        ModelKind.CLIP: transformers.AutoModel,
    }[kind]
    name = checkpoint.name
    dtype = placement.default_dtype or stored_dtype(config) or torch.float32
    placed = _placed(placement, config, dtype)
    with loading("weights", name.text):
        module, info = auto.from_pretrained(
            name.location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **placed,
            **checkpoint.pretrained_options,
        )
        _refuse_incomplete(info, kind, name.text)
        if not placed:
            module = module.to(placement.device)
        if not is_spread(module):
            replace_slow_modules(module)
        return module


def _placed(placement: Placement, config: Any, dtype: torch.dtype) -> Mapping[str, Any]:
    """Arguments that make transformers put weights where they belong; none to move them later."""
    given: dict[str, Any] = {}
    if placement.device_map is not None:
        given["device_map"] = placement.device_map
    quantization = placement.quantization
    if isinstance(quantization, Quantization):
        quantization = _bitsandbytes(quantization, dtype)
    if quantization is not None:
        given["quantization_config"] = quantization
    if quantization is not None or getattr(config, "quantization_config", None) is not None:
        require_library("accelerate", "a quantized model")
        # quantized weights cannot be moved afterwards
        given.setdefault("device_map", {"": placement.device})
    return given


def _bitsandbytes(quantization: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    config: Any = BitsAndBytesConfig
    if quantization is Quantization.EIGHT_BIT:
        return config(load_in_8bit=True)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def stored_dtype(config: Any) -> torch.dtype | None:
    """Return the dtype of the weights on disk as the configuration says."""
    # reading torch_dtype where there is none makes transformers 5 warn
    value = getattr(config, "dtype", None) or vars(config).get("torch_dtype")
    if isinstance(value, str):
        value = getattr(torch, value, None)
    return value if isinstance(value, torch.dtype) else None


def _shape(value: Any) -> str:
    return value if isinstance(value, str) else f"shape {tuple(value)}"


def _refuse_incomplete(info: dict[str, Any], kind: ModelKind, name: str) -> None:
    for entry in info["mismatched_keys"]:
        # transformers 5 says (key, shape in the file, shape by the configuration), 4 only the key
        key, *shapes = (entry,) if isinstance(entry, str) else entry
        found, wanted = shapes or ("another shape", "the shape")
        raise ModelError(
            f"{name}: weight {key} has {_shape(found)} in the file",
            expected=f"{_shape(wanted)} by the configuration",
            remedy="configuration and weights are of different models",
        )
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    if kind is ModelKind.ENCODER:
        missing = [key for key in missing if "pooler" not in key]
    if missing:
        raise ModelError(
            f"{name}: as {kind.value} it lacks the weights {', '.join(missing[:4])}",
            expected="a checkpoint saved with them",
            remedy="load it as another kind, or fine-tune and save it first",
        )
