"""A loaded network of transformers and its tokenizer as a model of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import loading
from fuse_index.models.frame import frame_of
from fuse_index.models.kinds import ModelKind
from fuse_index.models.placement import device_of, require_near_first_layer
from fuse_index.words.tokenizers.tokenization import WordTokenizer

if TYPE_CHECKING:
    import torch

    from fuse_index.models.base import Model

# Text towers without a mask: padding is part of the text, so every row has the full width.
_FULL_WIDTH = ("siglip",)
_LEARNED_POSITIONS = ("position_embeddings", "position_embedding", "wpe", "embed_positions")
_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Provenance:
    """Where a network comes from.

    Attributes:
        name: of the model.
        revision: commit of the weights where known, else "".
        stored: dtype the weights have on disk, where known.
        load_processor: loads the image processor of CLIP.
    """

    name: str
    revision: str
    stored: torch.dtype | None
    load_processor: Callable[[], Any]


def assemble(
    module: Any, tokenizer: Any, kind: ModelKind, provenance: Provenance, bos: bool | None
) -> Model:
    """Make a :class:`Model` of a network and its tokenizer.

    Args:
        module: a network of transformers that has what the kind needs.
        tokenizer: its tokenizer.
        kind: what to use it as.
        provenance: where it comes from.
        bos: see :func:`fuse_index.models.load_model`.

    Raises:
        ModelError: the two do not fit together, or the network is not of that kind.
    """
    from fuse_index.models.base import ModelParts  # noqa: PLC0415
    from fuse_index.models.causal import CausalModel  # noqa: PLC0415
    from fuse_index.models.clip import TransformersClipModel  # noqa: PLC0415
    from fuse_index.models.encoder import (  # noqa: PLC0415
        ClassifierModel,
        EncoderModel,
        label_names,
    )

    config, name = module.config, provenance.name
    with loading("tokenizer", name):
        words = WordTokenizer.from_tokenizer(tokenizer)
        frame = frame_of(tokenizer, kind, name, bos, words.probe_text)
    if config.model_type in _FULL_WIDTH:
        frame = replace(frame, width=int(config.text_config.max_position_embeddings))
    parts = ModelParts(
        name=name,
        revision=provenance.revision,
        tokenizer=tokenizer,
        words=words,
        frame=frame,
        positions=position_limit(module, config),
        stored=provenance.stored,
    )
    if kind is ModelKind.CLIP:
        embedding = module.text_model.embeddings.token_embedding
        return TransformersClipModel(module, embedding, parts, provenance.load_processor)
    embedding = input_embeddings(module, name)
    require_near_first_layer(module, device_of(embedding, name), name)
    if kind is ModelKind.CAUSAL:
        return CausalModel(module, embedding, parts)
    if kind is ModelKind.CLASSIFIER:
        return ClassifierModel(module, embedding, parts, label_names(config, name))
    return EncoderModel(module, embedding, parts)


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
        ModelError: the model has none (images, audio, bytes without a table), or quantized ones.
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
    if not weight.is_floating_point():
        raise ModelError(
            f"{name}: its table of input embeddings is quantized ({weight.dtype})",
            expected="a floating dtype",
            remedy="leave the embeddings out when you quantize",
        )
    return embedding
