"""Models of transformers: tokenizer, configuration and weights of the kind asked for."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from fuse_index.errors import ModelError
from fuse_index.models.assembly import Provenance, assemble
from fuse_index.models.checkpoint import TransformersCheckpoint, loading
from fuse_index.models.kinds import ModelKind
from fuse_index.models.pretrained import Placement, load_module, stored_dtype
from fuse_index.models.weights import require_directory_content
from fuse_index.words.tokenizers.vocabulary import has_words

if TYPE_CHECKING:
    from fuse_index.models.base import Model

CLIP_TYPES = ("clip", "siglip")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


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
        vocabulary, special = tokenizer.get_vocab(), {*map(str, tokenizer.all_special_tokens)}
    if not has_words(vocabulary, special):
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
    if config.model_type in CLIP_TYPES:
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
    placement: Placement,
    bos: bool | None,
) -> Model:
    """Load a transformers checkpoint as a :class:`Model` of the kind asked for or detected."""
    name = checkpoint.name.text
    require_directory_content(checkpoint)
    config = load_config(checkpoint)
    kind = _agreed_kind(kind, config, name)
    tokenizer = load_tokenizer(checkpoint)
    module = load_module(checkpoint, config, kind, placement)
    provenance = Provenance(
        name, checkpoint.commit(), stored_dtype(config), partial(load_processor, checkpoint)
    )
    return assemble(module, tokenizer, kind, provenance, bos)


def refuse_encoder_decoder(config: Any, name: str) -> None:
    """Refuse a model that reads its prompt with an encoder and writes with a decoder.

    Raises:
        ModelError: it is one.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name}: an encoder-decoder model ({config.model_type})",
            expected="a causal language model, a classifier, an encoder, or CLIP",
            remedy="choose another model",
        )


def _agreed_kind(kind: ModelKind | None, config: Any, name: str) -> ModelKind:
    refuse_encoder_decoder(config, name)
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
