"""The embedding table of a model without the model: what a build needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fuse_index.bundle.identity import ModelIdentity, hash_embeddings
from fuse_index.errors import FuseIndexError, ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint, loading
from fuse_index.models.hub import load_config, load_tokenizer
from fuse_index.models.naming import ModelSource, parse_model_name
from fuse_index.models.table import check_finite, effective_table, is_plain, used_rows
from fuse_index.models.weights import (
    has_adapter,
    read_tensor,
    require_directory_content,
    weight_map,
)
from fuse_index.words.tokenizers.tokenization import WordTokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model

_log = logging.getLogger(__name__)

# Where the input embedding table of an architecture is, by the end of its key in the checkpoint.
# An architecture that is not listed is asked itself (built without memory on the meta device); so
# are those whose embedding module scales, which some versions of transformers do and others do not.
_TABLE_KEYS = {
    "wte.weight": ("gpt2", "gptj", "gpt_bigcode", "codegen", "gpt_neo"),
    "embed_tokens.weight": (
        *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("opt", "phi", "phi3", "olmo", "olmo2", "stablelm", "cohere", "smollm3", "starcoder2"),
    ),
    "embed_in.weight": ("gpt_neox",),
    "word_embeddings.weight": (
        *("falcon", "bloom", "bert", "roberta", "distilbert", "xlm-roberta", "camembert"),
        *("electra", "mpnet", "albert", "deberta", "deberta-v2"),
    ),
    "text_model.embeddings.token_embedding.weight": ("clip", "siglip", "siglip2"),
    "tok_embeddings.weight": ("modernbert",),
}
_KEY_OF_TYPE = {model: key for key, models in _TABLE_KEYS.items() for model in models}


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A model's input embeddings and tokenizer.

    Attributes:
        name: the model as it was named.
        table: (vocabulary size, width) float32 on the CPU; the same values as ``Model.table()``.
        words: the tokenizer for words and running text.
        identity: name, revision and hashes.
        unused_rows: rows of the stored table that no token uses; ``table`` does not have them.
        model: the model itself, where it is in memory.
    """

    name: str
    table: Tensor
    words: WordTokenizer
    identity: ModelIdentity
    unused_rows: int
    model: Model | None = None


def load_embeddings(name: str | Model, *, local_files_only: bool = False) -> Embeddings:
    """Read the input embedding table and the tokenizer of a model, and nothing else where possible.

    The one tensor is read from the safetensors file that holds it. Where it cannot be told from
    the file, the whole model is loaded.

    Args:
        name: as for :func:`fuse_index.models.load_model`; or a model, whose own table is taken.
        local_files_only: never ask the Hub.

    Raises:
        ModelError: the model does not exist, has no tokenizer or no input embeddings, has fewer
            rows than tokens, or rows with NaN or infinity; a model was given whose table is
            narrower than it is stored.
    """
    if not isinstance(name, str):
        return _of_model(name)
    parsed = parse_model_name(name)
    if parsed.source is ModelSource.OPEN_CLIP:
        from fuse_index.models.openclip import read_open_clip_table  # noqa: PLC0415

        found = read_open_clip_table(parsed, local_files_only=local_files_only)
        if found is None:
            return _load_whole(name, local_files_only)
        stored, tokenizer, revision = found
        return make_embeddings(name, revision, stored, tokenizer)
    checkpoint = TransformersCheckpoint(parsed, local_files_only=local_files_only)
    require_directory_content(checkpoint)
    table = read_table(checkpoint)
    if table is None:
        return _load_whole(name, local_files_only)
    return make_embeddings(name, checkpoint.commit(), table, load_tokenizer(checkpoint))


def make_embeddings(name: str, revision: str, stored: Tensor, tokenizer: Any) -> Embeddings:
    """Check a stored table against its tokenizer and widen its used rows to float32.

    Args:
        name: the model, for identity and messages.
        revision: commit where known, else "".
        stored: (rows, width), any floating dtype, with the scaling of the embedding module.
        tokenizer: the library's own tokenizer.
    """
    with loading("tokenizer", name):
        words = WordTokenizer.from_tokenizer(tokenizer)
    rows = used_rows(stored.shape[0], words, name)
    table = stored[:rows].to(device="cpu", dtype=torch.float32).contiguous()
    check_finite(table, words, name)
    identity = ModelIdentity(
        name=name,
        revision=revision,
        tokenizer_hash=words.fingerprint,
        embedding_hash=hash_embeddings(table),
        width=table.shape[1],
        vocabulary_size=rows,
    )
    return Embeddings(name, table, words, identity, stored.shape[0] - rows)


