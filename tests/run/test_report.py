"""The page of captions where something is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuse_index.errors import ImageError
from fuse_index.optimize import Stop
from fuse_index.optimize.result import Result
from fuse_index.report import report_html
from fuse_index.run.captioned import Caption, Captions, FailedImage
from fuse_index.run.report import captions_page
from tests.report.test_html import assert_stands_alone


def gone(image: str) -> Any:
    raise ImageError(f"image {image!r} does not exist")


def failed(folder: Path) -> FailedImage:
    path = str(folder / "b.png")
    return FailedImage(path, ImageError(f"{path!r} cannot be read"))


CAPTIONER: Any = SimpleNamespace(
    lm=SimpleNamespace(name="a <model>"),
    clip=SimpleNamespace(name="a clip"),
    classifier=None,
    config=SimpleNamespace(classifier=None, options=SimpleNamespace(seed=7)),
    problem=gone,
)
RESULT = Result(
    text=" a star",
    ids=(1, 2),
    total=1.5,
    losses={"fluency": 1.0},
    stop=Stop.INTERRUPTED,
    spent={"forward_passes": 3, "seconds": 0.25},
    trajectory=(),
    pareto=(),
    weights={"fluency": 1.0},
    configuration={"method": {"type": "moves"}},
    versions={"torch": "2"},
)


def test_a_picture_that_is_gone_leaves_its_caption(tmp_path):
    item = Caption(str(tmp_path / "gone.png"), RESULT)
    text = report_html(captions_page(CAPTIONER, Captions((item,), (failed(tmp_path),), 0.5)))
    found = assert_stands_alone(text)
    said = " ".join(found.texts)
    assert not found.all("img")
    assert "1 image, captioned by a <model> and a clip." in said
    for part in ("a star", "gone.png", "interrupted", "moves", "'b.png' cannot be read", "6.0"):
        assert part in said
    assert str(tmp_path) not in text


def test_no_caption_at_all(tmp_path):
    text = report_html(captions_page(CAPTIONER, Captions((), (failed(tmp_path),))))
    assert "'b.png' cannot be read" in " ".join(assert_stands_alone(text).texts)
