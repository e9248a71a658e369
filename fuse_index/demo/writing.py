"""Sentences that a causal language model writes to their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fuse_index.errors import ModelError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.causal import CausalModel

_LONGEST = 44


@torch.no_grad()
def write_sentences(
    model: CausalModel,
    starts: Sequence[Sequence[int]],
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    longest: int = _LONGEST,
) -> list[tuple[int, ...] | None]:
    """Let a model go on from beginnings until it ends the sentence.

    Keys and values are kept, so that a sentence costs what one forward pass over it costs.

    Args:
        model: with a token that begins a sequence, which also ends it.
        starts: content ids that each sentence begins with; empty ones are free.
        generator: of the random numbers, on the CPU.
        temperature: of the sampling.
        longest: tokens after which a sentence is given up.

    Returns:
        For every beginning the content ids of the sentence, or None if it came to no end.

    Raises:
        ModelError: the model begins its sequences without a special token.
        OptionError: there is no beginning, or the temperature is not above 0.
    """
    if not model.frame.head:
        raise ModelError(
            f"{model.name} without a token before the text",
            expected="one, which a sentence ends with",
            remedy="load it with bos=True",
        )
    if not starts or not temperature > 0:
        raise OptionError(
            f"{len(starts)} sentences at temperature {temperature}",
            expected="at least one, and a temperature above 0",
        )
    end = model.frame.head[-1]
    rows: list[list[int]] = [[] for _ in starts]
    alive = torch.ones(len(starts), dtype=torch.bool)
    ids = torch.full((len(starts), 1), end, dtype=torch.int64)
    cache = None
    for step in range(longest):
        kept = {model.cache_name: cache, "use_cache": True}
        output = model.module(inputs_embeds=model.embed(ids.to(model.device)), **kept)
        cache = getattr(output, model.cache_name)
        drawn = _draw(output.logits[:, -1], temperature, generator)
        for index, start in enumerate(starts):
            if step < len(start):
                drawn[index] = int(start[step])
        alive &= drawn != end
        for index in alive.nonzero()[:, 0].tolist():
            rows[index].append(int(drawn[index]))
        if not alive.any():
            break
        ids = drawn[:, None]
    return [
        None if going or not row else tuple(row)
        for row, going in zip(rows, alive.tolist(), strict=True)
    ]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(n, V) -> (n,) int64 on the CPU."""
    probabilities = (logits.float().cpu() / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
