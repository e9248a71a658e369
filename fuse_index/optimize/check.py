"""Did it work? What models do with a prompt once its text is pasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import torch

from fuse_index.models.batch import Batch
from fuse_index.models.causal import CausalModel
from fuse_index.models.encoder import ClassifierModel
from fuse_index.objectives.base import Loss
from fuse_index.objectives.continuation import TargetContinuation
from fuse_index.objectives.features import ClassifierLabel, ImageSimilarity, TextSimilarity
from fuse_index.optimize.problem import Problem
from fuse_index.optimize.state import Ids
from fuse_index.words.ragged import Ragged

_TOKENS = 16
"""Tokens generated where no number is given, at least those of the target."""


@dataclass(frozen=True)
class Check:
    """What one model does with the prompt, for one objective or item.

    Attributes:
        name: of the objective, with the number of the item if it is one.
        model: the model.
        wanted: the target, label or text; "" where nothing can be met or compared.
        found: what the model writes, or the label it predicts, or several; "" for similarities.
        met: whether what was found is what was wanted; None where there is no such thing.
        tokens: for a target its tokens, each with the token the model writes in its place.
        value: the probability of a label, or the similarity to a text or image.
        rank: of a similarity among those of the objective's items, 1 for the largest.
    """

    name: str
    model: str
    wanted: str = ""
    found: str = ""
    met: bool | None = None
    tokens: tuple[tuple[str, str], ...] = ()
    value: float | None = None
    rank: int | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Check:
        """Build a check from its fields as JSON has them."""
        tokens = tuple((str(a), str(b)) for a, b in value["tokens"])
        return cls(**{**value, "tokens": tokens})


def check_prompt(problem: Problem, ids: Ids, tokens: int | None = None) -> tuple[Check, ...]:
    """Paste a prompt's text into every model, and say what it does.

    The whole text is tokenized anew by the model's own tokenizer. A causal model continues it
    greedily; a classifier labels it; an encoder or CLIP compares it.

    Args:
        problem: models and objectives.
        ids: the prompt's tokens in the source, whose text is pasted.
        tokens: tokens that every causal model writes, at least those of its target; by default 16,
            of models with a target.

    Returns:
        One check for every objective or item that can be checked, in order.
    """
    prompts = Ragged.from_lists([list(ids)])
    texts = [problem.texts(index, prompts)[0] for index in range(len(problem.losses))]
    written = _written(problem, texts, tokens)
    found: list[Check] = []
    for span in problem.items.spans:
        own = []
        for index in range(span.start, span.stop):
            loss, name = problem.losses[index], problem.loss_names[index]
            check = Check(name, loss.model.name)
            if index in written:
                own.append(_continued(check, loss, *written[index]))
            elif isinstance(loss.objective, (ClassifierLabel, TextSimilarity, ImageSimilarity)):
                own.append(_compared(check, loss, texts[index]))
        found += _ranked(own)
    return tuple(found)


def _written(
    problem: Problem, texts: Sequence[str], tokens: int | None
) -> dict[int, tuple[list[int], list[int]]]:
    """What causal models write behind the whole text: for a loss the text's tokens and theirs."""
    asked: dict[CausalModel, dict[int, list[int]]] = {}
    seen: set[tuple[str, str]] = set()
    for index, loss in enumerate(problem.losses):
        has_target = isinstance(loss.objective, TargetContinuation)
        if not isinstance(loss.model, CausalModel) or (tokens is None and not has_target):
            continue
        around = loss.objective.surround(loss.model)
        key = loss.model.name, around.full_text(texts[index])
        if has_target or key not in seen:
            row = [*around.frame.head, *around.pasted(texts[index])]
            asked.setdefault(loss.model, {})[index] = row
            seen.add(key)
    found: dict[int, tuple[list[int], list[int]]] = {}
    for model, rows in asked.items():
        targets = [len(problem.losses[index].surroundings.target_ids) for index in rows]
        count = max(_TOKENS if tokens is None else tokens, *targets)
        new = model.generate(list(rows.values()), count)
        found |= {index: (rows[index], own) for index, own in zip(rows, new, strict=True)}
    return found


def _continued(check: Check, loss: Loss, row: list[int], new: list[int]) -> Check:
    """Compare what a model writes with the target, token by token."""
    found = _text_behind(loss, row, new)
    if not isinstance(loss.objective, TargetContinuation):
        return replace(check, found=found)
    ids = list(loss.surroundings.target_ids)
    wanted = [_text_behind(loss, [*row, *ids[:i]], ids[i : i + 1]) for i in range(len(ids))]
    given = [_text_behind(loss, [*row, *new[:i]], new[i : i + 1]) for i in range(len(ids))]
    target = loss.objective.target
    met = new[: len(ids)] == ids or found.startswith(target)
    pairs = tuple(zip(wanted, given, strict=True))
    return replace(check, wanted=target, found=found, met=met, tokens=pairs)


def _text_behind(loss: Loss, row: list[int], new: list[int]) -> str:
    """The text of tokens behind others; alone, some decoders drop the space they begin with."""
    words = loss.model.words
    before, whole = words.decode_batch([row, [*row, *new]])
    return whole[len(before) :] if whole.startswith(before) else words.decode(new)


def _compared(check: Check, loss: Loss, text: str) -> Check:
    """The label that a classifier predicts, or the similarity to what is wanted."""
    around, model, objective = loss.surroundings, loss.model, loss.objective
    batch = model.batch([around.pasted(text)], frame=around.frame)
    if isinstance(objective, ClassifierLabel):
        assert isinstance(model, ClassifierModel)
        wanted, logits = model.label_id(objective.label), _logits(model, batch)
        predicted = model.predicted(logits)[0].tolist()
        return replace(
            check,
            wanted=model.labels[wanted],
            found=", ".join(compress(model.labels, predicted)),
            met=bool(predicted[wanted]),
            value=float(model.log_probabilities(logits)[0, wanted].exp()),
        )
    wanted_text = ""
    if isinstance(objective, TextSimilarity):
        wanted_text = ", ".join(objective.texts)
    elif isinstance(objective, ImageSimilarity):
        wanted_text = ", ".join(str(image) for image in objective.images)
    value = 1.0 - float(loss.score_batch(batch)[0])
    return replace(check, wanted=wanted_text, value=value)


@torch.no_grad()
def _logits(model: ClassifierModel, batch: Batch) -> torch.Tensor:
    logits = model.forward(model.embed(batch.ids), batch).logits
    assert logits is not None
    return logits


def _ranked(checks: Sequence[Check]) -> list[Check]:
    """Rank the similarities of an objective's items."""
    values = [check.value for check in checks if check.met is None and check.value is not None]
    if len(values) < 2:
        return list(checks)
    return [
        replace(check, rank=1 + sum(value > own for value in values))
        for check, own in zip(checks, values, strict=True)
    ]
