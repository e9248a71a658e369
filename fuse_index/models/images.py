"""Images from files, for the image towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from fuse_index.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ImageLike: TypeAlias = Union["Image", str, Path]
Images: TypeAlias = Union[ImageLike, Sequence[ImageLike], "Tensor"]


def open_image(path: str | Path) -> Image:
    """Read an image file as RGB.

    Raises:
        ImageError: the file does not exist, is not an image, or is damaged.
    """
    import PIL.Image  # noqa: PLC0415

    try:
        with PIL.Image.open(path) as image:
            converted: Image = image.convert("RGB")
            return converted
    except FileNotFoundError:
        raise ImageError(
            f"image {str(path)!r} does not exist", expected="an image file", remedy="check the path"
        ) from None
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(
            f"{str(path)!r} cannot be read as an image ({error})",
            expected="an image file such as PNG or JPEG",
        ) from error


def as_images(images: Any) -> list[Image]:
    """Turn one image or several, opened or named by path, into a list of RGB images.

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
            opened.append(image.convert("RGB"))
        else:
            raise ImageError(
                f"an image of type {type(image).__name__}",
                expected="PIL images, paths, or one tensor of preprocessed pixels (b, 3, h, w)",
            )
    if not opened:
        raise ImageError("0 images", expected="at least one")
    return opened
