"""Predictions in COCO's JSON format, paired with references and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import StrictInt
from pydantic.dataclasses import dataclass as checked

from fuse_index.errors import CorpusError, ImageError
from fuse_index.evaluate.references import ImageId, References
from fuse_index.evaluate.structure import CaptionText, Tell, Text, load, validate

_LOGGER = logging.getLogger(__name__)
_RESULTS = 'a COCO results file: [{"image_id": 1, "caption": "..."}, ...]'


@checked(frozen=True)
class _Prediction:
    image_id: StrictInt | Text
    caption: CaptionText


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


def read_predictions(path: str | Path, *, tell: Tell = _LOGGER.warning) -> dict[ImageId, str]:
    """Read a COCO results file: one caption an image, the first of one that has several.

    Args:
        path: the file.
        tell: called with one line on captions that are left out.

    Raises:
        CorpusError: it cannot be read, is not of that structure, or has a caption that is blank.
    """
    path = Path(path)
    found: dict[ImageId, str] = {}
    again: list[str] = []
    rows = validate(list[_Prediction], load(path, _RESULTS, tell), path, _RESULTS)
    for index, row in enumerate(rows):
        if row.image_id in found:
            again.append(f"entry {index} is a second caption of image {row.image_id!r}")
        else:
            found[row.image_id] = row.caption
    if not found:
        raise CorpusError(f"{path} has no predictions", expected=_RESULTS)
    if again:
        tell(f"{path}: {again[0]}; the first of each image counts, left out: {len(again)}")
    return found


def pair(
    predictions: Mapping[ImageId, str],
    references: References,
    *,
    predicted_only: bool = False,
    tell: Tell = _LOGGER.warning,
) -> CaptionPairs:
    """Put predictions and references together, in the order of the references.

    Args:
        predictions: by image.
        references: of the same images.
        predicted_only: leave images without a prediction out; otherwise they are an error.
        tell: called with one line on images without references, which are left out.

    Raises:
        CorpusError: an image has no prediction, or no prediction has a reference.
    """
    unknown = [image for image in predictions if image not in references.captions]
    if unknown and len(unknown) == len(predictions):
        raise CorpusError(
            f"{_some(unknown)} not in {references.path}",
            expected="predictions for its images",
            remedy=_remedy(unknown, references),
        )
    if unknown:
        reasons = "; ".join(filter(None, ["left out", _remedy(unknown, references)]))
        tell(f"{_some(unknown)} not in {references.path}: {reasons}")
    bare = [image for image, texts in references.captions.items() if not texts]
    if bare:
        tell(
            f"{references.path}: left out, image without a caption: {len(bare)} "
            f"(first: {bare[0]!r})"
        )
    known = {image: texts for image, texts in references.captions.items() if texts}
    missing = [image for image in known if image not in predictions]
    if missing and not predicted_only:
        raise CorpusError(
            f"no prediction for {len(missing)} of {len(known)} images of "
            f"{references.path} (first: {missing[0]!r})",
            expected="one prediction for every image",
            remedy="score the predicted ones alone with --predicted-only",
        )
    ids = [image for image in known if image in predictions]
    if not ids:
        raise CorpusError(
            f"no predicted image has a caption in {references.path}",
            expected="at least one reference for an image that is predicted",
        )
    return CaptionPairs(ids, [predictions[image] for image in ids], [known[i] for i in ids])


def image_paths(
    folder: str | Path,
    references: References,
    ids: Sequence[ImageId],
    *,
    tell: Tell = _LOGGER.warning,
) -> list[Path | None]:
    """Find the pictures of images by their file names.

    Args:
        folder: of the pictures; names with a folder of their own are also looked for without it.
        references: with the names.
        ids: of the images.
        tell: called with one line on images that have no picture.

    Returns:
        The path of each; None for one without a picture.

    Raises:
        ImageError: a name leaves the folder, or no image has a picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{str(folder)!r} is not a folder", expected="the folder of the pictures")
    found = [_picture(folder, references, image) for image in ids]
    missing = [
        f"{references.path}: image {image!r} has no file_name"
        if image not in references.files
        else f"{str(folder / references.files[image])!r} of image {image!r} does not exist"
        for image, path in zip(ids, found, strict=True)
        if path is None
    ]
    if len(missing) == len(found):
        raise ImageError(missing[0], expected="pictures of the images in the folder")
    if missing:
        tell(f"{missing[0]}; images without a picture: {len(missing)}")
    return found


def _picture(folder: Path, references: References, image: ImageId) -> Path | None:
    name = references.files.get(image)
    if name is None:
        return None
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ImageError(
            f"{references.path}: file_name {name!r} of image {image!r}",
            expected="a name inside the folder of pictures",
        )
    places = (folder / name, folder / Path(name).name)
    return next((path for path in places if path.is_file()), None)


def _some(images: Sequence[ImageId]) -> str:
    if len(images) == 1:
        return f"predicted image {images[0]!r} is"
    return f"{len(images)} predicted images (first: {images[0]!r}) are"


def _remedy(unknown: Sequence[ImageId], references: References) -> str:
    """Say so where ids differ only in being text or numbers, or a split was chosen."""
    if str(unknown[0]) in {str(image) for image in references.captions}:
        kinds = ("text", "numbers") if isinstance(unknown[0], str) else ("numbers", "text")
        return f"ids are {kinds[0]} in the predictions and {kinds[1]} in the references"
    if references.split is not None:
        return f"its split {references.split!r} was taken: name another with --split"
    return ""
