"""Captions in COCO's JSON formats: results and annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from pydantic_core import PydanticCustomError

from fuse_index.errors import CorpusError, ImageError

ImageId = int | str
_RESULTS = 'a COCO results file: [{"image_id": 1, "caption": "..."}, ...]'
_ANNOTATIONS = (
    'a COCO annotations file: {"images": [{"id": 1}, ...], '
    '"annotations": [{"image_id": 1, "caption": "..."}, ...]}'
)
_ROWS = {"": "entry", "images": "image", "annotations": "annotation"}
"""What a row is called, by the list that it is in."""
_T = TypeVar("_T")


def _with_words(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    return text


def _unicode(text: str) -> str:
    """Refuse what JSON can spell and no file can hold."""
    text.encode()
    return text


_Text = Annotated[StrictStr, AfterValidator(_unicode)]


@checked(frozen=True)
class _Caption:
    image_id: StrictInt | _Text
    caption: Annotated[_Text, AfterValidator(_with_words)]


@checked(frozen=True)
class _Image:
    id: StrictInt | _Text
    file_name: StrictStr | None = None


@checked(frozen=True)
class _Annotations:
    images: list[_Image]
    annotations: list[_Caption]


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
    found: dict[ImageId, str] = {}
    for index, row in enumerate(_read(list[_Caption], path, _RESULTS)):
        if row.image_id in found:
            raise CorpusError(
                f"{path}: entry {index} is a second caption of image {row.image_id!r}",
                expected="one prediction an image",
                remedy="keep one of them",
            )
        found[row.image_id] = row.caption
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
    data = _read(_Annotations, path, _ANNOTATIONS)
    captions: dict[ImageId, list[str]] = {}
    for index, image in enumerate(data.images):
        if image.id in captions:
            given = f"{path}: image {index} has id {image.id!r} a second time"
            raise CorpusError(given, expected="distinct ids")
        captions[image.id] = []
    if not captions:
        raise CorpusError(f"{path} has no images", expected=_ANNOTATIONS)
    for index, row in enumerate(data.annotations):
        if row.image_id not in captions:
            raise CorpusError(
                f"{path}: annotation {index} is of image {row.image_id!r}, which is not among its "
                "images",
                expected="annotations of the file's own images",
            )
        captions[row.image_id].append(row.caption)
    named = {image.id: image.file_name for image in data.images if image.file_name is not None}
    return References(path, captions, named)


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


def _read(kind: type[_T], path: Path, expected: str) -> _T:
    """Read a JSON file of a certain structure."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        return TypeAdapter(kind).validate_python(value)
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror or error})", expected=expected
        ) from error
    except ValidationError as error:
        raise _structure_error(error, path, expected) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CorpusError(f"{path} is not JSON ({reason})", expected=expected) from error


def _structure_error(error: ValidationError, path: Path, expected: str) -> CorpusError:
    """Say what the file holds where it should hold something else."""
    problem = error.errors(include_url=False)[0]
    location, value = problem["loc"], problem["input"]
    section = str(location[0]) if location and isinstance(location[0], str) else ""
    row = location[1:] if section else location
    what = f"{path}: {section!r}" if section else str(path)
    if not row and section and (problem["type"] == "missing" or value is None):
        return CorpusError(f"{what} is missing", expected=expected)
    if not row:
        swapped = isinstance(value, list) or (isinstance(value, dict) and "annotations" in value)
        remedy = "predictions come first, references second" if swapped and not section else ""
        return CorpusError(f"{what} holds a JSON {_kind(value)}", expected=expected, remedy=remedy)
    if len(row) == 1:
        return CorpusError(f"{what}: entry {row[0]} is a JSON {_kind(value)}", expected=expected)
    where, field = f"{path}: {_ROWS[section]} {row[0]}", row[1]
    if problem["type"] == "missing":
        return CorpusError(f"{where} has no {field!r}", expected=expected)
    if problem["type"] == "blank":
        return CorpusError(f"{where} has an empty caption", expected="a caption with words")
    if isinstance(value, str):
        given = f"{where} has a lone surrogate in its {field}"
        return CorpusError(given, expected="valid Unicode text")
    wanted = {"caption": expected, "file_name": "text"}.get(str(field), "a whole number or text")
    text = json.dumps(value)
    short = text if len(text) <= 40 else text[:37] + "..."
    return CorpusError(f"{where} has {field} {short}", expected=wanted)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


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
