"""A run goes on from its checkpoint only over the contents that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fuse_index.build import BuildOptions, build_bundle
from fuse_index.demo import DemoModel, Split, draw, make_scene, model_name, write_vocabulary
from fuse_index.demo.packaged import FOLDER
from fuse_index.errors import CheckpointError
from fuse_index.optimize.checkpoint import CONTENTS, Checkpoint
from fuse_index.run import assemble, read_run
from fuse_index.words.corpus.words import CorpusOptions

STATE, IMAGE, WORDS, CORPUS, BUNDLE = "state", "scene.png", "words.txt", "corpus.txt", "bundle"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with everything that a run reads, and a checkpoint after one step."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("lm", "sentiment"):
        shutil.copytree(FOLDER / name, folder / name)
    draw(make_scene(Split.TEST, 0)).save(folder / IMAGE)
    write_vocabulary(folder / WORDS)
    go_on(folder, steps=1)
    return folder


def go_on(folder: Path, steps: int = 2, state: str = STATE, **changes: Any) -> Any:
    """Begin the run of a folder, or go on with it."""
    clip = model_name(DemoModel.CLIP)
    models = {"lm": f"{folder}/lm", "clip": clip, "sentiment": f"{folder}/sentiment"}
    run = {
        "models": models,
        "objectives": [
            {"type": "image", "model": "clip", "images": f"{folder}/{IMAGE}"},
            {"type": "label", "model": "sentiment", "label": "positive"},
            {"type": "fluency", "model": "lm"},
        ],
        "initial": "the picture contains a circle",
        "method": {
            "type": "gcg",
            "unit": "token",
            "predictor": "adapter",
            "search_width": 4,
            "positions": 1,
        },
        "budget": steps,
        "adapters": {"words": f"{folder}/{WORDS}", "cache": f"{folder}/cache"},
    } | changes
    run["models"] = models | changes.get("models", {})
    ready = assemble(read_run(run), checkpoint=folder / state)
    return ready.run(checkpoint=folder / state)


def paint(folder: Path) -> None:
    draw(make_scene(Split.TEST, 1)).save(folder / IMAGE)


def tune(name: str, key: str) -> Callable[[Path], None]:
    """Change one weight of a model, but none of its embeddings."""

    def change(folder: Path) -> None:
        path = folder / name / "model.safetensors"
        weights = load_file(path)
        weights[key][0] += 1e-3
        save_file(weights, path, metadata={"format": "pt"})

    return change


def rename_labels(folder: Path) -> None:
    path = folder / "sentiment" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    names = config["id2label"]
    names["0"], names["2"] = names["2"], names["0"]
    config["label2id"] = {name: int(index) for index, name in names.items()}
    path.write_text(json.dumps(config), encoding="utf-8")


def drop_words(folder: Path) -> None:
    lines = (folder / WORDS).read_text(encoding="utf-8").splitlines()
    (folder / WORDS).write_text("\n".join(lines[::2]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (paint, ["the image {}/scene.png of image("]),
        (tune("sentiment", "classifier.bias"), ["the weights of {}/sentiment (classifier)"]),
        (tune("lm", "transformer.ln_f.bias"), ["the weights of {}/lm (causal)"]),
        (rename_labels, ["the labels of {}/sentiment (classifier)"]),
        (
            drop_words,
            [
                f"the adapter to {model_name(DemoModel.CLIP)}",
                "the adapter to {}/sentiment",
                "the words of word-level moves",
            ],
        ),
    ],
)
def test_replaced_contents_are_refused_and_named(world, tmp_path, change, named):
    for item in world.iterdir():
        copy = shutil.copytree if item.is_dir() else shutil.copyfile
        copy(item, tmp_path / item.name)
    change(world)
    try:
        with pytest.raises(CheckpointError) as caught:
            go_on(world)
    finally:
        for item in ("lm", "sentiment"):
            shutil.copytree(tmp_path / item, world / item, dirs_exist_ok=True)
        for item in (IMAGE, WORDS):
            shutil.copyfile(tmp_path / item, world / item)
    message = str(caught.value)
    start = f"checkpoint {world}/{STATE} is of a run with other contents of "
    assert message.startswith(start)
    assert message.endswith("what the run began with; put it back, or name another checkpoint")
    for text in named:
        assert text.format(world) in message
    assert message.count("the ") == len(named) + 1  # nothing else is named


def test_other_special_tokens_are_refused(world):
    bare = {"lm": {"model": f"{world}/lm", "bos": False}}
    with pytest.raises(CheckpointError, match=r"the special tokens around texts of .*/lm"):
        go_on(world, models=bare)


def test_what_only_looks_new_goes_on(world):
    """A picture that was written again, and models that were copied there again."""
    shutil.copyfile(world / STATE, world / "other")
    draw(make_scene(Split.TEST, 0)).save(world / IMAGE, compress_level=1)
    shutil.copytree(FOLDER / "lm", world / "lm", dirs_exist_ok=True)
    assert go_on(world, state="other").spent["steps"] == 2


def test_a_checkpoint_without_hashes_goes_on(world):
    """As those of earlier versions are."""
    saved = Checkpoint.load(world / STATE)
    bare = {name: item for name, item in saved.configuration.items() if name != CONTENTS}
    replace(saved, configuration=bare).save(world / "bare")
    assert go_on(world, state="bare").spent["steps"] == 2


def test_a_replaced_adapter_is_refused(world):
    words = write_vocabulary(world / "more.txt").read_text(encoding="utf-8").splitlines()
    names = [f"{world}/{name}" for name in ("lm", "sentiment")]
    model = {"model": names[1], "adapter": f"{world}/{BUNDLE}"}
    both = {"models": {"sentiment": model}, "objectives": [{"type": "label", "model": "sentiment"}]}
    both["objectives"][0]["label"] = "positive"
    for kept, end in ((words, 1), (words[::2], 2)):
        (world / "more.txt").write_text("\n".join(kept), encoding="utf-8")
        build_bundle(
            *names,
            world / BUNDLE,
            word_list=world / "more.txt",
            options=BuildOptions(CorpusOptions(min_count=1)),
            overwrite=True,
        )
        if end == 1:
            go_on(world, steps=1, state="given", **both)
    with pytest.raises(CheckpointError, match=r"other contents of the adapter to .*/sentiment"):
        go_on(world, state="given", **both)


def test_a_larger_budget_keeps_the_method_and_what_it_needs(world, monkeypatch):
    """A choice that would be another now, and would need no adapters."""
    from fuse_index.optimize import auto

    choice = {"method": None, "state": "chosen"}
    monkeypatch.setattr(auto, "_against_states", lambda *_: "they are not worth it")
    first = go_on(world, steps=1, **choice)
    assert first.configuration["method"]["predictor"] == "mixture"
    monkeypatch.setattr(auto, "_against_states", lambda *_: "")
    second = go_on(world, **choice)
    assert second.configuration["method"] == first.configuration["method"]
    assert second.spent["steps"] == 2
