"""Images of every mode and format are read as they are shown, or refused in one line."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from PIL.Image import Image

from fuse_index.demo import Split, draw, make_scene
from fuse_index.errors import ImageError
from fuse_index.models import Model, images
from fuse_index.models.clip import ClipModel
from fuse_index.models.images import MAX_ASPECT, as_images, open_image
from tests.cases import case
from tests.models import factory

GREY = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
WORDS = GREY.astype(np.uint16) * 257


def scene(number: int = 0) -> Image:
    return draw(make_scene(Split.TEST, number)).convert("RGB")


def pixels(image: Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def png(
    size: tuple[int, int], depth: int, colours: int, row: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG whose rows are all alike, of depths and chunks that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        named = name + data
        return struct.pack(">I", len(data)) + named + struct.pack(">I", zlib.crc32(named))

    head = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * size[1])
    parts = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_grey_of_every_depth_is_the_same_grey(tmp_path: Path) -> None:
    deep = {
        "words.png": WORDS,
        "words.tif": WORDS,
        "big-endian.tif": WORDS.astype(">u2"),
        "words.pgm": WORDS,
        "integers.tif": WORDS.astype(np.int32),
        "small-integers.tif": GREY.astype(np.int32),
        "floats.tif": (WORDS / 65535).astype(np.float32),
        "byte-floats.tif": GREY.astype(np.float32),
    }
    for name, values in deep.items():
        with case(name=name):
            image = PIL.Image.fromarray(values)
            image.save(tmp_path / name)
            expected = np.repeat(GREY[..., None], 3, axis=2)
            assert (pixels(open_image(tmp_path / name)) == expected).all()
            assert (pixels(as_images(image)[0]) == expected).all()


def test_a_deep_tiff_may_count_from_white(tmp_path: Path) -> None:
    PIL.Image.fromarray(WORDS).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHII", 262, 3, 1, 1)
    assert data.count(entry) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(entry, struct.pack("<HHII", 262, 3, 1, 0)))
    assert (pixels(open_image(tmp_path / "a.tif"))[..., 0] == 255 - GREY).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.0, 3.7]], "has float values from 0 to 3.7; expected 0 to 1, or 0 to 255; convert"),
        ([[0.0, 900.0]], "from 0 to 900"),
        ([[-0.5, 1.0]], "from -0.5 to 1"),
        ([[0.0, np.nan]], "from nan to nan"),
        ([[0.0, np.inf]], "from 0 to inf"),
    ],
)
def test_floats_of_no_known_range_are_refused(
    tmp_path: Path, values: list[list[float]], message: str
) -> None:
    image = PIL.Image.fromarray(np.array(values, np.float32))
    image.save(tmp_path / "a.tif")
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "a.tif")
    assert f"{str(tmp_path / 'a.tif')!r} has float values" in str(caught.value)
    assert message in str(caught.value)
    with pytest.raises(ImageError, match="an image has float values"):
        as_images(image)


@pytest.mark.parametrize("values", [[[0, 70_000]], [[-3, 20]]])
def test_integers_of_no_known_range_are_refused(tmp_path: Path, values: list[list[int]]) -> None:
    PIL.Image.fromarray(np.array(values, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(
        ImageError, match=r"has integer values from .*expected 0 to 255, or 0 to 65"
    ):
        open_image(tmp_path / "a.tif")


def test_transparent_pixels_show_white_in_every_mode() -> None:
    rng = np.random.default_rng(0)
    full = PIL.Image.fromarray(rng.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    white = PIL.Image.new("RGBA", full.size, "white")
    expected = pixels(PIL.Image.alpha_composite(white, full).convert("RGB"))
    assert (pixels(as_images(full)[0]) == expected).all()
    for mode in ("LA", "La", "RGBa", "PA"):
        with case(mode=mode):
            by = {"La": "LA", "PA": "P"}.get(mode, mode)
            image = full.convert(by)
            image = image if mode == by else image.convert(mode)
            there = image.convert("LA") if mode == "La" else image
            shown = PIL.Image.alpha_composite(white, there.convert("RGBA")).convert("RGB")
            assert (pixels(as_images(image)[0]) == pixels(shown)).all()


def test_transparent_pixels_show_white_however_large_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = scene().convert("RGBA")
    image.putalpha(PIL.Image.linear_gradient("L").resize(image.size))
    whole = pixels(as_images(image)[0])
    monkeypatch.setattr(images, "_BAND_PIXELS", 3 * image.width)
    assert (pixels(as_images(image)[0]) == whole).all()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif", "ico", "tga", "jp2"])
def test_formats_with_transparency(tmp_path: Path, suffix: str) -> None:
    image = scene().convert("RGBA").resize((48, 48))
    image.putalpha(0)
    image.paste((10, 200, 30, 255), (8, 8, 24, 24))
    options = {"webp": {"lossless": True, "exact": True}}.get(suffix, {})
    image.save(tmp_path / f"a.{suffix}", **options)
    found = pixels(open_image(tmp_path / f"a.{suffix}"))
    assert (found[0, 0] == 255).all()
    assert (found[40, 40] == 255).all()
    assert abs(found[16, 16].astype(int) - (10, 200, 30)).max() <= 3


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png((8, 1), 1, 0, b"\xb0", (b"tRNS", b"\0\0")), [255] * 8),
        (png((4, 1), 2, 0, b"\x1b", (b"tRNS", b"\0\1")), [0, 255, 170, 255]),
        (png((2, 1), 4, 0, b"\x3f", (b"tRNS", b"\0\3")), [255, 255]),
        (png((2, 1), 8, 0, b"\x55\x0f", (b"tRNS", b"\0\x0f")), [85, 255]),
        (png((2, 1), 16, 0, b"\x80\x80\x12\x34", (b"tRNS", b"\x12\x34")), [128, 255]),
        (png((2, 1), 16, 4, b"\x80\x80\0\0\x40\x40\xff\xff"), [255, 64]),
        (png((2, 1), 8, 3, b"\0\1", (b"PLTE", b"\0\0\0\7\7\7"), (b"tRNS", b"\0")), [255, 7]),
        (png((2, 1), 8, 3, b"\0\1", (b"PLTE", b"\0\0\0\7\7\7"), (b"tRNS", b"\xff\0")), [0, 255]),
        (png((1, 1), 8, 3, b"\0", (b"PLTE", b"\0\0\0"), (b"tRNS", b"\x80")), [127]),
        (png((2, 1), 8, 2, b"\1\1\1\2\2\2", (b"tRNS", b"\0\1\0\1\0\1")), [255, 2]),
        (png((2, 1), 16, 2, b"\x12\x34" * 3 + b"\5\5" * 3, (b"tRNS", b"\x12\x34" * 3)), [255, 5]),
    ],
)
def test_transparent_colours_of_png_in_every_depth(
    tmp_path: Path, data: bytes, expected: list[int]
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    found = pixels(open_image(tmp_path / "a.png"))
    assert found[0, :, 0].tolist() == expected
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_is_applied_once(tmp_path: Path, suffix: str) -> None:
    upright = scene().crop((0, 0, 80, 60))
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    path = tmp_path / f"a.{suffix}"
    upright.save(path, **options)
    expected = pixels(open_image(path))
    turns = PIL.Image.Transpose
    back = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    back += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    for number, turn in enumerate(back, 1):
        with case(orientation=number):
            exif = PIL.Image.Exif()
            exif[0x0112] = number
            stored = upright if turn is None else upright.transpose(turn)
            stored.save(path, exif=exif, **options)
            found = open_image(path)
            assert found.size == (80, 60)
            close = 255 if suffix != "jpg" else 40  # a JPEG of turned pixels is not the same one
            difference = abs(pixels(found).astype(int) - expected)
            assert difference.max() == 0 or (close == 40 and difference.mean() < 2)
            with PIL.Image.open(path) as opened:
                assert (pixels(as_images(opened)[0]) == pixels(found)).all()
            assert (pixels(as_images(found)[0]) == pixels(found)).all()  # not turned again


@pytest.mark.parametrize("stated", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_none(tmp_path: Path, stated: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = stated
    scene().save(tmp_path / "a.png", exif=exif)
    assert (pixels(open_image(tmp_path / "a.png")) == pixels(scene())).all()


def test_damaged_metadata_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    for block in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0nothing", b"\xff" * 9):
        with case(block=block):
            scene().save(tmp_path / "a.webp", lossless=True, exif=block)
            assert (pixels(open_image(tmp_path / "a.webp")) == pixels(scene())).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "RGB"])
def test_modes_that_pillow_converts_by_itself(mode: str) -> None:
    image = scene().convert(mode)
    before = image.tobytes()
    assert (pixels(as_images(image)[0]) == pixels(image.convert("RGB"))).all()
    assert image.tobytes() == before


def test_print_colours_are_read_from_files(tmp_path: Path) -> None:
    ink = PIL.Image.new("CMYK", (20, 10), (0, 255, 255, 0))
    for suffix in ("jpg", "tif"):
        ink.save(tmp_path / f"a.{suffix}")
        found = pixels(open_image(tmp_path / f"a.{suffix}"))
        assert abs(found.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_is_read_and_that_is_said_once(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [PIL.Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        for _ in range(2):
            assert (pixels(open_image(path)) == (255, 0, 0)).all()
    assert caplog.messages == [f"{path} is an animation or has several pages: the first is read"]


def test_a_phone_that_stores_several_pictures_in_one_has_no_animation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    scene(0).save(path, "MPO", save_all=True, append_images=[scene(1)], quality=95)
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        assert abs(pixels(open_image(path)).astype(int) - pixels(scene(0))).mean() < 2
    assert not caplog.messages


def read_or_none(path: Path) -> np.ndarray | None:
    """The pixels, or None for a file that is refused in the one way there is."""
    try:
        return pixels(open_image(path))
    except ImageError:
        return None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm", "tga", "jp2"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    scene().resize((24, 24)).save(path)
    data, whole = path.read_bytes(), pixels(open_image(path))
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 60)):
        with case(length=length):
            path.write_bytes(data[:length])
            found = read_or_none(path)
            refused += found is None
            assert found is None or (found == whole).all()
    assert refused > 50


def test_damaged_files_are_refused_or_read_but_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "webp", "gif", "bmp", "tif", "ppm"):
        path = tmp_path / f"a.{suffix}"
        scene().resize((24, 24)).save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for number in range(40):
            with case(suffix=suffix, number=number), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bad = data.copy()
                bad[rng.integers(0, len(bad), 3)] = rng.integers(0, 256, 3)
                path.write_bytes(bad.tobytes())
                read_or_none(path)


@pytest.mark.parametrize("family", factory.TOWERS)
def test_images_of_any_narrow_size_are_seen(loaded: Callable[..., Model], family: str) -> None:
    """A side of one to four pixels is not taken for the channels."""
    model = loaded(family)
    assert isinstance(model, ClipModel)
    colour = (200, 30, 90)
    expected = model.encode_image(PIL.Image.new("RGB", (40, 40), colour))
    sizes = [(1, 1), (2, 3), (3, 3), (4, 40), (3, 1), (1, MAX_ASPECT), (MAX_ASPECT, 1)]
    for size in [*sizes, *((side, 40) for side in (1, 3)), *((40, side) for side in (1, 3))]:
        with case(size=size):
            found = model.encode_image(PIL.Image.new("RGB", size, colour))
            assert float(abs(found - expected).max()) < 1e-4


def never(*_: object) -> None:
    pytest.fail("the pixels were decoded")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1_000_000, 1), "1000000 x 1 pixels; expected one side at most 200 times as long"),
        ((1, 1_000_000), "1 x 1000000 pixels; expected one side at most 200 times as long"),
        ((MAX_ASPECT + 1, 1), "201 x 1 pixels"),
        ((14_000, 13_000), "14000 x 13000 pixels; expected at most 178,956,970"),
    ],
)
def test_sizes_are_bounded_before_any_pixel_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], message: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(size, 8, 0, b"", (b"tEXt", b"a\0b")))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)  # as some programs set it
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(ImageError, match=message):
        open_image(tmp_path / "a.png")


def test_a_large_image_needs_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene().save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", scene().width * scene().height - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(tmp_path / "a.png")


def test_only_formats_of_the_list_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    for kind in ("EPS", "SPIDER", "XBM", "MSP"):
        with case(kind=kind):
            data = io.BytesIO()
            image = scene().convert({"SPIDER": "F", "XBM": "1", "MSP": "1"}.get(kind, "RGB"))
            image.save(data, kind)
            (tmp_path / "a.png").write_bytes(data.getvalue())
            with PIL.Image.open(tmp_path / "a.png"):  # Pillow by itself takes it
                pass
            with pytest.raises(ImageError, match=r"a\.png' cannot be read as an image"):
                open_image(tmp_path / "a.png")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png' is not a regular file; expected an image file"):
        open_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        open_image(tmp_path)
