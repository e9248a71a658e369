"""Models of open_clip: CLIP, CoCa and SigLIP, with its own or a Hugging Face text tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fuse_index.errors import ModelError
from fuse_index.models.base import ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.checkpoint import loading
from fuse_index.models.clip import ClipModel
from fuse_index.models.frame import Frame, find_sublist
from fuse_index.models.kinds import ModelKind
from fuse_index.models.naming import ModelName
from fuse_index.models.openclip_files import OpenClipFiles, find_files
from fuse_index.models.selfcheck import settle_padding
from fuse_index.models.substitute import marker_ids
from fuse_index.models.weights import read_tensor, tensor_keys
from fuse_index.words.tokenizers.tokenization import WordTokenizer

if TYPE_CHECKING:
    from torch import Tensor

_SEED = 0
_TABLE_KEYS = (
    "token_embedding.weight",
    "text.token_embedding.weight",
    "text.transformer.embeddings.word_embeddings.weight",
)
_PRECISION = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class OpenClipModel(ClipModel):
    """A model of open_clip.

    Causal text towers run on as many positions as the batch has; all others at full width, because
    their result depends on it.

    Args:
        module: what ``open_clip.create_model`` gives.
        embedding: the text tower's lookup module.
        parts: tokenizer, frame and limits.
        transform: image -> pixels (3, h, w).
    """

    def __init__(
        self,
        module: nn.Module,
        embedding: nn.Embedding,
        parts: ModelParts,
        transform: Callable[[Any], Tensor],
    ) -> None:
        super().__init__(module, embedding, parts)
        self._transform = transform
        self._tower = _TextTower(module)
        self._end = _end_id(self._tower.text, embedding)
        self._pad = _pad_id(self._tower.text)
        settle_padding(self)

    def _text_features(self, batch: Batch) -> Tensor:
        return self._tower.run(marker_ids(batch, end=self._end, pad=self._pad))

    def _image_features(self, pixels: Tensor) -> Tensor:
        dtype = next(p.dtype for p in self.module.visual.parameters() if p.ndim > 1)
        features: Tensor = self.module.encode_image(pixels.to(dtype), normalize=False)
        return features

    def _pixels(self, images: list[Any]) -> Tensor:
        return torch.stack([self._transform(image) for image in images])


class _TextTower(nn.Module):
    """``encode_text`` as a module, so that its position tables can be replaced for one call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.path = "model" if getattr(model, "text", None) is None else "model.text"

    @property
    def text(self) -> Any:
        """The text tower, by its path: a module that is registered twice is not restored."""
        return self.get_submodule(self.path)

    def forward(self, ids: Tensor) -> Tensor:
        model: Any = self.model
        features: Tensor = model.encode_text(ids, normalize=False)
        return features

    def run(self, ids: Tensor) -> Tensor:
        """Run on (b, L) ids, with the positions and the causal mask cut to L where possible."""
        if not shortens(self.text):
            features: Tensor = self(ids)
            return features
        length = ids.shape[1]
        cut = {
            f"{self.path}.positional_embedding": self.text.positional_embedding[:length],
            f"{self.path}.attn_mask": self.text.attn_mask[:length, :length],
        }
        called: Tensor = torch.func.functional_call(self, cut, (ids,))
        return called


def shortens(text: Any) -> bool:
    """Whether a text tower's result is the same on fewer positions.

    It is for open_clip's own towers with a causal mask that pool at the end-of-text token; CoCa's
    class token and SigLIP's last position see the padding.
    """
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    causal = getattr(text, "attn_mask", None) is not None
    class_token = getattr(text, "cls_emb", None) is not None
    return causal and pool in ("argmax", "eos", "first") and not class_token


def load_open_clip(
    name: ModelName,
    *,
    kind: ModelKind | None,
    device: torch.device,
    dtype: torch.dtype | None,
    local_files_only: bool = False,
    allow_random: bool = False,
) -> OpenClipModel:
    """Load an open_clip model; the weights are read from safetensors only.

    Raises:
        ModelError: it does not exist, has no weights, or is not of that kind.
    """
    if kind not in (None, ModelKind.CLIP):
        raise ModelError(
            f"{name.text}: an open_clip model as kind {kind.value!r}", expected="kind 'clip'"
        )
    files = find_files(name, allow_random=allow_random, local_files_only=local_files_only)
    module, transform = _build(files, name, device, dtype or torch.float32)
    tokenizer = load_open_clip_tokenizer(files, name)
    return assemble_open_clip(
        module, tokenizer, transform, name.text, revision=files.revision, stored=torch.float32
    )


