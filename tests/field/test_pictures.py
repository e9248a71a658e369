"""Pictures as people have them look to a model as they look to people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fuse_index.demo import Split, draw, make_scene
from fuse_index.errors import ImageError
from fuse_index.models.clip import ClipModel
from fuse_index.models.images import open_image


def assert_alike(clip: ClipModel, found: Path, expected: PIL.Image.Image) -> None:
    features = [clip.encode_image(image, normalize=True) for image in (found, expected)]
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-5)


def test_a_sixteen_bit_scan_is_not_white(clip: ClipModel, tmp_path: Path) -> None:
    """A grey PNG of 16 bits, as scanners write it: converted as it is, all of it is white.

    https://github.com/python-pillow/Pillow/issues/3011
    """
    grey = draw(make_scene(Split.TEST, 0)).convert("L")
    PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "scan.png")
    assert_alike(clip, tmp_path / "scan.png", grey)


def test_colours_under_transparent_pixels_are_not_seen(clip: ClipModel, tmp_path: Path) -> None:
    """A cut-out with a transparent ground: whatever colour lies under it became the picture.

    https://github.com/google/deepdream/pull/25
    """
    image = draw(make_scene(Split.TEST, 0)).convert("RGBA")
    pixels = np.array(image)
    ground = abs(pixels[..., :3].astype(int) - pixels[0, 0, :3]).sum(-1) < 30
    pixels[ground] = 255
    expected = PIL.Image.fromarray(pixels).convert("RGB")
    pixels[ground] = (255, 0, 0, 0)
    PIL.Image.fromarray(pixels).save(tmp_path / "cut-out.png")
    assert_alike(clip, tmp_path / "cut-out.png", expected)


def test_a_phone_picture_is_upright(clip: ClipModel, tmp_path: Path) -> None:
    """Pixels on their side, and a tag that says so, as phones store pictures.

    https://github.com/mk-minchul/AdaFace/issues/163
    """
    upright = draw(make_scene(Split.TEST, 8)).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "phone.png", exif=exif)
    assert_alike(clip, tmp_path / "phone.png", upright)


def test_a_strip_of_a_million_pixels_is_refused(tmp_path: Path) -> None:
    """A file of a kilobyte whose shorter side, scaled to a tower's, makes the longer one gigantic.

    https://github.com/image-rs/image/issues/3083
    """
    PIL.Image.new("1", (1_000_000, 1)).save(tmp_path / "strip.png")
    with pytest.raises(ImageError, match="1000000 x 1 pixels; expected one side at most 200 times"):
        open_image(tmp_path / "strip.png")


def test_postscript_that_is_called_a_png_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that Pillow would hand to Ghostscript, whatever its name."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("it ran"))
    draw(make_scene(Split.TEST, 0)).convert("RGB").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        open_image(tmp_path / "a.png")
