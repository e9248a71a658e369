"""Load any supported model by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuse_index.common.reading import choose
from fuse_index.errors import OptionError
from fuse_index.models.kinds import ModelKind
from fuse_index.models.naming import ModelSource, parse_model_name

if TYPE_CHECKING:
    import torch

    from fuse_index.models.base import Model


def load_model(
    name: str,
    *,
    kind: ModelKind | str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    device_map: Any = None,
    quantization: Any = None,
    local_files_only: bool = False,
    bos: bool | None = None,
    allow_random: bool = False,
) -> Model:
    """Load a model, frozen and in evaluation mode.

    Code of the model's own is never run and nothing is unpickled: weights come from safetensors.

    Args:
        name: a Hub id (``openai-community/gpt2``, optionally ``@revision``), a local directory,
            ``open_clip:ARCH[/PRETRAINED or weights file]``, or a packaged ``demo:NAME``.
        kind: what to use the checkpoint as; None takes what it was saved as. A classifier or a
            causal model can be loaded as :attr:`ModelKind.ENCODER`.
        device: where to put it; None takes the GPU where there is one.
        dtype: of the weights; None is float32 on a CPU and the stored dtype elsewhere.
        device_map: how to spread it over devices, instead of ``device``: what transformers takes
            (``"auto"``, or module names to devices); needs accelerate.
        quantization: ``"4bit"`` or ``"8bit"`` (needs bitsandbytes and accelerate), or a
            quantization configuration of transformers.
        local_files_only: never ask the Hub.
        bos: whether a causal model's content follows its beginning-of-sequence token; None does
            what the tokenizer does by itself.
        allow_random: whether an open_clip architecture without weights is meant; they are then
            random, from a fixed seed.

    Returns:
        The model.

    Raises:
        ModelError: the model does not exist, lacks something, or is not of that kind.
        MissingDependencyError: the library for ``device_map`` or ``quantization`` is not installed.
        OptionError: options contradict each other, or the device does not exist or holds no data.
    """
    from fuse_index.models.pretrained import placement_of  # noqa: PLC0415 - it imports torch

    parsed = parse_model_name(name)
    chosen = None if kind is None else choose(ModelKind, kind, "model kind")
    placement = placement_of(device, dtype, device_map, quantization)
    if parsed.source is ModelSource.OPEN_CLIP:
        from fuse_index.models.openclip import load_open_clip  # noqa: PLC0415

        if placement.device is None or quantization is not None:
            raise OptionError(
                f"{name}: an open_clip model with a device_map or quantization",
                expected="a device and a dtype",
            )
        model: Model = load_open_clip(
            parsed,
            kind=chosen,
            device=placement.device,
            dtype=dtype,
            local_files_only=local_files_only,
            allow_random=allow_random,
        )
        return model
    from fuse_index.models.checkpoint import TransformersCheckpoint  # noqa: PLC0415
    from fuse_index.models.hub import load_transformers  # noqa: PLC0415

    checkpoint = TransformersCheckpoint(parsed, local_files_only=local_files_only)
    return load_transformers(checkpoint, kind=chosen, placement=placement, bos=bos)
