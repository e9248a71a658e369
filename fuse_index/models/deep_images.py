"""Grey images of more than eight bits a pixel, scaled to eight.

Pillow cuts their values off at 255 when it converts them, so that 16 bits come out white and floats
from 0 to 1 black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuse_index.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

_BYTE, _WORD = 255, 65535
_DIM_FLOAT = 32.0
"""A float image that exceeds 1 but not this is neither of the range 0 to 1 nor of 0 to 255."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_WORDS_AS_INTEGERS = ("PNG", "PPM")
"""Formats whose 16 bits older versions of Pillow read as 32-bit integers."""


def is_deep(image: Image) -> bool:
    """Whether an image has grey values of more than eight bits."""
    return image.mode.startswith(("I", "F"))


def deep_to_grey(image: Image, name: str, transparent: Any, background: str) -> Image:
    """Scale grey values to eight bits.

    Values of 16 bits are scaled by 65,535. Wider types only hold a range: integers 0 to 255 or 0 to
    65,535, the smaller that has all of them; floats 0 to 1 or 0 to 255.

    Args:
        image: of mode ``I``, ``I;16...`` or ``F``, loaded.
        name: what messages call it.
        transparent: the value that shows the background, or None.
        background: a grey, by name.

    Returns:
        The image in mode ``L``.

    Raises:
        ImageError: the values are in none of these ranges.
    """
    import numpy as np  # noqa: PLC0415
    import PIL.Image  # noqa: PLC0415
    import PIL.ImageColor  # noqa: PLC0415

    values = np.asarray(image)
    top = _top(image, values, name)
    scaled = values.astype(np.float32)
    scaled *= _BYTE / top
    grey = np.rint(scaled, out=scaled).astype(np.uint8)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = _BYTE - grey
    if isinstance(transparent, int):
        grey[values == transparent] = PIL.ImageColor.getcolor(background, "L")
    return PIL.Image.fromarray(grey)


def _top(image: Image, values: Any, name: str) -> float:
    """The value that stands for white."""
    if image.mode.startswith("I;16"):
        bits = _tag(image, _BITS)
        return float((1 << bits) - 1) if bits in range(9, 16) else _WORD
    if not values.size:
        return _BYTE
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if low >= 0 and high <= 1:
            return 1.0
        if low >= 0 and _DIM_FLOAT <= high <= _BYTE:
            return _BYTE
        expected = "0 to 1, or 0 to 255"
    else:
        if image.format in _WORDS_AS_INTEGERS:
            return _WORD
        signed_words = _tag(image, _BITS) == 16
        if low >= 0 and high <= (_BYTE if signed_words else _WORD):
            return _BYTE if high <= _BYTE else _WORD
        expected = "0 to 255" if signed_words else "0 to 255, or 0 to 65535"
    raise ImageError(
        f"{name} has {'float' if image.mode == 'F' else 'integer'} values from {low:g} to {high:g}",
        expected=expected,
        remedy="convert it to 8 or 16 bits",
    )


def _tag(image: Image, number: int) -> Any:
    """A value of a TIFF; None of any other file."""
    tags = getattr(image, "tag_v2", None)
    value = None if tags is None else tags.get(number)
    return value[0] if isinstance(value, tuple) and value else value
