"""Reference captions in the layouts in which data sets come: COCO, split files, JSON, Flickr."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import StrictInt
from pydantic.dataclasses import dataclass as checked

from fuse_index.errors import CorpusError, OptionError
from fuse_index.evaluate.flickr import EXPECTED, read_lines
from fuse_index.evaluate.structure import (
    CaptionText,
    Omissions,
    Tell,
    Text,
    kind_of,
    load,
    validate,
)

ImageId = int | str
_LOGGER = logging.getLogger(__name__)
_ANNOTATIONS = (
    'a COCO annotations file: {"images": [{"id": 1}, ...], '
    '"annotations": [{"image_id": 1, "caption": "..."}, ...]}'
)
_SPLITS = (
    'a split file: {"images": [{"filename": "1.jpg", "split": "test", '
    '"sentences": [{"raw": "..."}, ...]}, ...]}'
)
_PLAIN = 'captions by file name: {"1.jpg": ["...", ...], ...}'
_TEXT_SUFFIXES = (".txt", ".token", ".tsv", ".csv")
_ALL = "all"
_COCO_NAME = re.compile(r"COCO_[a-z]+\d{4}_0*(\d+)\.\w+")


class Polarity(str, Enum):
    """The sentiment of a reference caption, as SentiCap states it."""

    NEGATIVE = "negative"
    """0 in the file."""
    POSITIVE = "positive"
    """1 in the file."""


@dataclass(frozen=True)
class References:
    """Reference captions of images.

    Attributes:
        path: where they were read.
        captions: of every image, in the order of the file.
        files: file name of every image that has one.
        split: of the images, where the file has splits and one was taken.
    """

    path: Path
    captions: dict[ImageId, list[str]]
    files: dict[ImageId, str]
    split: str | None = None


@checked(frozen=True)
class _Caption:
    image_id: StrictInt | Text
    caption: CaptionText


@checked(frozen=True)
class _Image:
    id: StrictInt | Text
    file_name: Text | None = None


@checked(frozen=True)
class _Annotations:
    images: list[_Image]
    annotations: list[_Caption]


@checked(frozen=True)
class _Sentence:
    raw: Text | None = None
    tokens: Any = None  # millions of them, needed where there is no other text
    sentiment: StrictInt | Text | None = None


@checked(frozen=True)
class _SplitImage:
    sentences: list[_Sentence]
    filename: Text
    filepath: Text | None = None
    split: Text | None = None
    cocoid: StrictInt | None = None
    imgid: StrictInt | None = None


@checked(frozen=True)
class _SplitFile:
    images: list[_SplitImage]


def read_references(
    path: str | Path,
    *,
    split: str | None = None,
    sentiment: Polarity | None = None,
    tell: Tell = _LOGGER.warning,
) -> References:
    """Read reference captions; the layout is found by the content.

    COCO's annotations; the split files of Karpathy and Fei-Fei (2015) for COCO and Flickr; those of
    SentiCap (Mathews et al. 2016), whose sentences have a sentiment; a JSON object of captions by
    file name; Flickr's lines, tables of images and captions.

    Args:
        path: a JSON file, or one of text (``.txt``, ``.token``, ``.tsv``, ``.csv``).
        split: of a file with splits; by default ``test``, and ``all`` takes every one.
        sentiment: take sentences of this sentiment only.
        tell: called with one line on every kind of entry that is left out.

    Raises:
        CorpusError: it cannot be read, is of no such layout, or holds no image.
        OptionError: a split or a sentiment is asked of a file that states none.
    """
    path = Path(path)
    if path.suffix.lower() in _TEXT_SUFFIXES:
        _require_none(path, split, sentiment)
        return _by_name(path, read_lines(path, tell))
    value = load(path, _ANNOTATIONS, tell)
    if _has_splits(value):
        return _split_file(path, value, split, sentiment, tell)
    _require_none(path, split, sentiment)
    if isinstance(value, dict) and value and not {"images", "annotations"} & set(value):
        return _by_name(path, _plain(path, value))
    return _coco(path, value, tell)


def _require_none(path: Path, split: str | None, sentiment: Polarity | None) -> None:
    for what, given in (("split", split), ("sentiment", sentiment)):
        if given is not None and given != _ALL:
            raise OptionError(
                f"{what} {str(getattr(given, 'value', given))!r} of {path}, which states none",
                expected=_SPLITS,
                remedy=f"leave the {what} out",
            )


def _coco(path: Path, value: Any, tell: Tell) -> References:
    data = validate(_Annotations, value, path, _ANNOTATIONS)
    left_out = Omissions(path, tell)
    captions: dict[ImageId, list[str]] = {}
    files: dict[ImageId, str] = {}
    for index, image in enumerate(data.images):
        if image.id in captions:
            left_out.add("image listed a second time", f"image {index}, id {image.id!r}")
            continue
        captions[image.id] = []
        if image.file_name is not None:
            files[image.id] = image.file_name
    if not captions:
        raise CorpusError(f"{path} has no images", expected=_ANNOTATIONS)
    for index, row in enumerate(data.annotations):
        if row.image_id in captions:
            captions[row.image_id].append(row.caption)
        else:
            left_out.add(
                "annotation of an image that is not listed",
                f"annotation {index}, image {row.image_id!r}",
            )
    left_out.say()
    return References(path, captions, files)


def _has_splits(value: Any) -> bool:
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or "annotations" in value:
        return False
    return any(isinstance(image, dict) and "sentences" in image for image in images)


def _split_file(
    path: Path, value: Any, split: str | None, sentiment: Polarity | None, tell: Tell
) -> References:
    data = validate(_SplitFile, value, path, _SPLITS)
    names = {image.split for image in data.images if image.split is not None}
    wanted = _wanted_split(path, names, split)
    left_out = Omissions(path, tell)
    captions: dict[ImageId, list[str]] = {}
    files: dict[ImageId, str] = {}
    for index, image in enumerate(data.images):
        if wanted is not None and image.split != wanted:
            continue
        key = _split_id(image)
        if key in captions:
            left_out.add("image listed a second time", f"image {index}, id {key!r}")
            continue
        own = [
            item
            for item in image.sentences
            if sentiment is None or _polarity(item, path) is sentiment
        ]
        if sentiment is not None and not own:
            continue
        texts = [item.raw or _joined(item.tokens) for item in own]
        captions[key] = [text for text in texts if text.strip()]
        blank = len(texts) - len(captions[key])
        if blank:
            left_out.add("sentence without a word", f"image {index}, id {key!r}", blank)
        files[key] = image.filename if not image.filepath else f"{image.filepath}/{image.filename}"
    if not captions:
        kind = "" if sentiment is None else f" with {sentiment.value} sentences"
        raise CorpusError(f"{path} has no images{kind} in split {wanted!r}", expected=_SPLITS)
    left_out.say()
    return References(path, captions, files, wanted)


def _joined(tokens: Any) -> str:
    """The text of a sentence that has tokens alone; nothing where they are none."""
    words = tokens if isinstance(tokens, list) else []
    text = " ".join(word for word in words if isinstance(word, str))
    return text if _is_unicode(text) else ""


def _wanted_split(path: Path, names: set[str], split: str | None) -> str | None:
    if split == _ALL or (split is None and not names):
        return None
    wanted = split or "test"
    if wanted not in names:
        raise OptionError(
            f"split {wanted!r} of {path}",
            expected="one of " + ", ".join([*sorted(names), _ALL]),
            remedy="" if split else "name the split",
        )
    return wanted


def _split_id(image: _SplitImage) -> ImageId:
    """COCO's id where there is one, so that results of other programs fit."""
    if image.cocoid is not None:
        return image.cocoid
    named = _COCO_NAME.fullmatch(image.filename)
    if named is not None:
        return int(named[1])
    return image.filename if image.imgid is None else image.imgid


