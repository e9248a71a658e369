"""Sentences that a causal language model writes to their end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from fuse_index.common.bounds import MIN_TEMPERATURE
from fuse_index.errors import ModelError, OptionError
from fuse_index.models.boundaries import surround
from fuse_index.models.causal import CausalModel
from fuse_index.models.surroundings import Surroundings

LONGEST = 44
"""Tokens of a sentence, at most."""
_FEWER = 4
"""Rows that ended are left out once they are one of so many: keys and values are copied then."""


@torch.no_grad()
def write_sentences(
    model: CausalModel,
    starts: Sequence[Sequence[int]],
    generator: torch.Generator,
    *,
    prefix: str | Surroundings = "",
    allowed: Tensor | None = None,
    temperature: float = 1.0,
    longest: int = LONGEST,
) -> list[tuple[int, ...] | None]:
    """Let a model continue beginnings until it ends the sentence.

    Keys and values are kept, so that a sentence costs what one forward pass over it costs, and rows
    that have ended are left out now and then. What is drawn does not depend on that.

    Args:
        model: with a token that begins its texts or ends them.
        starts: content ids that each sentence begins with; empty ones are free.
        generator: of the random numbers, on the CPU.
        prefix: text before the sentences, or what surrounds them.
        allowed: ``(vocabulary,)`` bool, tokens that may be used; all by default.
        temperature: of the sampling.
        longest: tokens after which a sentence is given up, or cut where the model ends none.

    Returns:
        For every beginning the content ids of the sentence, or None if it came to no end.

    Raises:
        ModelError: the model has no token that begins or ends a text.
        OptionError: there is no beginning, or the temperature is not above 0.
    """
    if not starts or not temperature > 0:
        raise OptionError(
            f"{len(starts)} sentences at temperature {temperature}",
            expected="at least one, and a temperature above 0",
        )
    given = {"prefix": prefix, "allowed": allowed, "temperature": temperature, "longest": longest}
    return write_together(model, [(starts, generator)], **given)[0]  # type: ignore[arg-type]


@torch.no_grad()
def write_together(
    model: CausalModel,
    groups: Sequence[tuple[Sequence[Sequence[int]], torch.Generator]],
    *,
    prefix: str | Surroundings = "",
    allowed: Tensor | None = None,
    temperature: float = 1.0,
    longest: int = LONGEST,
) -> list[list[tuple[int, ...] | None]]:
    """Let a model write the sentences of several groups in one batch.

    Every group draws its own random numbers, as many as if it were written alone.

    Args:
        model: as in :func:`write_sentences`, and so are the rest.
        groups: beginnings, and the generator of their random numbers.
        prefix: text before the sentences, or what surrounds them.
        allowed: ``(vocabulary,)`` bool, tokens that may be used; all by default.
        temperature: of the sampling.
        longest: tokens after which a sentence is given up.

    Returns:
        For every group what :func:`write_sentences` returns.

    Raises:
        ModelError: the model has no token that begins or ends a text.
    """
    starts = [start for own, _ in groups for start in own]
    begin, end = _frame(model)
    around = surround(model, prefix) if isinstance(prefix, str) else prefix
    ids = torch.tensor([[*(begin if around.framed else ()), *around.before]])
    ids = ids.repeat(len(starts), 1)
    rows: list[list[int]] = [[] for _ in starts]
    alive = torch.ones(len(starts), dtype=torch.bool)
    here = torch.arange(len(starts))  # rows that are run
    cache = None
    for step in range(longest):
        kept = {model.cache_name: cache, "use_cache": True}
        output = model.module(inputs_embeds=model.embed(ids.to(model.device)), **kept)
        cache = getattr(output, model.cache_name)
        logits = output.logits[:, -1, : model.vocabulary_size]
        if allowed is not None:
            usable = allowed.clone()
            usable[end] = True
            logits = logits.masked_fill(~usable.to(logits.device), -torch.inf)
        drawn = torch.full((len(starts),), end)
        _draw_groups(logits.float() / max(temperature, MIN_TEMPERATURE), groups, here, alive, drawn)
        for index, start in enumerate(starts):
            if step < len(start):
                drawn[index] = int(start[step])
        alive &= drawn != end
        for index in alive.nonzero()[:, 0].tolist():
            rows[index].append(int(drawn[index]))
        if not alive.any():
            break
        going = alive[here]
        if model.caches and _FEWER * int(going.sum()) <= (_FEWER - 1) * len(here):
            cache.batch_select_indices(going.nonzero()[:, 0].to(model.device))
            here = here[going]
        ids = drawn[here, None]
    return _by_group(rows, alive, [len(own) for own, _ in groups])


def _by_group(
    rows: Sequence[Sequence[int]], alive: Tensor, sizes: Sequence[int]
) -> list[list[tuple[int, ...] | None]]:
    """Split sentences by group, without those that never ended."""
    found, first = [], 0
    for going in torch.split(alive, list(sizes)):
        endless = bool(going.all())  # a model that ends no text: its sentences are cut
        pairs = zip(rows[first : first + len(going)], going.tolist(), strict=True)
        found.append([None if (on and not endless) or not row else tuple(row) for row, on in pairs])
        first += len(going)
    return found


def _frame(model: CausalModel) -> tuple[list[int], int]:
    """The tokens before a text, and the one that ends it."""
    end = getattr(model.tokenizer, "eos_token_id", None)
    if model.frame.head:
        return list(model.frame.head), model.frame.head[-1] if end is None else int(end)
    if end is None:
        raise ModelError(
            f"{model.name} without a token before or behind the text",
            expected="one, with which a sentence ends",
            remedy="load it with bos=True",
        )
    return [int(end)], int(end)


def _draw_groups(
    logits: Tensor,
    groups: Sequence[tuple[Sequence[Sequence[int]], torch.Generator]],
    here: Tensor,
    alive: Tensor,
    drawn: Tensor,
) -> None:
    """Draw the next token of the rows that are run, into ``(n,)`` of all rows."""
    bounds = [0, *accumulate(len(own) for own, _ in groups)]
    for (first, last), (_, generator) in zip(pairwise(bounds), groups, strict=True):
        if alive[first:last].any():
            own = (here >= first) & (here < last)
            rows = here[own] - first
            part = logits[own.to(logits.device)]
            drawn[here[own]] = _draw(part, generator, rows, last - first)


def _draw(logits: Tensor, generator: torch.Generator, here: Tensor, count: int) -> Tensor:
    """Draw a token for some of ``count`` rows: (n, V) -> (n,) int64 on the CPU.

    As ``torch.multinomial`` does it, the largest probability over exponential noise; the noise is
    that of all rows, so that a row's does not depend on which others are left.
    """
    probabilities = logits.float().cpu().softmax(dim=-1)
    noise = torch.empty(count, logits.shape[1]).exponential_(1, generator=generator)
    return (probabilities / noise[here]).argmax(dim=-1)
