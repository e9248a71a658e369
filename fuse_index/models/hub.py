"""Models of transformers: tokenizer, configuration and weights of the kind asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint, loading
from fuse_index.models.frame import PROBE, frame_of
from fuse_index.models.kinds import ModelKind
from fuse_index.models.replacements import replace_slow_modules
from fuse_index.words.tokenizers.tokenization import WordTokenizer

if TYPE_CHECKING:
    from fuse_index.models.base import Model

_CLIP_TYPES = ("clip", "siglip")
# Text towers without a mask: padding is part of the text, so every row has the full width.
_FULL_WIDTH = ("siglip",)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_LEARNED_POSITIONS = ("position_embeddings", "position_embedding", "wpe", "embed_positions")
_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


def load_tokenizer(checkpoint: TransformersCheckpoint) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        ModelError: there is none, or it has no vocabulary (transformers makes an empty one up from
            the configuration alone).
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    name = checkpoint.name
    if not checkpoint.may_have_tokenizer():
        raise _no_tokenizer(name.text)
    with loading("tokenizer", name.text):
        tokenizer = AutoTokenizer.from_pretrained(name.location, **checkpoint.pretrained_options)
        ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if all(i == tokenizer.unk_token_id for i in ids):
        raise _no_tokenizer(name.text)
    return tokenizer


def _no_tokenizer(name: str) -> ModelError:
    return ModelError(
        f"{name}: no tokenizer in it",
        expected="tokenizer.json, or the vocabulary files of a tokenizer",
        remedy="save the tokenizer next to the model with save_pretrained()",
    )


def load_config(checkpoint: TransformersCheckpoint) -> Any:
    """Load the configuration of a checkpoint.

    Raises:
        ModelError: the model does not exist, or transformers does not know its architecture.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    with loading("configuration", checkpoint.name.text):
        return AutoConfig.from_pretrained(checkpoint.name.location, **checkpoint.pretrained_options)


def detect_kind(config: Any) -> ModelKind:
    """Tell from a configuration what a checkpoint was saved as."""
    if config.model_type in _CLIP_TYPES:
        return ModelKind.CLIP
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if "SequenceClassification" in architecture:
        return ModelKind.CLASSIFIER
    if re.search(r"CausalLM|LMHead|DoubleHeads|ForConditionalGeneration|ForCausal", architecture):
        return ModelKind.CAUSAL
    if architecture.startswith(("GPT2Model", "OPTModel")):
        return ModelKind.CAUSAL
    return ModelKind.ENCODER


def load_transformers(
    checkpoint: TransformersCheckpoint,
    *,
    kind: ModelKind | None,
    device: torch.device,
    dtype: torch.dtype | None,
    bos: bool | None,
) -> Model:
    """Load a transformers checkpoint as a :class:`Model` of the kind asked for or detected."""
    from fuse_index.models.base import ModelParts  # noqa: PLC0415
    from fuse_index.models.causal import CausalModel  # noqa: PLC0415
    from fuse_index.models.clip import TransformersClipModel  # noqa: PLC0415
    from fuse_index.models.encoder import ClassifierModel, EncoderModel  # noqa: PLC0415

    name = checkpoint.name.text
    checkpoint.require_directory_content()
    config = load_config(checkpoint)
    kind = _agreed_kind(kind, config, name)
    tokenizer = load_tokenizer(checkpoint)
    frame = frame_of(tokenizer, kind, name, bos)
    if config.model_type in _FULL_WIDTH:
        frame = replace(frame, width=int(config.text_config.max_position_embeddings))
    module = _load_module(checkpoint, config, kind, dtype, device)
    parts = ModelParts(
        name=name,
        revision=checkpoint.commit(),
        tokenizer=tokenizer,
        words=WordTokenizer.from_tokenizer(tokenizer),
        frame=frame,
        positions=position_limit(module, config),
        stored=stored_dtype(config),
    )
    if kind is ModelKind.CLIP:
        embedding = module.text_model.embeddings.token_embedding
        return TransformersClipModel(module, embedding, parts, partial(load_processor, checkpoint))
    embedding = input_embeddings(module, name)
    if kind is ModelKind.CAUSAL:
        return CausalModel(module, embedding, parts)
    if kind is ModelKind.CLASSIFIER:
        labels = tuple(config.id2label[i] for i in range(config.num_labels))
        return ClassifierModel(module, embedding, parts, labels)
    return EncoderModel(module, embedding, parts)


