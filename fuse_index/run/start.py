"""Initial prompts: given as text, drawn from words, written by the source, or retrieved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.common.bounds import MIN_TEMPERATURE
from fuse_index.errors import ModelError, PromptError, VocabularyError
from fuse_index.models.boundaries import surround
from fuse_index.models.causal import CausalModel
from fuse_index.run.config import StartDraw
from fuse_index.run.retrieval import SentenceCorpus
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fuse_index.models.surroundings import Surroundings
    from fuse_index.optimize.problem import Problem
    from fuse_index.run.config import StartConfig

_TRIES = 64
"""Prompts drawn for each that is wanted, of which those that survive as text are kept."""


def initial_prompts(
    problem: Problem,
    start: StartConfig,
    seed: int,
    prefix: str | None = None,
    corpus: SentenceCorpus | None = None,
) -> list[tuple[int, ...]]:
    """Return the prompts a run begins from, as source ids.

    Args:
        problem: whose source tokenizes or writes them.
        start: what they are.
        seed: decides the ones that are drawn.
        prefix: text that what the source writes goes on from; by default what stands before the
            prompt for the source.
        corpus: the sentences of retrieval; by default those of ``start.corpus`` are read.

    Raises:
        ModelError: the source is to write, but is no causal language model.
        PromptError: no prompt drawn survives being read as text.
        CorpusError: the corpus has no sentence, or none that may be a prompt.
        OptionError: no objective compares the prompt with images or texts.
    """
    if start.texts:
        return [problem.encode(text) for text in start.texts]
    generator = torch.Generator().manual_seed(seed)
    wanted = start.wanted
    found: dict[tuple[int, ...], None] = {}
    if start.draw is StartDraw.RETRIEVAL:
        corpus = SentenceCorpus(start.corpus) if corpus is None else corpus
        found |= dict.fromkeys(corpus.nearest(problem, wanted - start.written))
        if len(found) >= wanted or not start.written:
            return list(found)
    for _ in range(_TRIES):
        if start.draw is StartDraw.UNIFORM:
            rows = _uniform(problem, start, generator)
        else:
            around = problem.opening if prefix is None else surround(problem.source, prefix)
            rows = _written(problem, start, generator, around)
        prompts = problem.begun(Ragged.from_lists(rows.tolist()))
        survives = problem.words.survives(prompts)
        found |= dict.fromkeys(map(tuple, prompts.select(np.flatnonzero(survives)).to_lists()))
        if len(found) >= wanted:
            return list(found)[:wanted]
    if found:
        return list(found)
    raise PromptError(
        f"no prompt of {start.length} tokens drawn from {problem.source.name} survives as text",
        expected="one whose text has the same tokens again",
        remedy="give an initial text, or filter less",
    )


def _uniform(problem: Problem, start: StartConfig, generator: torch.Generator) -> NDArray[np.int64]:
    ids = torch.from_numpy(np.flatnonzero(word_starts(problem)))
    shape = (start.wanted, start.length)
    return ids[torch.randint(len(ids), shape, generator=generator)].numpy()


def word_starts(problem: Problem) -> NDArray[np.bool_]:
    """``(vocabulary size,)``: allowed tokens that are a word of letters; all if none is."""
    try:
        return replace(problem.tokens, words_only=True).allowed(problem.source)
    except VocabularyError:
        return problem.allowed


@torch.no_grad()
def _written(
    problem: Problem, start: StartConfig, generator: torch.Generator, around: Surroundings
) -> NDArray[np.int64]:
    """Let the source write: (count, length) ids, sampled at a temperature."""
    model = problem.source
    if not isinstance(model, CausalModel):
        raise ModelError(
            f"{model.name} of kind {model.kind.value!r} cannot write a prompt",
            expected="a causal language model as the source",
            remedy="give an initial text, or draw uniformly",
        )
    allowed = torch.from_numpy(problem.allowed)
    first = torch.from_numpy(word_starts(problem))
    rows = np.zeros((start.wanted, 0), np.int64)
    for step in range(start.length):
        scores = _next_scores(model, rows, around).float().cpu() / max(
            start.temperature, MIN_TEMPERATURE
        )
        scores = scores.masked_fill(~(first if step == 0 else allowed), -torch.inf)
        drawn = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)
        rows = np.concatenate([rows, drawn.numpy()], axis=1)
    return rows


def _next_scores(model: CausalModel, rows: NDArray[np.int64], around: Surroundings) -> torch.Tensor:
    """(count, vocabulary size): logits of the next token; equal where nothing stands before."""
    batch = around.beginning(rows.tolist())
    length = batch.ids.shape[1]
    if not length:
        return torch.zeros(len(rows), model.vocabulary_size)
    output = model.forward(model.embed(batch.ids), batch, logits_from=length - 1)
    assert output.logits is not None
    return output.logits[:, -1]
