"""The figures of the harness: text metrics, CLIPScore, perplexity, sentiment, variety, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import _bench
import _scores
import numpy as np
from _coco_found import Found
from _coco_set import PLAIN, Task

from fuse_index import load_model
from fuse_index.errors import FuseIndexError, ImageError
from fuse_index.evaluate import mean_score, measure_diversity, score_clip
from fuse_index.evaluate.captions import (
    TEXT_METRICS,
    CaptionMetric,
    CaptionOptions,
    score_captions,
)
from fuse_index.evaluate.interval import Score
from fuse_index.objectives import Fluency
from fuse_index.optimize import Problem, Term
from fuse_index.optimize.scoring import Scorer
from fuse_index.predict.spent import Spent
from fuse_index.words.ragged import Ragged

SHOWN = {
    **dict.fromkeys(("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE"), 3),
    **dict.fromkeys(("CLIPScore", "RefCLIPScore"), 3),
    **{"perplexity": 1, "sentiment": 2},
}
"""Figures of the table, and their decimals."""
COMPARED = ("CIDEr", "SPICE", "CLIPScore", "RefCLIPScore")
"""Figures whose paired differences are given."""


def score(
    task: Task, found: Mapping[Any, Found], arguments: Any, left_out: dict[str, str]
) -> dict[str, Score]:
    """All figures of a case.

    Args:
        task: has pictures and references.
        found: captions by image.
        arguments: name the models that score, and the metrics.
        left_out: gets the reasons for metrics that cannot be computed.
    """
    texts = [item.text or "." for item in found.values()]
    references = [task.references[image] for image in found] if task.references else None
    scores: dict[str, Score] = {}
    if references is not None:
        report = score_captions(texts, references, CaptionOptions(_metrics(arguments.metrics)))
        scores |= report.scores
        left_out |= {metric.value: reason for metric, reason in report.left_out.items()}
    clip = load(arguments.clipscore or arguments.clip, "clip", arguments.device)
    paths = [task.images[image] for image in found]
    scores |= score_clip(
        clip,
        paths,
        texts,
        references,
        prompt=arguments.clip_prompt,
        on_unreadable=_unreadable,
    )
    lm = load(arguments.lm, "causal", arguments.device)
    scores["perplexity"] = mean_score("perplexity", perplexities(lm, texts))
    if task.name != PLAIN:
        judge = load(arguments.judge or arguments.classifier, "classifier", arguments.device)
        label = judge.label_id(getattr(arguments, task.name))
        said = [int(judge.encode_texts([text]).logits[0].argmax()) == label for text in texts]
        scores["sentiment"] = mean_score("sentiment", np.array(said, np.float64))
    return scores


def _unreadable(index: int, error: ImageError) -> None:
    """Pass over a picture that was readable when it was captioned, and is no more."""


def _metrics(given: str | None) -> tuple[CaptionMetric, ...]:
    if not given:
        return TEXT_METRICS
    try:
        return tuple(CaptionMetric(name.strip()) for name in given.split(","))
    except ValueError as error:
        expected = ", ".join(metric.value for metric in TEXT_METRICS)
        raise FuseIndexError(f"--metrics {given}", expected=f"some of {expected}") from error


@cache
def load(name: str, kind: str, device: str | None) -> Any:
    """A model that scores; loaded once."""
    return load_model(name, kind=kind, device=device)


def perplexities(model: Any, texts: Sequence[str]) -> np.ndarray:
    """``(n,)``: exp of the mean negative log-likelihood of each text's tokens and its end.

    The first token counts where the model begins its texts with one; NaN where none counts.
    """
    objective = Fluency(include_end=bool(model.frame.head))
    problem = Problem(model, [Term(objective, model)])
    rows = Ragged.from_lists([list(problem.encode(text)) for text in texts])
    losses = Scorer(problem, Spent()).score(rows)[:, 0]
    return np.where(np.isfinite(losses), np.exp(np.minimum(losses, 700.0)), np.nan)


def as_row(
    case: str, task: Task, found: Mapping[Any, Found], scores: Mapping[str, Score]
) -> _bench.Row:
    """One row of the JSON: means with intervals, variety, cost, captions by image."""
    texts = [item.text or "." for item in found.values()]
    return _bench.row(
        case,
        _bench.median([item.seconds for item in found.values()]),
        "",
        None,
        images=len(found),
        missing=len(task.images) - len(found),
        forward_passes=sum(item.passes for item in found.values()) / len(found),
        **_scores.figures(scores, SHOWN),
        diversity=asdict(measure_diversity(texts)),
        captions={str(image): item.text for image, item in found.items()},
    )


def markdown(
    rows: Sequence[_bench.Row],
    scores: Mapping[str, Mapping[str, Score]],
    differences: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, str],
    told: Sequence[str],
) -> str:
    """The tables for people, and what is missing from them."""
    names = [name for name in SHOWN if any(name in own for own in scores.values())]
    ends = ["words", "distinct-1", "distinct-2", "passes", "s a caption"]
    lines = [
        "Mean and 95 % bootstrap interval.",
        "",
        "| method | images | " + " | ".join([*names, *ends]) + " |",
        "| --- |" + " --- |" * (1 + len(names) + len(ends)),
    ]
    for row in rows:
        own, variety = scores[row["case"]], row["diversity"]
        cells = [row["case"], str(row["images"])]
        cells += [_scores.cell(own.get(name), SHOWN[name]) for name in names]
        cells += [f"{variety['vocabulary']:,}", f"{variety['distinct_1']:.3f}"]
        cells += [f"{variety['distinct_2']:.3f}", f"{row['forward_passes']:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']:.1f}"]) + " |")
    lines += _scores.difference_lines(differences)
    lines += ["", *(f"{metric} is left out: {why}" for metric, why in left_out.items())]
    return "\n".join([*lines, *told]).rstrip()
