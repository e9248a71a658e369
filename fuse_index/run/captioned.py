"""Captions of images: what was found, and what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuse_index.bundle.jsontext import plain
from fuse_index.errors import FuseIndexError
from fuse_index.optimize import Result


@dataclass(frozen=True)
class Caption:
    """The caption of one image.

    Attributes:
        image: its path.
        result: how the caption was found.
    """

    image: str
    result: Result

    @property
    def text(self) -> str:
        """The caption."""
        return self.result.text.strip()

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """Return the caption as a JSON object.

        Args:
            full: whether the whole result goes with it.
        """
        result = self.result
        short = {
            "image": self.image,
            "caption": self.text,
            "total": result.total,
            "losses": result.losses,
            "stop": result.stop.value,
            "spent": result.spent,
            "chosen": result.chosen,
        }
        found: dict[str, Any] = plain(short | ({"result": result.to_json()} if full else {}))
        return found


@dataclass(frozen=True)
class FailedImage:
    """An image whose caption failed.

    Attributes:
        image: its path.
        error: why.
    """

    image: str
    error: FuseIndexError

    @property
    def message(self) -> str:
        """One line, with the image."""
        text = str(self.error)
        return text if self.image in text else f"{self.image}: {text}"


@dataclass(frozen=True)
class Captions:
    """Captions of several images.

    Attributes:
        items: one an image, in the order of the images; those that are done, and the best so far
            of those that failed in the middle.
        failed: images that failed; they stop no other.
        seconds: wall time of all.
    """

    items: tuple[Caption, ...]
    failed: tuple[FailedImage, ...] = ()
    seconds: float = 0.0

    @property
    def rates(self) -> dict[str, float]:
        """Images and forward passes a second."""
        seconds = max(self.seconds, 1e-9)
        passes = sum(item.result.spent["forward_passes"] for item in self.items)
        return {
            "seconds": self.seconds,
            "images_per_second": len(self.items) / seconds,
            "passes_per_second": passes / seconds,
        }

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """Return the captions as a JSON object; arguments are those of one."""
        return {
            "captions": [item.to_json(full=full) for item in self.items],
            "failed": [
                {"image": item.image, "error": type(item.error).__name__, "message": item.message}
                for item in self.failed
            ],
            "throughput": plain(self.rates),
        }
