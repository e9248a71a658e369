"""The verb ``demo``: on a terminal and off it, without colour, without a place, interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import PIL.Image
import pytest
from rich.console import Console

import fuse_index.demo.captioning as captioning
import fuse_index.demo.showcase as showcase_module
from fuse_index.cli import _pictures
from fuse_index.cli import demo as verb
from fuse_index.cli import main as cli
from fuse_index.demo import Split, draw, make_scene
from fuse_index.demo.captioning import GuideOptions
from fuse_index.demo.cast import assemble_cast
from fuse_index.demo.packaged import FOLDER
from fuse_index.optimize import Moves

MOVES = {"drafts": 0, "search_width": 4}
QUICK = {"drafts": 24, "taken": 2, "passes": 60, "felt_passes": 60, "method": Moves(**MOVES)}


@pytest.fixture(scope="module")
def cast():
    return assemble_cast()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, cast):
    """Search little, and load the models once."""
    monkeypatch.setattr(showcase_module, "assemble_cast", lambda *given: cast)
    monkeypatch.setattr(captioning, "GuideOptions", lambda **given: GuideOptions(**QUICK | given))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["demo", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.smoke
def test_off_a_terminal_there_are_plain_lines_and_a_report(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    code, out, err = run(capsys, "--scenes", 1, "--out", tmp_path / "new" / "folder")
    assert (code, err) == (0, "")
    report = tmp_path / "new" / "folder" / "demo-report.html"
    assert f"the report is {report}" in out
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if line.startswith("scene 1")]
    assert [line.split()[2] for line in lines] == ["plain", "positive", "negative"]
    assert report.read_text(encoding="utf-8").count("<polyline") == 3


def test_the_captions_are_saved_as_a_picture_too(capsys, tmp_path):
    path = tmp_path / "demo.png"
    code, _, _ = run(capsys, "--scenes", 1, "--out", tmp_path, "--picture", path)
    assert code == 0
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] > 4 * image.size[1]
        assert len(image.convert("L").getcolors()) > 20
    code, _, err = run(capsys, "--out", tmp_path, "--picture", tmp_path / "missing" / "a.png")
    assert code == 2
    assert "--picture" in err


def test_json_is_one_object_and_the_seed_is_in_it(capsys, tmp_path):
    code, out, _ = run(capsys, "--scenes", 1, "--seed", 7, "--out", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["seed"] == 7
    assert len(found["captions"]) == 3
    assert Path(found["report"]).is_file()
    assert not found["interrupted"]
    assert found["summary"]["positive"]["captions"] == 1


def test_a_folder_that_is_a_file_is_refused_before_any_work(capsys, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    code, out, err = run(capsys, "--out", path)
    assert (code, out) == (2, "")
    assert f"--out {path}" in err
    assert "name another folder" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_refused(capsys, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run(capsys, "--out", tmp_path)
    tmp_path.chmod(0o700)
    assert code == 2
    assert "can be written" in err


def test_a_report_that_cannot_be_written_after_all_is_our_users_error(
    capsys, tmp_path, monkeypatch
):
    def refuse(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fuse_index.common.files.write_atomically", refuse)
    code, out, err = run(capsys, "--scenes", 1, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "the report is not written" in out
    assert "demo-report.html: No space left on device; expected a file that can be" in err


def test_a_damaged_weight_file_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(showcase_module, "assemble_cast", assemble_cast)
    import shutil

    import fuse_index.demo.packaged as packaged

    folder = tmp_path / "weights"
    shutil.copytree(FOLDER, folder)
    damaged = next(folder.glob("clip/*.safetensors"))
    damaged.write_bytes(b"no weights")
    monkeypatch.setattr(packaged, "FOLDER", folder)
    code, _, err = run(capsys, "--out", tmp_path)
    assert code == 2
    sums = json.loads((folder / "checksums.json").read_text())
    expected = sums[f"clip/{damaged.name}"]
    assert f"{damaged} is damaged" in err
    assert f"expected {expected}" in err


@pytest.mark.parametrize(("number", "stopped"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_a_report_of_what_was_done(
    capsys, tmp_path, monkeypatch, number, stopped
):
    shown = []

    def make_one_scene(split, index):
        if index == 1:
            shown.append(capsys.readouterr().out)
            signal.raise_signal(number)
        return make_scene(split, index)

    monkeypatch.setattr(showcase_module, "make_scene", make_one_scene)
    code, out, err = run(capsys, "--scenes", 400, "--out", tmp_path)
    assert code == stopped
    assert shown[0].startswith("scene 1  plain")  # as soon as it is found
    assert "interrupted: " in err
    assert "captions were finished" in err
    assert "the report is" in out
    text = (tmp_path / "demo-report.html").read_text(encoding="utf-8")
    assert "Interrupted: " in text
    assert text.count("<polyline") == shown[0].count("scene ") == 3
    assert "scene " not in out


def console(**options) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, **options)


def test_pictures_need_colours_and_the_character(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert _pictures.shows_pictures(console(color_system="truecolor"))
    assert not _pictures.shows_pictures(console(color_system="standard"))
    assert not _pictures.shows_pictures(console(color_system=None))
    assert not _pictures.shows_pictures(console(color_system="truecolor", no_color=True))
    plain = Console(file=io.StringIO(), force_terminal=False)
    assert not _pictures.shows_pictures(plain)
    ascii_only = Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
        force_terminal=True,
        color_system="truecolor",
    )
    assert not _pictures.shows_pictures(ascii_only)


def test_a_thumbnail_has_two_pixels_a_character():
    import PIL.Image

    picture = PIL.Image.new("RGB", (2, 2), (255, 0, 0))
    picture.putpixel((1, 1), (0, 0, 255))
    picture.putpixel((0, 1), (0, 0, 255))
    text = _pictures.thumbnail(picture, 2)
    assert text.plain == "\N{UPPER HALF BLOCK}" * 2
    style = text.spans[0].style
    assert style.color.triplet == (255, 0, 0)
    assert style.bgcolor.triplet == (0, 0, 255)
    assert _pictures.thumbnail(draw(make_scene(Split.TEST, 0)), 20).plain.count("\n") == 9


@pytest.mark.parametrize("colours", ["truecolor", None])
def test_the_live_table_shows_every_caption(colours, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    from fuse_index.demo.showcase import ShowcaseOptions, run_showcase

    screen = console(color_system=colours)
    options = ShowcaseOptions(scenes=1, guide=GuideOptions(**QUICK))
    with verb.live_stage(screen) as stage:
        showcase = run_showcase(options, stage)
    shown = " ".join(screen.file.getvalue().split())
    assert ("\N{UPPER HALF BLOCK}" in shown) == (colours is not None)
    assert ("scene 1" in shown) == (colours is None)
    for finding in showcase.findings:
        assert f"CLIP {finding.likeness:.2f}" in shown
        assert finding.text.split()[0] in shown


def test_a_scene_that_is_not_finished_is_shown_after_an_interrupt():
    from fuse_index.demo.captioning import Request
    from fuse_index.demo.showcase import ShowcaseOptions, run_showcase

    screen = console(color_system=None)
    with verb.live_stage(screen) as stage:
        begin = stage.begin

        def begin_or_interrupt(number, scene, request):
            if request is Request.POSITIVE:
                raise KeyboardInterrupt
            return begin(number, scene, request)

        stage.begin = begin_or_interrupt
        options = ShowcaseOptions(scenes=1, guide=GuideOptions(**QUICK))
        showcase = run_showcase(options, stage)
    assert showcase.interrupted
    last = screen.file.getvalue().rstrip().split("scene 1")[-1]
    assert f"CLIP {showcase.findings[0].likeness:.2f}" in last
