"""Where the files of a transformers checkpoint are, and loading them safely and quietly."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuse_index.common.folders import visible_files
from fuse_index.errors import FuseIndexError, MissingDependencyError, ModelError
from fuse_index.models.naming import ModelName, ModelSource

_TOKENIZER_FILES = ("*token*", "*vocab*", "*.model", "merges.txt", "*.bpe")


class TransformersCheckpoint:
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

        with loading(filename, self.name.text):
            try:
                found = hf_hub_download(
                    self.name.location,
                    filename,
                    revision=self.name.revision,
                    local_files_only=self.local_files_only,
                )
            except EntryNotFoundError:
                # also where it is not in the cache and the Hub cannot be asked
                return None
        return Path(found)

    def json(self, filename: str) -> dict[str, Any] | None:
        """Read one JSON object of the checkpoint; None if it has no such file.

        Raises:
            ModelError: the file does not hold a JSON object.
        """
        path = self.file(filename)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            content = error
        if not isinstance(content, dict):
            raise ModelError(
                f"{self.name.text}: {filename} is not a JSON object",
                expected="the file save_pretrained() writes",
                remedy="download or save it again",
            )
        return content

    def commit(self) -> str:
        """Return the commit of a Hub checkpoint, "" for a local directory."""
        config = None if self.local else self.file("config.json")
        return config.parent.name if config else ""  # snapshots/COMMIT/config.json

    def may_have_tokenizer(self) -> bool:
        """Whether a local directory has any file of a tokenizer; of a Hub id it is not known."""
        folder = Path(self.name.location)
        return not self.local or any(visible_files(folder, name) for name in _TOKENIZER_FILES)


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
    import transformers  # noqa: PLC0415

    hf_logging: Any = transformers.logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with _quiet_root_logger():
            yield
    except FuseIndexError:
        raise
    except Exception as error:
        # libraries raise what they like here; whatever it is, the model cannot be loaded
        raise translate(error, what, name) from error
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep what open_clip logs to the root logger from its handlers.

    A root logger without handlers would get one from ``logging.warning``, for good.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_not_of_open_clip)
    try:
        yield
    finally:
        root.removeFilter(_not_of_open_clip)
        root.removeHandler(handler)


def _not_of_open_clip(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "open_clip"


# What libraries say -> what was given, expected, and to do.
_SAYINGS = (
    (
        r"couldn't connect|offline mode|LocalEntryNotFound|local_files_only|cached snapshot",
        "no {what} of it in the local cache, and the Hub cannot be reached",
        "a model that exists",
        "check the spelling and the network, or give a local directory",
    ),
    (
        r"gated repo",
        "the Hub gives this model only to those who accepted its terms",
        "access to it",
        "accept them on its page and run `hf auth login`",
    ),
    (
        r"not a valid model identifier|404 Client Error|(Repository|Revision) Not Found",
        "the Hub has no such model or revision",
        "an existing Hub id or a local directory",
        "check the spelling; a private model needs `hf auth login`",
    ),
    (
        r"trust_remote_code|custom code",
        "the model needs custom code, which is never run",
        "a model whose architecture transformers has",
        "choose another model, or update transformers",
    ),
    (
        r"Unrecognized configuration class",
        "its architecture cannot be loaded as that kind of model",
        "a causal language model, a classifier, an encoder, or CLIP",
        "load it as another kind, or choose another model",
    ),
    (
        r"does not recognize this architecture",
        "this version of transformers does not know its architecture",
        "a model whose architecture transformers has",
        "update transformers, or choose another model",
    ),
    (
        r"out of memory|can't allocate memory|Unable to allocate",
        "its {what} do not fit into memory",
        "enough memory for the model",
        "load it in half precision, on another device, or choose a smaller one",
    ),
)
_NO_SAFETENSORS = r"(no file named|does not appear to have a file).*safetensors"


def translate(error: Exception, what: str, name: str) -> FuseIndexError:
    """Turn an error of transformers, open_clip or huggingface_hub into one of this package."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return MissingDependencyError(
            f"{name}: its {what} need a library that is not installed ({text[:240]})",
            expected="that library beside transformers",
            remedy="install it",
        )
    for pattern, given, expected, remedy in _SAYINGS:
        if re.search(pattern, text):
            said = f"{name}: {given.format(what=what)}"
            return ModelError(said, expected=expected, remedy=remedy)
    if re.search(_NO_SAFETENSORS, text):
        return no_safetensors(name, ["pytorch_model.bin"])
    return ModelError(
        f"{name}: its {what} cannot be loaded ({type(error).__name__}: {text[:240]})",
        expected="a complete checkpoint",
        remedy="download or save it again",
    )
