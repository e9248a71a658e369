"""The demo models' figures on the test split, of the files as they are loaded by everyone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from fuse_index.demo import FULL, Scene, Split, corpus, draw, make_scene, make_sentences
from fuse_index.demo.packaged import DemoModel, model_name
from fuse_index.models import Model, load_model


def measure(folder: Path, *, sentences: int = 2000, scenes: int = 100) -> dict[str, Any]:
    """Measure every model that is in a folder; files in float16, arithmetic in float32.

    Args:
        folder: one folder a model.
        sentences: of the test split, for the text models.
        scenes: pictures that are told apart by their sentences.
    """
    report: dict[str, Any] = {"megabytes": round(size_of(folder) / 1e6, 2)}
    for model in DemoModel:
        if (folder / model.value).is_dir():
            loaded = load_model(model_name(model, folder), dtype=torch.float32)
            if model is DemoModel.LM:
                report[model.value] = {
                    split.value: perplexity(loaded, split, sentences)
                    for split in (Split.TRAIN, Split.TEST)
                }
            elif model is DemoModel.CLIP:
                report[model.value] = {"test": retrieval(loaded, scenes)}
            else:
                report[model.value] = {"test": {"accuracy": accuracy(loaded, sentences)}}
    return report


def size_of(folder: Path) -> int:
    """Bytes of all weights below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def perplexity(model: Model, split: Split, sentences: int) -> dict[str, float]:
    """Perplexity per token and per word, end of text included."""
    # scenes that no training has seen, also where the split is training's
    start = 10_000_000 if split is Split.TRAIN else 0
    texts = [" " + s.text for s in corpus(split, sentences // 4, start=start)]
    end = int(model.tokenizer.eos_token_id)
    rows = [[*ids, end] for ids in model.words.encode_texts(texts)]
    total, tokens = 0.0, 0
    with torch.no_grad():
        for begin in range(0, len(rows), 100):
            batch = model.batch(rows[begin : begin + 100])
            logits = model.forward(model.embed(batch.ids), batch).logits
            assert logits is not None
            labels = batch.ids.masked_fill(~batch.mask, -100)[:, 1:]
            total += float(
                torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum"
                )
            )
            tokens += int((labels != -100).sum())
    words = sum(len(text.split()) + 1 for text in texts)
    return {
        "perplexity": round(math.exp(total / tokens), 3),
        "perplexity_per_word": round(math.exp(total / words), 3),
        "tokens_per_word": round(tokens / words, 3),
    }


def distinct_scenes(split: Split, count: int, start: int = 0) -> list[Scene]:
    """The first scenes of a split whose graphs are all different."""
    found: dict[Any, Scene] = {}
    index = start
    while len(found) < count:
        scene = make_scene(split, index)
        found.setdefault(scene.graph, scene)
        index += 1
    return list(found.values())


def retrieval(model: Any, scenes: int) -> dict[str, float]:
    """How often a picture finds its full sentence among all, and a sentence its picture.

    One draw of scenes is a noisy figure (its standard error is 0.03 at 0.9), so the mean over ten
    disjoint draws is given too.
    """
    rows = []
    for draw_number in range(10):
        shown = distinct_scenes(Split.TEST, scenes, start=draw_number * 10 * scenes)
        texts = [make_sentences(scene, 1, options=FULL)[0].text for scene in shown]
        with torch.no_grad():
            images = model.encode_image([draw(scene) for scene in shown], normalize=True)
            said = model.encode_texts(texts, normalize=True).features
        scores = images @ said.T
        own = torch.arange(scenes, device=scores.device)
        rows.append([float((scores.argmax(d) == own).float().mean()) for d in (1, 0)])
    mean = torch.tensor(rows).mean(0).tolist()
    return {
        "image_to_text": round(rows[0][0], 3),
        "text_to_image": round(rows[0][1], 3),
        "image_to_text_10_draws": round(mean[0], 4),
        "text_to_image_10_draws": round(mean[1], 4),
    }


def accuracy(model: Any, sentences: int) -> float:
    """Share of test sentences whose sentiment is found."""
    said = list(corpus(Split.TEST, sentences // 4))
    right = 0
    for begin in range(0, len(said), 200):
        part = said[begin : begin + 200]
        logits = model.encode_texts([s.text for s in part]).logits
        guesses = [model.labels[i] for i in logits.argmax(1).tolist()]
        right += sum(g == s.sentiment.value for g, s in zip(guesses, part, strict=True))
    return round(right / len(said), 4)
