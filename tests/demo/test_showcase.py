"""The showcase: what it finds, its report, the second run, and what an interrupt leaves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fuse_index.demo import Sentiment, agreement, draw, graph_of_sentence, make_scene
from fuse_index.demo.captioning import GuideOptions, Request, SceneCaptioner
from fuse_index.demo.cast import Cast, assemble_cast
from fuse_index.demo.packaged import CHECKSUMS, FOLDER
from fuse_index.demo.report import showcase_html
from fuse_index.demo.showcase import Audience, Showcase, ShowcaseOptions, run_showcase
from fuse_index.demo.splits import Split
from fuse_index.errors import ModelError, OptionError
from fuse_index.optimize import Moves
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged
from tests.report.test_html import assert_stands_alone

MOVES = Moves(drafts=0, beam=2, search_width=4, rewrites=4)
QUICK = GuideOptions(drafts=24, taken=2, passes=60, felt_passes=60, method=MOVES)


@pytest.fixture(scope="module")
def cast() -> Cast:
    return assemble_cast()


@pytest.fixture(scope="module")
def showcase() -> Showcase:
    return run_showcase(ShowcaseOptions(scenes=1, guide=QUICK))


@pytest.mark.smoke
def test_a_finding_is_judged_by_its_own_text(showcase):
    scene = make_scene(Split.TEST, 0)
    assert [finding.request for finding in showcase.findings] == list(Request)
    for finding in showcase.findings:
        said = agreement(graph_of_sentence(finding.text), scene.graph, scene.truths)
        assert finding.agreement == said
        passes, losses = zip(*finding.curve, strict=True)
        assert list(passes) == sorted(passes)
        assert list(losses) == sorted(losses, reverse=True)
        assert finding.to_json()["forward_passes"] == passes[-1] > 0
        assert -1 <= finding.likeness <= 1
    assert showcase.summary()["plain"]["captions"] == 1
    assert set(showcase.quality) == {"clip", "sentiment"}
    assert set(showcase.seconds) == {"check", "load", "build", "drafts", "captions", "all"}
    assert not showcase.interrupted


def test_a_second_run_gives_the_same_captions(showcase):
    again = run_showcase(ShowcaseOptions(scenes=1, guide=QUICK))
    assert [f.text for f in again.findings] == [f.text for f in showcase.findings]
    assert [f.curve for f in again.findings] == [f.curve for f in showcase.findings]


def test_the_request_decides_the_terms(cast):
    captioner = SceneCaptioner(cast, QUICK)
    assert Request.PLAIN.sentiment is Sentiment.NEUTRAL
    assert Request.NEGATIVE.sentiment is Sentiment.NEGATIVE
    picture = _picture()
    problem = captioner.problem(picture, Request.POSITIVE)
    assert problem.terms[2].objective.label == "positive"


def _picture():
    return draw(make_scene(Split.TEST, 0))


def test_the_best_drafts_have_the_smallest_totals(cast):
    captioner = SceneCaptioner(cast, QUICK)
    problem = captioner.problem(_picture(), Request.POSITIVE)
    rows = captioner.drafts.rows
    totals = Scorer(problem, Spent()).score(Ragged.from_lists(rows)) @ problem.weights
    best = captioner.best_drafts(_picture(), Request.POSITIVE, 3)
    order = totals.argsort(kind="stable")[:3]
    assert best == [rows[i] for i in order]


def test_a_sentiment_begins_from_the_plain_caption_and_its_drafts(cast):
    captioner = SceneCaptioner(cast, QUICK)
    scene = make_scene(Split.TEST, 0)
    felt = captioner.felt_drafts(Request.NEGATIVE)
    assert len(felt) == QUICK.grafts
    label = cast.sentiment.label_id("negative")
    opinions = captioner.drafts.opinions[:, label]
    clearest = captioner.drafts.texts[int(opinions.argmin())]
    assert felt[0] == clearest
    starts = []
    texts = []

    def watch(run, point):
        if not starts:
            starts.append([run.problem.decode(ids).strip() for ids in run.initial])
        texts.append(run.problem.decode(point.ids).strip())

    basis = "a red star above a circle"
    finding = captioner.caption(scene, 0, Request.NEGATIVE, [watch], basis)
    assert starts == [[basis]]
    assert texts[0] == basis
    assert finding.text != basis
    starts.clear()
    captioner.caption(scene, 0, Request.PLAIN, [watch])
    assert len(starts[0]) == QUICK.taken


def test_the_report_needs_nothing_else(showcase):
    text = showcase_html(showcase)
    found = assert_stands_alone(text)
    assert text.count("data:image/png;base64,") == 1
    assert text.count("<polyline") == 3
    (image,) = found.all("img")
    assert image["alt"].startswith("A drawing: ")
    for finding in showcase.findings:
        assert finding.text in text
        assert all(other.text != finding.text for other in finding.alternatives)
        assert " ".join(finding.words.words) == finding.text
    # a front may be one caption, that of the result
    assert any(finding.alternatives for finding in showcase.findings)
    assert text.count("What each word is worth") == 3
    assert "Interrupted" not in text
    assert "to clip" in text
    assert "building two adapters" in text


class _Interrupter(Audience):
    """Interrupts when the second caption is begun."""

    def __init__(self) -> None:
        self.begun: list[Request] = []

    def begin(self, number, scene, request):
        self.begun.append(request)
        if len(self.begun) == 2:
            raise KeyboardInterrupt
        return []


def test_an_interrupt_leaves_what_was_done(showcase):
    audience = _Interrupter()
    found = run_showcase(ShowcaseOptions(scenes=1, guide=QUICK), audience)
    assert found.interrupted
    assert [f.text for f in found.findings] == [showcase.findings[0].text]
    text = showcase_html(found)
    assert "Interrupted: 1 of 3 captions were finished." in text
    assert text.count("<polyline") == 1


class _EarlyInterrupter(Audience):
    def stage(self, label, done, total):
        raise KeyboardInterrupt


def test_an_interrupt_before_the_first_caption_leaves_an_empty_report():
    found = run_showcase(ShowcaseOptions(scenes=2, guide=QUICK), _EarlyInterrupter())
    assert found.interrupted
    assert found.findings == ()
    assert "Interrupted: 0 of 6" in showcase_html(found)


def test_a_damaged_weight_file_is_named_with_its_checksum(tmp_path: Path):
    folder = tmp_path / "weights"
    shutil.copytree(FOLDER, folder)
    damaged = next(folder.glob("sentiment/*.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    expected = re.search(
        f'"sentiment/{damaged.name}": "([0-9a-f]+)"', (folder / CHECKSUMS).read_text()
    )
    assert expected is not None
    with pytest.raises(ModelError) as error:
        run_showcase(ShowcaseOptions(scenes=1, guide=QUICK, folder=folder))
    assert str(damaged) in str(error.value)
    assert expected[1] in str(error.value)


@pytest.mark.parametrize("scenes", [0, 1001])
def test_a_number_of_scenes_outside_its_range_is_refused(scenes):
    with pytest.raises(OptionError, match=f"scenes={scenes}; expected 1 to 1000"):
        ShowcaseOptions(scenes=scenes)


def test_options_of_the_guide_are_checked():
    with pytest.raises(OptionError, match="demo: drafts=0; expected at least 1"):
        GuideOptions(drafts=0)
    with pytest.raises(OptionError, match="demo: image_weight"):
        GuideOptions(image_weight=-1.0)