def _polarity(sentence: _Sentence, path: Path) -> Polarity:
    order = (Polarity.NEGATIVE, Polarity.POSITIVE)
    stated = sentence.sentiment
    if isinstance(stated, int) and stated in (0, 1):
        return order[stated]
    if stated in {item.value for item in order}:
        return Polarity(stated)
    raise CorpusError(
        f"{path}: a sentence with sentiment {stated!r}", expected="0 or 1, negative or positive"
    )


def _plain(path: Path, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, own in value.items():
        texts = [own] if isinstance(own, str) else own
        if not isinstance(texts, list):
            raise CorpusError(f"{path}: {name!r} holds a JSON {kind_of(own)}", expected=_PLAIN)
        for text in texts:
            if not isinstance(text, str) or not text.strip() or not _is_unicode(name + text):
                raise CorpusError(f"{path}: {name!r} has caption {text!r}"[:300], expected=_PLAIN)
            yield name, text


def _is_unicode(text: str) -> bool:
    """Whether a file can hold the text: JSON can spell what none can."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _by_name(path: Path, rows: Iterator[tuple[str, str]]) -> References:
    captions: dict[ImageId, list[str]] = {}
    for name, text in rows:
        captions.setdefault(name, []).append(text)
    if not captions:
        raise CorpusError(f"{path} has no captions", expected=EXPECTED)
    return References(path, captions, {key: str(key) for key in captions})
