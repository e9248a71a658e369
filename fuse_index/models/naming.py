"""How a model is named: Hub id, directory, ``open_clip:ARCH[/...]`` or ``demo:NAME``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from fuse_index.errors import ModelError
from fuse_index.models.packaged import demo_model, model_name

OPEN_CLIP = "open_clip:"
ACCEPTED = (
    "a Hub id such as openai-community/gpt2 (optionally @revision), a local directory, "
    "open_clip:ARCH[/PRETRAINED or weights file], or demo:NAME"
)
_HUB_ID = re.compile(r"(?P<id>[\w.\-]+(?:/[\w.\-]+)?)(?:@(?P<revision>[\w.\-/]+))?")
_CONFIG_FILE = re.compile(r"(?P<config>.+\.json)(?:/(?P<weights>.+))?")


class ModelSource(str, Enum):
    """Where a model comes from."""

    HUB = "hub"
    DIRECTORY = "directory"
    OPEN_CLIP = "open_clip"


@dataclass(frozen=True)
class ModelName:
    """A parsed model name.

    Attributes:
        text: the name as it was given.
        source: where the model comes from.
        location: Hub id, directory, or open_clip architecture (name, ``.json`` file, directory).
        revision: branch, tag or commit of a Hub id, else None.
        weights: pretrained tag or weights file of an open_clip architecture, else None.
    """

    text: str
    source: ModelSource
    location: str
    revision: str | None = None
    weights: str | None = None


def parse_model_name(text: str) -> ModelName:
    """Parse a model name; a directory that exists wins over a Hub id of the same spelling.

    Raises:
        ModelError: the name is empty, malformed, a path to no directory, or of no packaged model.
    """
    packaged = demo_model(text)
    if packaged is not None:
        return replace(parse_model_name(model_name(packaged)), text=text)
    if text.startswith(OPEN_CLIP):
        return _parse_open_clip(text)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return ModelName(text, ModelSource.DIRECTORY, str(path))
    if text and path.is_file():
        raise ModelError(
            f"model {text!r} is a file", expected="a directory", remedy=f"try {str(path.parent)!r}"
        )
    match = _HUB_ID.fullmatch(text)
    looks_local = text.startswith((".", "/", "~")) or "\\" in text
    if match is None or looks_local:
        raise _no_such_model(text, path, looks_local or text.count("/") > 1)
    return ModelName(text, ModelSource.HUB, match["id"], match["revision"])


def _no_such_model(text: str, path: Path, local: bool) -> ModelError:
    if not local:
        return ModelError(f"model name {text!r}", expected=ACCEPTED)
    remedy = "check the path"
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
        if near:
            remedy = f"did you mean {str(path.parent / near[0])!r}?"
    return ModelError(f"model directory {text!r} does not exist", expected=ACCEPTED, remedy=remedy)


def _parse_open_clip(text: str) -> ModelName:
    rest = text[len(OPEN_CLIP) :]
    if not rest:
        raise ModelError(
            f"model name {text!r} has no architecture",
            expected="open_clip:ARCH[/PRETRAINED or file]",
        )
    if Path(rest).expanduser().is_dir():
        return ModelName(text, ModelSource.OPEN_CLIP, str(Path(rest).expanduser()))
    if rest.startswith("hf-hub:"):
        repository, _, revision = rest.partition("@")
        return ModelName(text, ModelSource.OPEN_CLIP, repository, revision or None)
    match = _CONFIG_FILE.fullmatch(rest)
    if match is not None and Path(match["config"]).is_file():
        return ModelName(text, ModelSource.OPEN_CLIP, match["config"], weights=match["weights"])
    architecture, _, weights = rest.partition("/")
    if not architecture:
        raise _no_such_model(text, Path(rest), local=True)
    return ModelName(text, ModelSource.OPEN_CLIP, architecture, weights=weights or None)
