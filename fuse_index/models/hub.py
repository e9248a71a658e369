"""Loading checkpoints with transformers: safely, quietly, with errors a user can act on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fuse_index.errors import ModelError
from fuse_index.models.frame import frame_of
from fuse_index.models.kinds import ModelKind
from fuse_index.models.naming import ModelName, ModelSource
from fuse_index.models.positions import position_limit
from fuse_index.words.tokenization import WordTokenizer

if TYPE_CHECKING:
    from fuse_index.models.base import Model

_SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_CLIP_TYPES = ("clip", "siglip", "siglip2")


class Checkpoint:
    """A transformers checkpoint: a local directory, or a Hub id seen through the local cache.

    Args:
        name: the parsed name, a directory or a Hub id.
        local_files_only: never ask the Hub.
    """

    def __init__(self, name: ModelName, *, local_files_only: bool = False) -> None:
        self.name = name
        self.local_files_only = local_files_only
        self.local = name.source is ModelSource.DIRECTORY

    @property
    def pretrained_options(self) -> dict[str, Any]:
        """Arguments that every ``from_pretrained`` gets; remote code is never trusted."""
        options: dict[str, Any] = {"trust_remote_code": False}
        if not self.local:
            options |= {"revision": self.name.revision, "local_files_only": self.local_files_only}
        return options

    def file(self, filename: str) -> Path | None:
        """Return the path of one file of the checkpoint, or None if it has no such file."""
        if self.local:
            path = Path(self.name.location) / filename
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

        try:
            return Path(
                hf_hub_download(
                    self.name.location,
                    filename,
                    revision=self.name.revision,
                    local_files_only=self.local_files_only,
                )
            )
        except EntryNotFoundError:
            # LocalEntryNotFoundError is one too: the file is not in the cache
            return None

    def commit(self) -> str:
        """Return the commit of a Hub checkpoint, "" for a local directory."""
        config = None if self.local else self.file("config.json")
        match = _SNAPSHOT.search(str(config)) if config else None
        return match[1] if match else ""

    def require_directory_content(self) -> None:
        """Check that a local directory holds a configuration and safetensors.

        Raises:
            ModelError: something is missing; the message says what to do.
        """
        if not self.local:
            return
        folder = Path(self.name.location)
        if not (folder / "config.json").is_file():
            remedy = "save the model with save_pretrained()"
            if (folder / "open_clip_config.json").is_file():
                remedy = f"it is an open_clip model: name it 'open_clip:{self.name.text}'"
            raise ModelError(
                f"{self.name.text}: no config.json in the directory",
                expected="a transformers checkpoint",
                remedy=remedy,
            )
        if any(folder.glob("*.safetensors")):
            return
        pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
        raise no_safetensors(self.name.text, pickles)


def no_safetensors(name: str, pickles: list[str]) -> ModelError:
    """Return the error for a checkpoint that has no safetensors file."""
    if not pickles:
        return ModelError(f"{name}: no weights in it", expected="a *.safetensors file")
    return ModelError(
        f"{name}: its weights are pickled ({pickles[0]}), and loading a pickle can run any code",
        expected="a *.safetensors file",
        remedy="convert it once where you trust it: load it with transformers and call "
        "save_pretrained(), or use the Hub's convert Space",
    )


@contextlib.contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Silence transformers while loading and turn its errors into one clear line."""
    from transformers.utils import logging  # noqa: PLC0415

    hf_logging: Any = logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise translate(error, what, name) from error
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def translate(error: Exception, what: str, name: str) -> ModelError:
    """Turn an error of transformers or huggingface_hub into ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    if re.search(r"couldn't connect|offline mode|LocalEntryNotFound|local_files_only", text):
        return ModelError(
            f"{name}: the {what} is neither in the local cache nor reachable on the Hub",
            expected="a model that exists",
            remedy="check the spelling and the network, or give a local directory",
        )
    if re.search(r"not a valid model identifier|404 Client Error|Repository Not Found", text):
        return ModelError(
            f"{name}: the Hub has no such model",
            expected="an existing Hub id or a local directory",
            remedy="check the spelling; a private or gated model needs `hf auth login`",
        )
    if "trust_remote_code" in text or "custom code" in text:
        return ModelError(
            f"{name}: the model needs code of its own, which is never run",
            expected="a model whose architecture transformers has",
            remedy="choose another model, or update transformers",
        )
    if "safetensors" in text and re.search(r"no file named|does not appear to have a file", text):
        return no_safetensors(name, ["pytorch_model.bin"])
    return ModelError(
        f"{name}: the {what} cannot be loaded ({text[:300]})",
        expected="a complete checkpoint that transformers can load",
    )


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        ModelError: there is none, or it has no vocabulary (transformers makes an empty one up from
            the configuration alone).
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    name = checkpoint.name
    with loading("tokenizer", name.text):
        tokenizer = AutoTokenizer.from_pretrained(name.location, **checkpoint.pretrained_options)
        empty = not tokenizer("a few words", add_special_tokens=False)["input_ids"]
    if empty:
        raise ModelError(
            f"{name.text}: no tokenizer in it",
            expected="tokenizer.json, or the vocabulary files of a tokenizer",
            remedy="save the tokenizer next to the model with save_pretrained()",
        )
    return tokenizer


def load_config(checkpoint: Checkpoint) -> Any:
    """Load the configuration of a checkpoint.

    Raises:
        ModelError: the model does not exist, or transformers does not know its architecture.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    with loading("model", checkpoint.name.text):
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
    checkpoint: Checkpoint,
    *,
    kind: ModelKind | None,
    device: torch.device,
    dtype: torch.dtype | None,
    bos: bool | None,
) -> Model:
    """Load a transformers checkpoint as a :class:`Model` of the kind asked for or detected."""
    from fuse_index.models.base import ModelParts  # noqa: PLC0415
    from fuse_index.models.causal import CausalModel  # noqa: PLC0415
    from fuse_index.models.encoder import ClassifierModel, EncoderModel  # noqa: PLC0415

    name = checkpoint.name.text
    checkpoint.require_directory_content()
    config = load_config(checkpoint)
    kind = kind or detect_kind(config)
    tokenizer = load_tokenizer(checkpoint)
    frame = frame_of(tokenizer, kind, name, bos)
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
    embedding = input_embeddings(module, name)
    if kind is ModelKind.CAUSAL:
        return CausalModel(module, embedding, parts)
    if kind is ModelKind.CLASSIFIER:
        labels = tuple(config.id2label[i] for i in range(config.num_labels))
        return ClassifierModel(module, embedding, parts, labels)
    return EncoderModel(module, embedding, parts)


def stored_dtype(config: Any) -> torch.dtype | None:
    """Return the dtype of the weights on disk as the configuration says."""
    value = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(value, str):
        value = getattr(torch, value, None)
    return value if isinstance(value, torch.dtype) else None


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


def _load_module(
    checkpoint: Checkpoint,
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
            **checkpoint.pretrained_options,
        )
        _refuse_missing(info, kind, name.text)
        return module.to(device)


def _refuse_missing(info: dict[str, Any], kind: ModelKind, name: str) -> None:
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    if kind is ModelKind.ENCODER:
        missing = [key for key in missing if "pooler" not in key]
    if missing:
        raise ModelError(
            f"{name}: as {kind.value} it lacks the weights {', '.join(missing[:4])}",
            expected="a checkpoint saved with them",
            remedy="load it as another kind, or fine-tune and save it first",
        )
