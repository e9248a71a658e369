"""Captions in COCO's JSON formats: results and annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse_index.errors import CorpusError, ImageError

ImageId = int | str
_RESULTS = 'a COCO results file: [{"image_id": 1, "caption": "..."}, ...]'
_ANNOTATIONS = (
    'a COCO annotations file: {"images": [{"id": 1}, ...], '
    '"annotations": [{"image_id": 1, "caption": "..."}, ...]}'
)


@dataclass(frozen=True)
class References:
    """A COCO annotations file.

    Attributes:
        path: where it was read.
        captions: of every image, in the order of the file.
        files: file name of every image that has one.
    """

    path: Path
    captions: dict[ImageId, list[str]]
    files: dict[ImageId, str]


@dataclass(frozen=True)
class CaptionPairs:
    """Predictions with their references, item by item.

    Attributes:
        ids: of the images, in the order of the references.
        candidates: the predicted caption of each.
        references: the reference captions of each.
    """

    ids: list[ImageId]
    candidates: list[str]
    references: list[list[str]]


def read_predictions(path: str | Path) -> dict[ImageId, str]:
    """Read a COCO results file: one caption an image.

    Raises:
        CorpusError: it cannot be read, is not of that structure, or has an image twice or a caption
            that is blank.
    """
    path = Path(path)
    rows = _list(_load(path, _RESULTS), path, _RESULTS)
    found: dict[ImageId, str] = {}
    for index, row in enumerate(rows):
        where = f"{path}: entry {index}"
        image = _id(row, "image_id", where, _RESULTS)
        if image in found:
            raise CorpusError(
                f"{where} is a second caption of image {image!r}",
                expected="one prediction an image",
                remedy="keep one of them",
            )
        found[image] = _caption(row, where, _RESULTS)
    if not found:
        raise CorpusError(f"{path} has no predictions", expected=_RESULTS)
    return found


def read_references(path: str | Path) -> References:
    """Read a COCO annotations file: several captions an image.

    Raises:
        CorpusError: it cannot be read, is not of that structure, has an image twice, a caption that
            is blank, or one of an image that is not listed.
    """
    path = Path(path)
    data = _load(path, _ANNOTATIONS)
    if not isinstance(data, dict):
        raise CorpusError(
            f"{path} holds a JSON {_kind(data)}",
            expected=_ANNOTATIONS,
            remedy="predictions come first, references second" if isinstance(data, list) else "",
        )
    files = _images(data, path)
    captions: dict[ImageId, list[str]] = {image: [] for image in files}
    for index, row in enumerate(_list(data.get("annotations"), path, _ANNOTATIONS, "annotations")):
        where = f"{path}: annotation {index}"
        image = _id(row, "image_id", where, _ANNOTATIONS)
        if image not in captions:
            raise CorpusError(
                f"{where} is of image {image!r}, which is not among its images",
                expected="annotations of the file's own images",
            )
        captions[image].append(_caption(row, where, _ANNOTATIONS))
    named = {image: name for image, name in files.items() if name is not None}
    return References(path, captions, named)


def _images(data: Mapping[str, Any], path: Path) -> dict[ImageId, str | None]:
    """Ids of the images, with their file names where given."""
    found: dict[ImageId, str | None] = {}
    for index, row in enumerate(_list(data.get("images"), path, _ANNOTATIONS, "images")):
        where = f"{path}: image {index}"
        image = _id(row, "id", where, _ANNOTATIONS)
        if image in found:
            raise CorpusError(f"{where} has id {image!r} a second time", expected="distinct ids")
        name = row.get("file_name")
        if name is not None and not isinstance(name, str):
            raise CorpusError(f"{where} has file_name {_short(name)}", expected="text")
        found[image] = name
    if not found:
        raise CorpusError(f"{path} has no images", expected=_ANNOTATIONS)
    return found


def pair(
    predictions: Mapping[ImageId, str], references: References, *, predicted_only: bool = False
) -> CaptionPairs:
    """Put predictions and references together.

    Args:
        predictions: by image.
        references: of the same images.
        predicted_only: leave images without a prediction out; otherwise they are an error.

    Raises:
        CorpusError: a prediction is of an unknown image, an image has no prediction or no
            reference.
    """
    unknown = [image for image in predictions if image not in references.captions]
    if unknown:
        raise CorpusError(
            f"{_some(unknown)} not in {references.path}",
            expected="predictions for its images",
            remedy=_other_type(unknown, references.captions),
        )
    missing = [image for image in references.captions if image not in predictions]
    if missing and not predicted_only:
        raise CorpusError(
            f"no prediction for {len(missing)} of {len(references.captions)} images of "
            f"{references.path} (first: {missing[0]!r})",
            expected="one prediction for every image",
            remedy="score the predicted ones alone with --predicted-only",
        )
    ids = [image for image in references.captions if image in predictions]
    bare = [image for image in ids if not references.captions[image]]
    if bare:
        raise CorpusError(
            f"{references.path}: image {bare[0]!r} has no caption",
            expected="at least one reference for every image",
        )
    return CaptionPairs(
        ids, [predictions[image] for image in ids], [references.captions[image] for image in ids]
    )


def image_paths(folder: str | Path, references: References, ids: Sequence[ImageId]) -> list[Path]:
    """Find the pictures of images by their file names.

    Raises:
        ImageError: an image has no file name, one that leaves the folder, or none in the folder.
    """
    folder, found = Path(folder), []
    if not folder.is_dir():
        raise ImageError(f"{str(folder)!r} is not a folder", expected="the folder of the pictures")
    for image in ids:
        name = references.files.get(image)
        if name is None:
            raise ImageError(
                f"{references.path}: image {image!r} has no file_name",
                expected="the name of its file in the folder of pictures",
            )
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ImageError(
                f"{references.path}: file_name {name!r} of image {image!r}",
                expected="a name inside the folder of pictures",
            )
        path = folder / name
        if not path.is_file():
            raise ImageError(
                f"{str(path)!r} of image {image!r} does not exist",
                expected="a picture of every image that is scored",
            )
        found.append(path)
    return found


# -- JSON -------------------------------------------------------------------------------------


def _load(path: Path, expected: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror or error})", expected=expected
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CorpusError(f"{path} is not JSON ({reason})", expected=expected) from error


def _list(value: Any, path: Path, expected: str, key: str = "") -> list[dict[str, Any]]:
    """Return a list of objects, or say what else it is."""
    what = f"{path}: {key!r}" if key else str(path)
    if not isinstance(value, list):
        given = (
            f"{what} is missing" if value is None and key else f"{what} holds a JSON {_kind(value)}"
        )
        swapped = not key and isinstance(value, dict) and "annotations" in value
        raise CorpusError(
            given,
            expected=expected,
            remedy="predictions come first, references second" if swapped else "",
        )
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise CorpusError(f"{what}: entry {index} is a JSON {_kind(row)}", expected=expected)
    return value


def _id(row: Mapping[str, Any], key: str, where: str, expected: str) -> ImageId:
    if key not in row:
        raise CorpusError(f"{where} has no {key!r}", expected=expected)
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise CorpusError(f"{where} has {key} {_short(value)}", expected="a whole number or text")
    if isinstance(value, str):
        _require_unicode(value, where, key)
    return value


def _caption(row: Mapping[str, Any], where: str, expected: str) -> str:
    value = row.get("caption")
    if not isinstance(value, str):
        given = f"caption {_short(value)}" if "caption" in row else "no 'caption'"
        raise CorpusError(f"{where} has {given}", expected=expected)
    if not value.strip():
        raise CorpusError(f"{where} has an empty caption", expected="a caption with words")
    _require_unicode(value, where, "caption")
    return value


def _require_unicode(text: str, where: str, key: str) -> None:
    """Refuse what JSON can spell and no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(
            f"{where} has a lone surrogate in its {key}", expected="valid Unicode text"
        ) from None


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _some(images: Sequence[ImageId]) -> str:
    if len(images) == 1:
        return f"predicted image {images[0]!r} is"
    return f"{len(images)} predicted images (first: {images[0]!r}) are"


def _other_type(unknown: Sequence[ImageId], known: Mapping[ImageId, object]) -> str:
    """Say so where ids differ only in being text or numbers."""
    if str(unknown[0]) in {str(image) for image in known}:
        kinds = ("text", "numbers") if isinstance(unknown[0], str) else ("numbers", "text")
        return f"ids are {kinds[0]} in the predictions and {kinds[1]} in the references"
    return ""
