"""Images as they are shown: upright, on white, eight bits a channel; one function opens files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from fuse_index.errors import ImageError
from fuse_index.models.deep_images import deep_to_grey, is_deep

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union["Image", str, Path]
Images: TypeAlias = Union[ImageLike, Sequence[ImageLike], "Tensor"]

BACKGROUND = "white"
"""What is seen through transparent pixels, as in a browser."""
MAX_PIXELS = 178_956_970
"""Pixels an image may have: a small file can hold any number. Pillow refuses more by default."""
MAX_ASPECT = 200
"""Times that one side may be as long as the other: towers scale the shorter side to their size, so
the cost grows with the aspect, not with the file."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "ICO", "ICNS", "SGI", "QOI", "PSD"),
)
"""Formats of Pillow that may be opened, whatever a file is called: none that starts a program (EPS)
or needs one. HEIF is read where a package for it is registered with Pillow."""

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_BAND_PIXELS = 1 << 22
_ORIENTATION = 0x0112
_SAMPLES = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales grey samples of a PNG with fewer than eight bits."""


def open_image(path: str | Path) -> Image:
    """Read an image file as RGB, as a browser shows it.

    The orientation that the file states is applied, transparent pixels show :data:`BACKGROUND`, and
    of an animation the first frame is read. Grey of more than eight bits is scaled.

    Raises:
        ImageError: the file does not exist, is not an image of :data:`FORMATS`, is damaged, larger
            than :data:`MAX_PIXELS`, longer than :data:`MAX_ASPECT` allows, or its values have no
            known range.
    """
    import PIL.Image  # noqa: PLC0415

    name = repr(str(path))
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise ImageError(f"{name} is not a regular file", expected="an image file")
    try:
        with _without_warnings(), PIL.Image.open(path, formats=_formats()) as image:
            _require_bounded(image, name)
            shown = as_shown(image, name)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                _say_first_frame(str(path))
            return shown
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(
            f"image {str(path)!r} does not exist", expected="an image file", remedy="check the path"
        ) from None
    except Exception as error:
        # decoders raise what they like on damaged files; whatever it is, this is no usable image
        raise ImageError(
            f"{name} cannot be read as an image ({error})",
            expected="an image file such as PNG or JPEG",
        ) from error


def as_images(images: Any) -> list[Image]:
    """Turn one image or several, opened or named by path, into a list of RGB images.

    Opened images are treated like files: see :func:`open_image`.

    Raises:
        ImageError: there is none, one cannot be read, or something is no image.
    """
    import PIL.Image  # noqa: PLC0415

    if isinstance(images, (str, Path, PIL.Image.Image)):
        images = [images]
    opened = []
    for image in images:
        if isinstance(image, (str, Path)):
            opened.append(open_image(image))
        elif isinstance(image, PIL.Image.Image):
            _require_bounded(image, "an image")
            opened.append(as_shown(image))
        else:
            raise ImageError(
                f"an image of type {type(image).__name__}",
                expected="PIL images, paths, or one tensor of preprocessed pixels (b, 3, h, w)",
            )
    if not opened:
        raise ImageError("0 images", expected="at least one")
    return opened


def as_shown(image: Image, name: str = "an image") -> Image:
    """Return an opened image as RGB: upright, on :data:`BACKGROUND`, eight bits a channel.

    Args:
        image: of any mode; it stays as it is.
        name: what messages call it.

    Raises:
        ImageError: its values have no known range.
    """
    key = _transparent_sample(image)  # needs what loading forgets
    image.load()
    turn = _turn(image)
    if is_deep(image):
        image = deep_to_grey(image, name, key, BACKGROUND)
    elif image.mode in _ALPHA or key is not None:
        image = _on_background(image, key)
    rgb = image.convert("RGB")
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}  # the orientation and the transparent colour are used up
    return rgb


def _on_background(image: Image, key: Any) -> Image:
    """Composite in bands: all at once takes four times the memory."""
    import PIL.Image  # noqa: PLC0415

    if image.mode == "La":  # Pillow converts it to this only
        image = image.convert("LA")
    width, height = image.size
    rows = max(1, _BAND_PIXELS // max(width, 1))
    shown = PIL.Image.new("RGB", image.size)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        part = image.crop(box)
        if key is not None:
            part.info["transparency"] = key
        band = PIL.Image.new("RGBA", part.size, BACKGROUND)
        band.alpha_composite(part.convert("RGBA"))
        shown.paste(band.convert("RGB"), box)
    return shown


def _transparent_sample(image: Image) -> Any:
    """The colour that stands for transparent, in the image's samples; None if there is none.

    A PNG states it in samples of its own depth, which Pillow does not scale as it does the pixels.
    """
    tile = getattr(image, "tile", None)
    key = image.info.get("transparency")
    if image.format != "PNG" or not tile:
        image.load()  # some formats state it behind the pixels
        return image.info.get("transparency")
    args = tile[0][3]
    raw = args[0] if isinstance(args, tuple) else args
    if isinstance(key, int) and raw in _SAMPLES:
        return min(key * _SAMPLES[raw], 255)
    if isinstance(key, tuple) and raw == "RGB;16B":
        return tuple(sample >> 8 for sample in key)
    return key


def _turn(image: Image) -> Any:
    """The transposition that the stated orientation asks for; None for an upright image."""
    from PIL.Image import Transpose  # noqa: PLC0415

    try:
        stated = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged block of metadata: the image itself is fine
        logger.debug("unreadable EXIF data", exc_info=True)
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(stated) if isinstance(stated, int) else None


def _require_bounded(image: Image, name: str) -> None:
    """Refuse an image by its size, which is known before its pixels are decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels",
            expected=f"at most {MAX_PIXELS:,}",
            remedy="make it smaller",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{name} has {width} x {height} pixels",
            expected=f"one side at most {MAX_ASPECT} times as long as the other",
            remedy="cut it",
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow: sizes are bounded here, and what is read is whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow has."""
    import PIL.Image  # noqa: PLC0415

    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


@cache
def _say_first_frame(path: str) -> None:
    """Say once a file that only one frame is read."""
    logger.warning("%s is an animation or has several pages: the first is read", path)
