"""The report's document: what it holds, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from fuse_index.demo import Split, draw, make_scene
from fuse_index.report import Alternative, Card, Entry, Page, Table, WordEffects, report_html
from fuse_index.report.html import PICTURE_PIXELS, curve_points, picture_uri

HOSTILE = "<script>alert(1)</script> & 'quoted' \"twice\""
EFFECTS = WordEffects(
    ("a", "red", "star"),
    ("fluency", "image"),
    ((0.1, -0.2), (0.0, 3.0), (None, 4.0)),
    (None, 1.5, 2.25),
)
ENTRY = Entry(
    text=HOSTILE,
    tag="plain",
    figures=[("loss", "1.00"), ("judge", "negative")],
    wrong=["judge"],
    curve=[(1, 3.0), (5, 2.0), (10, 1.0)],
    alternatives=[Alternative("a star", 1.5, {"fluency": 1.0, "image": 0.5})],
    words=EFFECTS,
)


def page(**changes: Any) -> Page:
    pictures = [draw(make_scene(Split.TEST, 0)), PIL.Image.effect_noise((900, 200), 80)]
    cards = [Card(f"{i} & more", f"alt '{i}'", [ENTRY], p) for i, p in enumerate(pictures)]
    table = Table("Seconds", ("stage", "seconds"), [["all & more", "1.0"]])
    whole = Page("A <title>", "What it shows.", cards, ["a <note>"], [table], [table])
    return replace(whole, **changes)


class Reader(HTMLParser):
    """Tags in order, with their attributes; texts; and whether tags close in order."""

    VOID = ("meta", "img", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_stands_alone(text: str) -> Reader:
    """A document that needs no other file, and that telephones and screen readers can read."""
    found = Reader(text)
    names = {name for name, _ in found.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "video"}
    for _, attributes in found.tags:
        assert not {"href", "srcset", "background", "onload", "onerror"} & set(attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    assert not re.search(r"url\(|@import|https?:", text)
    for image in found.all("img"):
        assert (image["alt"] or "").strip()
        assert int(image["width"] or 0) > 0 < int(image["height"] or 0)
    for drawing in found.all("svg"):
        assert drawing["role"] == "img"
        assert drawing["aria-label"]
    (viewport,) = (meta for meta in found.all("meta") if meta.get("name") == "viewport")
    assert "width=device-width" in (viewport["content"] or "")
    assert found.all("html")[0]["lang"] == "en"
    assert "prefers-color-scheme: dark" in text
    return found


def test_everything_is_there_and_nothing_from_elsewhere():
    found = assert_stands_alone(report_html(page()))
    texts = " ".join(found.texts)
    assert [image["alt"] for image in found.all("img")] == ["alt '0'", "alt '1'"]
    for said in (HOSTILE, "a <note>", "0 & more", "What it shows.", "all & more", "a star"):
        assert said in texts
    assert "What each word is worth to each model" in texts
    assert "1 alternative that is better in some loss" in texts
    assert len(found.all("details")) == 4
    assert [item.get("class") for item in found.all("li")][:2] == [None, "bad"]


def test_words_are_shaded_by_what_they_are_worth():
    cells = [cell for cell in Reader(report_html(page())).all("td") if "class" in cell]
    marks = [(cell["class"], cell.get("style")) for cell in cells if cell["class"] != "text"]
    # fluency, image and their sum; of the last word one loss is unknown, and so the sum
    own = marks[: len(marks) // 2]
    assert [kind for kind, _ in own] == ["help", "harm", "harm", "help", "help", "help"]
    assert [style for _, style in own][-1] == "--s:1.00"


def test_a_page_of_nothing_and_one_without_pictures():
    assert_stands_alone(report_html(Page("t", "l", [])))
    bare = Card("gone.png", "alt", [Entry("a star", curve=[(1, 2.0)])])
    found = assert_stands_alone(report_html(page(cards=[bare])))
    assert not found.all("img")
    assert not found.all("svg")


def test_a_curve_falls_in_steps_from_the_upper_left_to_the_lower_right():
    points = curve_points([(0, 3.0), (5, 2.0), (10, 1.0)])
    assert points == "2.0,3.0 300.0,3.0 300.0,45.0 598.0,45.0 598.0,87.0"
    assert curve_points([(4, 1.0)]) == "2.0,3.0"


def test_pictures_take_the_smaller_format_and_no_more_pixels_than_needed():
    flat = PIL.Image.new("RGB", (2000, 1000), "red")
    assert picture_uri(flat).startswith("data:image/png;base64,")
    assert flat.size == (2000, 1000)
    noise = PIL.Image.effect_noise((2 * PICTURE_PIXELS, 100), 90)
    assert picture_uri(noise).startswith("data:image/jpeg;base64,")


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MEASURE = """<script>onload = () => setTimeout(() => {
  const page = document.getElementById('page').contentDocument, root = page.documentElement;
  const style = page.defaultView.getComputedStyle(page.body);
  page.querySelectorAll('details').forEach(item => { item.open = true; });
  document.getElementById('found').textContent = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, paper: style.backgroundColor,
    images: [...page.images].map(i => [i.complete, i.naturalWidth, i.clientWidth]),
    wide: [...page.querySelectorAll('.said, .curve, figure, .wide')].map(
      item => item.getBoundingClientRect().right),
    loaded: page.defaultView.performance.getEntriesByType('resource')
      .map(entry => entry.name).filter(name => !name.startsWith('data:')),
  });
}, 200);</script>"""


def shown(folder: Path, document: str, width: int, *options: str) -> dict[str, Any]:
    """Lay a document out in a headless browser, in a frame as wide as the screen."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser found: one of {', '.join(BROWSERS)}")
    frame = f"<iframe id='page' style='width:{width}px;height:9000px;border:0' srcdoc=\""
    frame += html.escape(document) + '"></iframe><pre id="found"></pre>'
    path = folder / "frame.html"
    path.write_text(f"<!doctype html><body style='margin:0'>{frame}{MEASURE}", encoding="utf-8")
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *options]
    command += ["--window-size=1400,1000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_on_a_telephone_and_on_a_desk(tmp_path, width):
    long = replace(ENTRY, text="pneumonoultramicroscopicsilicovolcanoconiosis " * 8)
    cards = page().cards
    document = report_html(page(cards=[replace(card, entries=[long, ENTRY]) for card in cards]))
    found = shown(tmp_path, document, width)
    assert found["width"] == width
    assert found["scroll"] <= width  # nothing is cut off, and nothing scrolls sideways
    assert max(found["wide"]) <= width
    assert all(complete and size > 0 for complete, size, _ in found["images"])
    assert all(0 < size <= width for _, _, size in found["images"])
    assert found["loaded"] == []


@pytest.mark.slow
def test_a_browser_shows_it_light_and_dark(tmp_path):
    document = report_html(page())
    papers = []
    for scheme in (1, 0):
        option = f"--blink-settings=preferredColorScheme={scheme}"
        papers.append(shown(tmp_path, document, 800, option)["paper"])
    light, dark = ([int(part) for part in re.findall(r"\d+", paper)[:3]] for paper in papers)
    assert min(light) > 200
    assert max(dark) < 60