def assemble_open_clip(
    module: nn.Module,
    tokenizer: Any,
    transform: Callable[[Any], Tensor],
    name: str,
    *,
    revision: str = "",
    stored: torch.dtype | None = None,
) -> OpenClipModel:
    """Make a :class:`Model` of a network of open_clip and its tokenizer.

    Args:
        module: see :class:`OpenClipModel`.
        tokenizer: its tokenizer.
        transform: see :class:`OpenClipModel`.
        name: of the model.
        revision: commit of the weights where known, else "".
        stored: dtype the weights have on disk, where known.

    Raises:
        ModelError: the two do not fit together, or are not supported.
    """
    words = WordTokenizer.from_tokenizer(tokenizer)
    text = getattr(module, "text", module)
    parts = ModelParts(
        name=name,
        revision=revision,
        tokenizer=tokenizer,
        words=words,
        frame=_frame(tokenizer, words, text, name),
        positions=int(tokenizer.context_length),
        stored=stored,
    )
    return OpenClipModel(module, text_embedding(text, name), parts, transform)


def transform_of(module: Any) -> Callable[[Any], Tensor]:
    """Return the image preprocessing that a network of open_clip was made with."""
    from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: PLC0415

    transform: Callable[[Any], Tensor] = image_transform_v2(
        PreprocessCfg(**module.visual.preprocess_cfg), is_train=False
    )
    return transform


def load_open_clip_tokenizer(files: OpenClipFiles, name: ModelName) -> Any:
    """Load the tokenizer that goes with an architecture."""
    import open_clip  # noqa: PLC0415

    with loading("tokenizer", name.text):
        return open_clip.get_tokenizer(files.architecture)


def text_embedding(text: Any, name: str) -> nn.Embedding:
    """Return the lookup module of a text tower."""
    embedding = getattr(text, "token_embedding", None)
    if embedding is None and hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        embedding = text.transformer.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(
            f"{name}: its text tower {type(text).__name__} has no table of input embeddings",
            expected="a text tower with token embeddings",
        )
    return embedding


def read_open_clip_table(
    name: ModelName, *, local_files_only: bool
) -> tuple[Tensor, Any, str] | None:
    """Read the text tower's embedding table from its file: table, tokenizer, revision.

    Returns:
        None where the file does not hold it under a known key.
    """
    files = find_files(name, allow_random=True, local_files_only=local_files_only)
    if files.weights is None:
        return None
    keys = set(tensor_keys(files.weights, name.text))
    found = [key for key in _TABLE_KEYS if key in keys]
    if len(found) != 1:
        return None
    table = read_tensor(files.weights, found[0], name.text)
    return table, load_open_clip_tokenizer(files, name), files.revision


def _build(
    files: OpenClipFiles, name: ModelName, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    import open_clip  # noqa: PLC0415

    if dtype not in _PRECISION:
        raise ModelError(f"{name.text}: dtype {dtype}", expected="float32, float16 or bfloat16")
    with loading("weights", name.text), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = open_clip.create_model(
            files.architecture,
            load_weights=False,
            pretrained_text=False,
            precision=_PRECISION[dtype],
            device=device,
            force_quick_gelu=files.quick_gelu,
            force_preprocess_cfg=files.preprocess,
        )
        if files.weights is not None:
            open_clip.load_checkpoint(module, str(files.weights), strict=True)
        return module, transform_of(module)


def _frame(tokenizer: Any, words: WordTokenizer, text: Any, name: str) -> Frame:
    """Find the special tokens by tokenizing a probe as open_clip does."""
    row = [int(i) for i in tokenizer([words.probe_text])[0]]
    bare = words.encode_text(words.probe_text)
    start = find_sublist(row, bare)
    if start is None or getattr(tokenizer, "tokenizer_mode", None):
        raise ModelError(
            f"{name}: its tokenizer gives {row[:12]} for {words.probe_text!r}",
            expected=f"special tokens around {bare}, and padding to the right",
            remedy="this tokenizer is not supported",
        )
    rest = row[start + len(bare) :]
    pad = rest[-1]
    tail = rest[: next((i for i, id_ in enumerate(rest) if id_ == pad), len(rest))]
    width = None if shortens(text) or _masks(text) else int(tokenizer.context_length)
    return Frame(tuple(row[:start]), tuple(tail or [pad]), pad, width)


def _masks(text: Any) -> bool:
    """Whether a tower masks padding by its ids and takes any length (Hugging Face towers)."""
    return hasattr(text, "config") and hasattr(text, "pooler")


def _end_id(text: Any, embedding: nn.Embedding) -> int:
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool == "eos":
        return int(getattr(text, "text_eos_id", getattr(text, "eos_id", 0)))
    return int(embedding.num_embeddings) - 1


def _pad_id(text: Any) -> int:
    if _masks(text):
        return int(text.config.pad_token_id)
    return int(getattr(text, "pad_id", 0))