def _agreed_kind(kind: ModelKind | None, config: Any, name: str) -> ModelKind:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name}: an encoder-decoder model ({config.model_type})",
            expected="a causal language model, a classifier, an encoder, or CLIP",
            remedy="choose another model",
        )
    detected = detect_kind(config)
    if kind is None:
        return detected
    if (kind is ModelKind.CLIP) is not (detected is ModelKind.CLIP):
        raise ModelError(
            f"{name}: a checkpoint of type {config.model_type!r} as kind {kind.value!r}",
            expected="kind 'clip' for CLIP and SigLIP, another kind for all others",
            remedy=f"leave the kind out, or say {detected.value!r}",
        )
    return kind


def load_processor(checkpoint: TransformersCheckpoint) -> Any:
    """Load the image processor of a checkpoint.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoImageProcessor  # noqa: PLC0415

    if not any(checkpoint.file(file) for file in _PROCESSOR_FILES):
        raise ModelError(
            f"{checkpoint.name.text}: no {_PROCESSOR_FILES[0]} in it",
            expected="the image processor saved next to the model",
            remedy="save it with save_pretrained(), or give preprocessed pixels as a tensor",
        )
    with loading("image processor", checkpoint.name.text):
        auto: Any = AutoImageProcessor
        return auto.from_pretrained(checkpoint.name.location, **checkpoint.pretrained_options)


def stored_dtype(config: Any) -> torch.dtype | None:
    """Return the dtype of the weights on disk as the configuration says."""
    value = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(value, str):
        value = getattr(torch, value, None)
    return value if isinstance(value, torch.dtype) else None


def position_limit(module: nn.Module, config: Any) -> int | None:
    """Return the largest number of tokens a model takes, or None where nothing limits it.

    A learned position table is the truth where there is one: RoBERTa begins at ``padding_idx + 1``
    and OPT at 2, so their tables have more rows than the text may have tokens. Without one (rotary
    positions) it is what the configuration states.
    """
    for name, part in module.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in _LEARNED_POSITIONS and isinstance(part, nn.Embedding):
            offset = getattr(part, "offset", None)
            if offset is None:
                offset = 0 if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings) - int(offset)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(text, "alibi", False):
        return None
    for field in _POSITION_FIELDS:
        value = getattr(text, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def input_embeddings(module: Any, name: str) -> Any:
    """Return the module that looks token ids up.

    Raises:
        ModelError: the model has none (images, audio, bytes without a table).
    """
    try:
        embedding = module.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        embedding = None
    weight = getattr(embedding, "weight", None)
    if weight is None or weight.ndim != 2:
        raise ModelError(
            f"{name}: {type(module).__name__} has no table of input embeddings",
            expected="a model of text tokens",
            remedy="choose another model",
        )
    return embedding


def _shape(value: Any) -> str:
    return value if isinstance(value, str) else f"shape {tuple(value)}"


def _load_module(
    checkpoint: TransformersCheckpoint,
    config: Any,
    kind: ModelKind,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Any:
    import transformers  # noqa: PLC0415

    auto = {
        ModelKind.CAUSAL: transformers.AutoModelForCausalLM,
        ModelKind.CLASSIFIER: transformers.AutoModelForSequenceClassification,
        ModelKind.ENCODER: transformers.AutoModel,
        ModelKind.CLIP: transformers.AutoModel,
    }[kind]
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else stored_dtype(config) or torch.float32
    name = checkpoint.name
    with loading("weights", name.text):
        module, info = auto.from_pretrained(
            name.location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **checkpoint.pretrained_options,
        )
        _refuse_incomplete(info, kind, name.text)
        module = module.to(device)
        replace_slow_modules(module)
        return module


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