def read_table(checkpoint: TransformersCheckpoint) -> Tensor | None:
    """Read the input embedding table from the file that holds it.

    Returns:
        (rows, width) float32 with the embedding module's scaling, or None where the key of the
        table or its scaling cannot be told.
    """
    config = checkpoint.json("config.json")
    if config is None or has_adapter(checkpoint):
        return None
    files = weight_map(checkpoint)
    if not files:
        return None
    ending = _KEY_OF_TYPE.get(str(config.get("model_type")))
    embedding: nn.Embedding | None = None
    if ending is not None:
        key = _only_key(files, ending)
    else:
        key, embedding = _ask_architecture(checkpoint, files)
    path = None if key is None else checkpoint.file(files[key])
    if key is None or path is None:
        return None
    tensor = read_tensor(path, key, checkpoint.name.text)
    if tensor.ndim != 2 or not tensor.dtype.is_floating_point:
        return None
    table = tensor.float()
    if embedding is None or is_plain(embedding):
        return table
    embedding.weight = nn.Parameter(table, requires_grad=False)
    return effective_table(embedding, table.shape[0])


def _only_key(files: dict[str, str], ending: str) -> str | None:
    keys = [key for key in files if key == ending or key.endswith("." + ending)]
    return keys[0] if len(keys) == 1 else None


def _ask_architecture(
    checkpoint: TransformersCheckpoint, files: dict[str, str]
) -> tuple[str | None, nn.Embedding | None]:
    """Build the base model on the meta device and look where and what its embeddings are."""
    import transformers  # noqa: PLC0415

    config = load_config(checkpoint)
    auto: Any = transformers.AutoModel
    try:
        with loading("model", checkpoint.name.text), torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=False)
            embedding = model.get_input_embeddings()
    except (FuseIndexError, NotImplementedError) as error:
        _log.debug("%s: no base model on the meta device: %s", checkpoint.name.text, error)
        return None, None
    if not isinstance(embedding, nn.Embedding) or not _restore_scale(embedding):
        return None, None
    name = next((key for key, part in model.named_modules() if part is embedding), None)
    candidates = (f"{name}.weight", f"{model.base_model_prefix}.{name}.weight")
    found = next((key for key in candidates if key in files), None)
    return found or _only_key(files, f"{str(name).rpartition('.')[2]}.weight"), embedding


def _restore_scale(embedding: nn.Embedding) -> bool:
    """Give a module from the meta device its scale back; False where its value is lost."""
    for name, _ in list(embedding.named_buffers(recurse=False)):
        value = getattr(embedding, f"scalar_{name}", None)
        if not isinstance(value, float):
            return False
        setattr(embedding, name, torch.tensor(value))
    return True


def _of_model(model: Model) -> Embeddings:
    identity = model.identity()
    if not identity.embedding_hash:
        raise ModelError(
            f"{model.name}: its embeddings are in {str(model.dtype).removeprefix('torch.')} and "
            "stored in more",
            expected="the values as they are stored, which a bundle is checked by",
            remedy="give the model's name, or load it in the dtype that it is stored in",
        )
    table = model.table().to(device="cpu", dtype=torch.float32).contiguous()
    return Embeddings(model.name, table, model.words, identity, model.unused_rows, model)


def _load_whole(name: str, local_files_only: bool) -> Embeddings:
    from fuse_index.models.load import load_model  # noqa: PLC0415

    _log.info("%s: its embedding table cannot be read alone; loading the whole model", name)
    model = load_model(name, device="cpu", dtype=torch.float32, local_files_only=local_files_only)
    table, identity = model.table().clone(), model.identity()
    return Embeddings(name, table, model.words, identity, model.unused_rows)
