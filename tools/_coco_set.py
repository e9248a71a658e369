"""What the harness captions: photographs with references, or the demo's scenes in their layouts."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse_index import demo
from fuse_index.demo import DemoModel, Sentiment, Split, make_scene, model_name
from fuse_index.demo.cast import LONGEST_WORD
from fuse_index.demo.grammar import FULL, SentenceOptions
from fuse_index.errors import FuseIndexError
from fuse_index.evaluate import Polarity, read_references
from fuse_index.evaluate.coco import ImageId, image_paths
from fuse_index.run import find_images

PLAIN = "plain"
TASKS = (PLAIN, *(item.value for item in Polarity))

REFERENCES = 5
FELT_REFERENCES = 3
_TRAINING_SCENES = 500


def write_demo_set(folder: Path, scenes: int) -> dict[str, Any]:
    """Write pictures, ``captions.json`` (COCO), ``senticap.json``, words and a corpus.

    Returns:
        The arguments of the harness that name them and the packaged models.
    """
    pictures = folder / "val"
    pictures.mkdir(parents=True, exist_ok=True)
    images, annotations, felt = [], [], []
    for number in range(scenes):
        scene, name = make_scene(Split.TEST, number), f"COCO_demo2026_{number + 1:012d}.png"
        demo.draw(scene).save(pictures / name)
        images.append({"id": number + 1, "file_name": name})
        for sentence in demo.make_sentences(scene, REFERENCES, options=FULL):
            annotations.append({"image_id": number + 1, "caption": sentence.text})
        sentences = [
            {"raw": sentence.text, "tokens": sentence.text.split(), "sentiment": value}
            for value, feeling in enumerate((Sentiment.NEGATIVE, Sentiment.POSITIVE))
            for sentence in demo.make_sentences(
                scene, FELT_REFERENCES, options=SentenceOptions(feeling, 1.0, 0.0)
            )
        ]
        felt.append({"filename": name, "split": "test", "sentences": sentences})
    _write(folder / "captions.json", {"images": images, "annotations": annotations})
    _write(folder / "senticap.json", {"images": felt})
    words = demo.write_vocabulary(folder / "words.txt")
    return {
        "images": pictures,
        "references": folder / "captions.json",
        "senticap": folder / "senticap.json",
        "corpus": demo.write_corpus(folder / "corpus.txt", _TRAINING_SCENES),
        "lm": model_name(DemoModel.LM),
        "clip": model_name(DemoModel.CLIP),
        "classifier": model_name(DemoModel.SENTIMENT),
        "clip_prompt": "",  # this CLIP knows the grammar alone
        "judge": model_name(DemoModel.JUDGE),
        "settings": {"adapters": {"words": str(words), "max_tokens": LONGEST_WORD}},
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@dataclass(frozen=True)
class Task:
    """What is captioned, and how it is scored.

    Attributes:
        name: of :data:`TASKS`.
        images: pictures by id, those that are there.
        references: captions of each; empty without any.
        told: what was left out, and why.
    """

    name: str
    images: dict[ImageId, Path]
    references: dict[ImageId, list[str]]
    told: list[str] = field(default_factory=list)


def read_task(name: str, arguments: Any) -> Task:
    """Read what a task needs; a subset depends on the ids and the seed, not on their order."""
    if arguments.images is None:
        raise FuseIndexError("no pictures", expected="--images FOLDER, or --demo N")
    file = arguments.references if name == PLAIN else arguments.senticap
    told: list[str] = []
    if file is None and name == PLAIN:
        found = {Path(path).name: Path(path) for path in find_images([str(arguments.images)])}
        chosen = _subset(list(found), arguments)
        return Task(name, {image: found[image] for image in chosen}, {})
    if file is None:
        raise FuseIndexError(f"task {name} without --senticap", expected="SentiCap's file")
    polarity = None if name == PLAIN else Polarity(name)
    split = arguments.split
    known = read_references(file, split=split, sentiment=polarity, tell=told.append)
    bare = [image for image, texts in known.captions.items() if not texts]
    if bare:
        told.append(f"{file}: images without a caption, left out: {len(bare)} (first: {bare[0]!r})")
    ids = _subset([image for image, texts in known.captions.items() if texts], arguments)
    paths = image_paths(arguments.images, known, ids, tell=told.append)
    there = {image: path for image, path in zip(ids, paths, strict=True) if path is not None}
    return Task(name, there, {image: known.captions[image] for image in there}, told)


def _subset(ids: list[Any], arguments: Any) -> list[Any]:
    ordered = sorted(ids, key=lambda image: (isinstance(image, str), image))
    if arguments.subset is None or arguments.subset >= len(ordered):
        return ordered
    drawn = random.Random(arguments.seed).sample(range(len(ordered)), arguments.subset)
    return [ordered[index] for index in sorted(drawn)]
