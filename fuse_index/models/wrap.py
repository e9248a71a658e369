"""A network and tokenizer that the caller holds in memory, as a model of this package."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fuse_index.common.reading import choose
from fuse_index.errors import FuseIndexError, ModelError
from fuse_index.models.assembly import Provenance, assemble
from fuse_index.models.kinds import ModelKind
from fuse_index.models.loan import lend, unchanged

if TYPE_CHECKING:
    from fuse_index.models.base import Model

ACCEPTED = (
    "a causal language model, sequence classifier, encoder, CLIP or SigLIP of transformers, with "
    "or without PEFT adapters, or a model of open_clip"
)
_CAUSAL = re.compile(r"CausalLM|LMHead|DoubleHeads|ForConditionalGeneration|ForCausal")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def wrap_model(
    module: nn.Module,
    tokenizer: Any,
    *,
    kind: ModelKind | str | None = None,
    name: str | None = None,
    processor: Any = None,
    bos: bool | None = None,
) -> Model:
    """Make a model of a network and tokenizer that are in memory.

    Quantized networks, networks that accelerate has spread or offloaded, and PEFT adapters, merged
    or not, are used as they are. The network is frozen and in evaluation mode until
    :meth:`Model.release <fuse_index.models.Model.release>` is called, or a ``with`` block over the
    model ends; then everything is as it was. The tokenizer is left as it is; it pads and truncates
    nothing here.

    Args:
        module: a causal language model, sequence classifier, encoder, CLIP or SigLIP of
            transformers, a ``PeftModel`` of one, or a model of open_clip.
        tokenizer: its tokenizer, or a processor that holds the tokenizer and the image processor.
        kind: what to use the network as; None takes what its class is. A classifier or a causal
            model can be used as :attr:`ModelKind.ENCODER`, without its head.
        name: of the model; None takes where transformers loaded it from, or else its class.
        processor: image processor of CLIP and SigLIP, or preprocessing of open_clip, for images;
            None takes the one that the network was saved or made with.
        bos: whether a causal model's content follows its beginning-of-sequence token; None does
            what the tokenizer does by itself.

    Returns:
        The model.

    Raises:
        ModelError: the network is of no kind that is supported, or not of the kind asked for; the
            tokenizer does not fit it; its input embeddings are on another device than its first
            layer.
    """
    inner = _unwrapped(module)
    chosen = None if kind is None else choose(ModelKind, kind, "model kind")
    if processor is None:
        processor = getattr(tokenizer, "image_processor", None)
        tokenizer = tokenizer if processor is None else tokenizer.tokenizer
    give_back = lend(module)
    try:
        with unchanged(tokenizer):
            if _is_open_clip(inner):
                model = _wrap_open_clip(inner, tokenizer, chosen, name, processor)
            else:
                provenance = _provenance(inner, name, processor)
                model = _wrap_transformers(inner, tokenizer, chosen, provenance, bos)
        _check_adapters(module, model)
    except BaseException:
        give_back()
        raise
    model.at_release(give_back)
    _speed_up_head(model)
    return model


def _unwrapped(module: Any) -> Any:
    """The network itself, without what compiles or parallelizes it, and under its adapters.

    Raises:
        ModelError: it is no network of transformers or open_clip, or has virtual tokens.
    """
    while isinstance(module, _PARALLEL) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, _PARALLEL) else module._orig_mod
    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        if module.active_peft_config.is_prompt_learning:
            kind = getattr(module.active_peft_config.peft_type, "value", "prompt learning")
            raise ModelError(
                f"{type(module).__name__}: an adapter with virtual tokens ({kind})",
                expected="an adapter of the weights, such as LoRA",
                remedy="give the base model, or another adapter",
            )
        module = module.get_base_model()
    if isinstance(module, nn.Module) and (_is_open_clip(module) or _is_transformers(module)):
        return module
    raise ModelError(f"a module of type {type(module).__name__}", expected=ACCEPTED)


def _is_open_clip(module: Any) -> bool:
    return all(hasattr(module, part) for part in ("encode_text", "encode_image", "visual"))


def _is_transformers(module: Any) -> bool:
    return hasattr(module, "config") and hasattr(module, "get_input_embeddings")


def _wrap_open_clip(
    module: Any, tokenizer: Any, kind: ModelKind | None, name: str | None, processor: Any
) -> Model:
    from fuse_index.models.openclip import assemble_open_clip, transform_of  # noqa: PLC0415

    name = name or type(module).__name__
    if kind not in (None, ModelKind.CLIP):
        raise _wrong_kind(name, module, kind)
    if not hasattr(tokenizer, "context_length"):
        raise ModelError(
            f"{name}: a {type(tokenizer).__name__} for a model of open_clip",
            expected="a tokenizer of open_clip",
            remedy="give open_clip.get_tokenizer(ARCHITECTURE)",
        )
    transform = processor or transform_of(module)
    stored = next(module.parameters()).dtype
    return assemble_open_clip(module, tokenizer, transform, name, stored=stored)


def _wrap_transformers(
    module: Any, tokenizer: Any, kind: ModelKind | None, provenance: Provenance, bos: bool | None
) -> Model:
    found = _kind_of(module, provenance.name)
    if kind not in (None, found):
        if kind is not ModelKind.ENCODER or found is ModelKind.CLIP:
            raise _wrong_kind(provenance.name, module, kind)
        found = kind
    if found is ModelKind.ENCODER:
        module = module.base_model  # without a head
    return assemble(module, tokenizer, found, provenance, bos)


def _kind_of(module: Any, name: str) -> ModelKind:
    """What a network is by its class: one in memory may have been made of any configuration."""
    from fuse_index.models.hub import CLIP_TYPES, refuse_encoder_decoder  # noqa: PLC0415

    config, made = module.config, type(module).__name__
    refuse_encoder_decoder(config, name)
    if config.model_type in CLIP_TYPES and hasattr(module, "get_text_features"):
        return ModelKind.CLIP
    if "SequenceClassification" in made:
        return ModelKind.CLASSIFIER
    return ModelKind.CAUSAL if _CAUSAL.search(made) else ModelKind.ENCODER


def _wrong_kind(name: str, module: nn.Module, kind: ModelKind) -> ModelError:
    return ModelError(
        f"{name}: a {type(module).__name__} as kind {kind.value!r}",
        expected="a network with the head of that kind",
        remedy="leave the kind out, or load the checkpoint as that kind",
    )


def _provenance(module: Any, name: str | None, processor: Any) -> Provenance:
    """Where a network was loaded from, as far as it is known here; nothing is downloaded."""
    from fuse_index.models.checkpoint import TransformersCheckpoint  # noqa: PLC0415
    from fuse_index.models.hub import load_processor  # noqa: PLC0415
    from fuse_index.models.naming import ModelSource, parse_model_name  # noqa: PLC0415

    place = str(getattr(module.config, "_name_or_path", None) or "")
    revision = str(getattr(module.config, "_commit_hash", None) or "")
    name = name or place or type(module).__name__
    # without a checkpoint, what is in memory is the model
    stored = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    find_processor: Callable[[], Any] = partial(_no_processor, name)
    try:
        parsed = parse_model_name(place)
        if parsed.source is ModelSource.HUB and revision:
            parsed = replace(parsed, revision=revision)
        checkpoint = TransformersCheckpoint(parsed, local_files_only=True)
        stored = _dtype_in(checkpoint.json("config.json")) or stored
        find_processor = partial(load_processor, checkpoint)
    except FuseIndexError:
        pass
    if processor is not None:
        find_processor = partial(_same, processor)
    return Provenance(name, revision, stored, find_processor)


def _same(value: Any) -> Any:
    return value


def _dtype_in(config: dict[str, Any] | None) -> torch.dtype | None:
    value = (config or {}).get("dtype") or (config or {}).get("torch_dtype")
    found = getattr(torch, value, None) if isinstance(value, str) else None
    return found if isinstance(found, torch.dtype) else None


def _no_processor(name: str) -> Any:
    raise ModelError(
        f"{name}: an image, but no image processor",
        expected="the processor that the network was trained with",
        remedy="give wrap_model(..., processor=), or preprocessed pixels as a tensor",
    )


def _check_adapters(module: Any, model: Model) -> None:
    """Refuse adapters that do something outside of the network's own forward pass.

    Raises:
        ModelError: the whole gives another result than the network under the adapters.
    """
    from fuse_index.models.selfcheck import agree, tolerance_of, trying  # noqa: PLC0415

    if not hasattr(module, "peft_config") or model.kind is ModelKind.CLIP:
        return
    batch = model.probe()
    with trying(model):
        whole = module(input_ids=batch.ids, attention_mask=batch.mask.long())
        base = module.get_base_model()
        under = base(input_ids=batch.ids, attention_mask=batch.mask.long())
    if not agree(whole[0], under[0], tolerance_of(model)):
        raise ModelError(
            f"{model.name}: an adapter that changes more than the network's own layers",
            expected="an adapter of the weights, such as LoRA",
            remedy="merge it with merge_and_unload(), or use another",
        )


def _speed_up_head(model: Model) -> None:
    """On a GPU, give the output layer contiguous states: of others it is eight times as slow."""
    get: Callable[[], Any] | None = getattr(model.module, "get_output_embeddings", None)
    head = None if get is None or model.kind is not ModelKind.CAUSAL else get()
    if model.device.type != "cuda" or type(head) is not nn.Linear:
        return

    def contiguous(_: nn.Module, given: Any) -> Any:
        return (given[0].contiguous(), *given[1:]) if given else None

    model.at_release(head.register_forward_pre_hook(contiguous).remove)
