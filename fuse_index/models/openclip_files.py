"""Where the configuration and the weights of an open_clip model are."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse_index.common.folders import visible_files
from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import loading, no_safetensors
from fuse_index.models.naming import ModelName

HUB_PREFIX = "hf-hub:"
_CONFIG = "open_clip_config.json"
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
_HUB_FILES = ["*.json", "*.txt", "*.model", *_WEIGHTS]


@dataclass(frozen=True)
class OpenClipFiles:
    """What open_clip needs to build a model.

    Attributes:
        architecture: the name ``open_clip.create_model`` takes, ``local-dir:`` included.
        weights: a safetensors file, or None for random weights.
        preprocess: changes to the image preprocessing that the weights were trained with.
        quick_gelu: whether the weights were trained with QuickGELU.
        revision: commit of the Hub repository, else "".
    """

    architecture: str
    weights: Path | None
    preprocess: dict[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False
    revision: str = ""


def find_files(name: ModelName, *, allow_random: bool, local_files_only: bool) -> OpenClipFiles:
    """Find the files of an open_clip model; weights are safetensors or nothing.

    Args:
        name: a parsed ``open_clip:`` name.
        allow_random: whether an architecture without weights is meant.
        local_files_only: never ask the Hub.

    Raises:
        ModelError: the architecture, tag or file does not exist, the weights are pickled, or there
            are none.
    """
    location = name.location
    if location.startswith(HUB_PREFIX):
        return _hub_repository(name, local_files_only)
    if Path(location).is_dir():
        return _directory(name, Path(location))
    architecture = _register(Path(location)) if location.endswith(".json") else location
    _check_architecture(name, architecture)
    if name.weights is None:
        if allow_random:
            return OpenClipFiles(architecture, None)
        raise ModelError(
            f"{name.text}: an architecture without weights, which would be random",
            expected=f"{name.text}/PRETRAINED or {name.text}/FILE.safetensors",
            remedy=_tags_hint(architecture) + " (allow_random=True builds it all the same)",
        )
    import open_clip  # noqa: PLC0415

    tag = open_clip.get_pretrained_cfg(architecture, name.weights)
    if tag:
        return _tagged(name, architecture, tag, local_files_only)
    return OpenClipFiles(architecture, _weights_file(name, architecture))


def _weights_file(name: ModelName, architecture: str) -> Path:
    path = Path(str(name.weights)).expanduser()
    if not path.is_file():
        raise ModelError(
            f"{name.text}: {name.weights!r} is neither a pretrained tag nor a file",
            expected="a tag of open_clip or a *.safetensors file",
            remedy=_tags_hint(architecture),
        )
    if path.suffix != ".safetensors":
        raise no_safetensors(name.text, [path.name])
    return path


def _directory(name: ModelName, folder: Path) -> OpenClipFiles:
    if not (folder / _CONFIG).is_file():
        raise ModelError(
            f"{name.text}: no {_CONFIG} in the directory",
            expected="an open_clip model as open_clip.push_to_hf_hub saves it",
            remedy="for a transformers checkpoint leave 'open_clip:' out"
            if (folder / "config.json").is_file()
            else "save the configuration next to the weights",
        )
    try:
        json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{name.text}: {_CONFIG} is not an open_clip configuration ({error!r})",
            expected="a JSON object with model_cfg, and text_cfg in it",
        ) from error
    found = [folder / file for file in _WEIGHTS if (folder / file).is_file()]
    found = found or visible_files(folder, "*.safetensors")
    if not found:
        pickles = sorted([*visible_files(folder, "*.bin"), *visible_files(folder, "*.pt")])
        raise no_safetensors(name.text, [path.name for path in pickles])
    return OpenClipFiles(f"local-dir:{folder}", found[0])


def _hub_repository(name: ModelName, local_files_only: bool) -> OpenClipFiles:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    with loading("files", name.text):
        folder = Path(
            snapshot_download(
                name.location[len(HUB_PREFIX) :],
                revision=name.revision,
                allow_patterns=_HUB_FILES,
                local_files_only=local_files_only,
            )
        )
    files = _directory(name, folder)
    return OpenClipFiles(files.architecture, files.weights, revision=folder.name)


def _tagged(
    name: ModelName, architecture: str, tag: dict[str, Any], local_files_only: bool
) -> OpenClipFiles:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError  # noqa: PLC0415

    repository, filename = os.path.split(tag.get("hf_hub", ""))
    if not repository:
        raise no_safetensors(name.text, [os.path.basename(tag.get("url", "weights.pt"))])
    stem = filename.rpartition(".")[0]
    candidates = [f"{stem}.safetensors"] if stem else list(_WEIGHTS)
    path = None
    with loading("weights", name.text):
        for candidate in candidates:
            try:
                path = Path(
                    hf_hub_download(repository, candidate, local_files_only=local_files_only)
                )
                break
            except LocalEntryNotFoundError as error:
                raise OSError(f"local_files_only: {error}") from error
            except EntryNotFoundError:
                continue
    if path is None:
        raise no_safetensors(name.text, [filename or "open_clip_pytorch_model.bin"])
    preprocess: dict[str, Any] = {
        key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag
    }
    return OpenClipFiles(
        architecture, path, preprocess, bool(tag.get("quick_gelu")), revision=path.parent.name
    )


def _check_architecture(name: ModelName, architecture: str) -> None:
    import difflib  # noqa: PLC0415

    import open_clip  # noqa: PLC0415

    known = open_clip.list_models()
    if architecture in known:
        return
    near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
    raise ModelError(
        f"{name.text}: open_clip has no architecture {architecture!r}",
        expected=f"one of its {len(known)} architectures, a configuration file or a directory",
        remedy=f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()",
    )


def _register(path: Path) -> str:
    """Make a configuration file known to open_clip under a new name."""
    import open_clip  # noqa: PLC0415

    content = path.read_bytes()
    name = f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}"
    if name in open_clip.list_models():
        return name
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{name}.json"
        copy.write_bytes(content)
        try:
            open_clip.add_model_config(copy)
        except ValueError as error:
            raise ModelError(
                f"{path} is not JSON ({error})", expected="an open_clip configuration"
            ) from error
    if name not in open_clip.list_models():
        raise ModelError(
            f"{path} is not an open_clip configuration",
            expected="a JSON object with embed_dim, vision_cfg and text_cfg",
        )
    return name


def _tags_hint(architecture: str) -> str:
    import open_clip  # noqa: PLC0415

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tags:
        return "open_clip has no weights for it"
    more = f" and {len(tags) - 6} more" if len(tags) > 6 else ""
    return f"its tags are {', '.join(tags[:6])}{more}"
