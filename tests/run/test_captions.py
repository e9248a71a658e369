"""Captions of several images with models that are loaded once; events as they happen."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from fuse_index.demo import DemoModel, Split, draw, make_scene, model_name
from fuse_index.errors import ImageError, ModelError, StorageError
from fuse_index.optimize import Budget, Moves, Stop, auto
from fuse_index.run import (
    Captioner,
    Captions,
    EventWriter,
    FailedImage,
    ModelPool,
    assembly,
    find_images,
    read_captions,
)
from fuse_index.run.captions import IMAGE_WEIGHT, TYPICAL_TOKENS


@pytest.fixture(scope="module")
def ask(config):
    def read(**sections):
        value = {
            "lm": model_name(DemoModel.LM),
            "clip": model_name(DemoModel.CLIP),
            "budget": 3,
            "initial": {"length": 6, "count": 2},
            "method": {"type": "gcg", "unit": "word", "predictor": "embedding", "search_width": 16},
            "adapters": {"words": config.words, "cache": str(config.cache)},
        }
        return read_captions({**value, **sections})

    return read


@pytest.fixture(scope="module")
def captioner(ask) -> Captioner:
    return Captioner(
        ask(classifier={"model": model_name(DemoModel.SENTIMENT), "label": "positive"})
    )


@pytest.mark.smoke
def test_captions_are_reproducible_and_better_than_where_they_began(captioner, image):
    first, again = captioner.caption(image), captioner.caption(image)
    assert first.text == again.text
    assert list(first.result.losses) == ["fluency", "image", "label"]
    trajectory = first.result.trajectory
    assert first.result.total < trajectory[0].best
    assert [p.losses for p in trajectory] == [p.losses for p in again.result.trajectory]
    weights = [1 / TYPICAL_TOKENS, IMAGE_WEIGHT, 1.0]
    total = sum(w * v for w, v in zip(weights, first.result.losses.values(), strict=True))
    assert first.result.total == pytest.approx(total)


def test_states_are_computed_before_the_first_image(ask, image):
    seen: list[tuple[str, int, int | None]] = []
    config = ask(method={"type": "gcg", "unit": "word", "predictor": "layers", "search_width": 8})
    captioner = Captioner(config, progress=lambda *given: seen.append(given))
    labels = {label for label, done, total in seen if total is not None and done == total}
    for model in (DemoModel.LM, DemoModel.CLIP):
        assert any(f" words in {model_name(model)} (" in label for label in labels)
    made = len(seen)
    caption = captioner.caption(image)
    assert len(seen) == made
    assert caption.result.total < caption.result.trajectory[0].best


QUICK_MOVES = {
    "type": "moves",
    "drafts": 8,
    "swaps": 1,
    "insertions": 1,
    "rewrites": 2,
    "crossings": 4,
    "length": 6,
    "beam": 1,
    "search_width": 4,
}


def test_without_a_method_the_moves_are_chosen(ask, image, monkeypatch):
    quick = {name: value for name, value in QUICK_MOVES.items() if name != "type"}
    monkeypatch.setattr(auto, "Moves", lambda **given: Moves(**quick | given))
    config = ask(method=None, budget={"forward_passes": 60})
    captioner = Captioner(config)
    assert captioner.method.method == Moves(predictor="layers", **quick)
    caption = captioner.caption(image)
    assert caption.result.chosen == captioner.method.reason
    assert caption.to_json()["chosen"].startswith("moves under a schedule, words by layers: ")
    spent = caption.result.spent
    assert (caption.result.stop, spent["forward_passes"] >= 60) == (Stop.FORWARD_PASSES, True)
    assert spent["predicted"] >= 7  # the drafts that a quarter of the passes allows


@pytest.mark.parametrize("predictor", ["embedding", "adapter", "layers"])
def test_the_moves_by_every_predictor(ask, image, predictor):
    moves = {**QUICK_MOVES, "predictor": predictor}
    captioner = Captioner(ask(method=moves, budget={"forward_passes": 40}))
    one, two = captioner.caption(image), captioner.caption(image)
    assert one.text == two.text
    assert one.result.total < one.result.trajectory[0].best
    assert one.result.chosen == ""
    adapted = captioner.problem(image).terms[1].adapter is not None
    assert adapted == (predictor == "adapter")


def test_each_image_gets_its_own(captioner, image):
    other = draw(make_scene(Split.TEST, 1))
    one, two = captioner.caption(str(image)), captioner.caption(other)
    assert one.text != two.text
    said = Captions((one, two)).to_json()["captions"]
    assert [item["caption"] for item in said] == [one.text, two.text]
    assert said[0]["image"] == str(image)
    assert "result" in one.to_json(full=True)


def test_models_are_loaded_once(ask, monkeypatch, image):
    loaded = []
    load = assembly.load_model
    monkeypatch.setattr(
        assembly, "load_model", lambda name, **o: (loaded.append(name), load(name, **o))[1]
    )
    captioner = Captioner(ask(budget={"steps": 1}))
    for _ in range(2):
        captioner.caption(image)
    assert loaded == [model_name(DemoModel.LM), model_name(DemoModel.CLIP)]
    pool = ModelPool()
    role = captioner.config.lm
    assert pool.load(role) is pool.load(role)


def test_a_label_the_classifier_does_not_have(ask):
    with pytest.raises(ModelError, match="no label 'merry'; expected one of 'negative', 'neutral'"):
        Captioner(ask(classifier={"model": model_name(DemoModel.SENTIMENT), "label": "merry"}))


def test_a_model_of_another_kind(ask):
    with pytest.raises(ModelError, match="causal"):
        Captioner(ask(clip=model_name(DemoModel.LM)))


def test_folders_stand_for_their_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path, tmp_path / "notes.txt"])
    assert found == [str(tmp_path / "a.JPG"), str(tmp_path / "b.png"), tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty' holds no image; expected files \.png"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ImageError, match="does not exist; expected an image file, or a folder"):
        find_images([tmp_path / "none.png"])


def test_hidden_images_and_folders_in_folders(tmp_path, caplog):
    for name in ("a.png", "._a.png", "b/c.png", "b/d.png/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        assert find_images([tmp_path]) == [str(tmp_path / "a.png")]
        both = [str(tmp_path / "a.png"), str(tmp_path / "b/c.png")]
        assert find_images([tmp_path], nested=True) == both
        assert find_images([str(tmp_path / "**/*.png")]) == both
    remedy = f"name {tmp_path}/**/*.png and the like, or --nested, to read folders in it"
    assert caplog.messages == [
        f"{tmp_path}: 1 files to read; passed over: 1 hidden, 1 folder in it ({remedy})",
        f"{tmp_path}: 2 files to read; passed over: 1 hidden",
    ]
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        ImageError, match=r"holds no image \(1 hidden, 1 folder in it\); .*--nested"
    ):
        find_images([tmp_path])


def test_events(captioner, image, tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.about(image="scene")
    caption = captioner.caption(image, [writer])
    writer.end(caption.result)
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["step"] * 4, "end"]
    assert {line["image"] for line in lines} == {"scene"}
    points = caption.result.trajectory
    assert [line["total"] for line in lines[1:-1]] == [point.total for point in points]
    assert [line["step"] for line in lines[1:-1]] == [0, 1, 2, 3]
    assert lines[-1]["text"] == lines[-2]["best_text"] == caption.result.text
    assert lines[0]["configuration"]["options"]["seed"] == 0
    with pytest.raises(StorageError, match="expected a file that can be written"):
        EventWriter(tmp_path / "no" / "events.jsonl")


def test_the_budget_is_every_images_own(captioner, image):
    assert captioner.config.budget == Budget(steps=3)
    spent = [captioner.caption(image).result.spent["steps"] for _ in range(2)]
    assert spent == [3, 3]


def test_one_that_fails_stops_no_other(ask, image, tmp_path):
    captioner = Captioner(ask())
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:100])
    images = [str(image), str(broken), draw(make_scene(Split.TEST, 1))]
    for together in (1, 3):
        first, failed, last = captioner.caption_all(images, together=together)
        assert isinstance(failed, FailedImage)
        assert failed.image == str(broken)
        assert "cannot be read as an image" in failed.message
        alone = Captioner(ask())
        assert first.result.losses == alone.caption(image).result.losses
        assert last.result.losses == alone.caption(images[2]).result.losses
        said = Captions((first, last), (failed,), 2.0).to_json()
        assert said["failed"][0]["error"] == "ImageError"
        assert said["throughput"]["images_per_second"] == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_many_images_on_a_gpu(ask):
    models = {name: {"model": f"demo:{name}", "device": "cuda"} for name in ("lm", "clip")}
    captioner = Captioner(ask(**models, method=QUICK_MOVES, budget={"forward_passes": 60}))
    pictures = [draw(make_scene(Split.TEST, number)) for number in range(4)]
    at_once = list(captioner.caption_all(pictures))
    apart = list(captioner.caption_all(pictures, together=1))
    first = [one.result.trajectory[1].losses for one in at_once]
    assert first == pytest.approx([one.result.trajectory[1].losses for one in apart], rel=1e-3)
