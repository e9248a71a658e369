"""Which tokens or words to try in a place: those that are likely there and help by the gradient.

"AutoDAN: Interpretable Gradient-Based Adversarial Attacks on Large Language Models" (Zhu et al.
2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fuse_index.errors import ModelError
from fuse_index.models.causal import CausalModel

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model


def require_causal(source: Model, method: str) -> CausalModel:
    """Return the source if it can write.

    Raises:
        ModelError: it is not a causal language model.
    """
    if isinstance(source, CausalModel):
        return source
    raise ModelError(
        f"{method}: {source.name} of kind {source.kind.value!r} as the source",
        expected="a causal language model, which writes the prompt",
        remedy="choose another source, or another method",
    )


def merits_of(
    likelihoods: Tensor, gradient: Tensor | None, allowed: Tensor, weight: float
) -> Tensor:
    """Combine how likely tokens are with how much they help.

    Args:
        likelihoods: ``(..., V)`` log-probabilities.
        gradient: ``(..., V)`` predicted changes of the loss, or None.
        allowed: ``(V,)``, which tokens may be used.
        weight: nats that one standard deviation of the predicted changes counts.

    Returns:
        ``(..., V)`` float32; minus infinity where a token may not be used.
    """
    merits = likelihoods.float()
    if gradient is not None:
        own = gradient[..., allowed].float()
        spread = own.std(dim=-1, correction=0, keepdim=True)
        change = (gradient.float() - own.mean(dim=-1, keepdim=True)) / spread
        merits = merits - weight * torch.where(spread > 0, change, 0.0)
    return merits.masked_fill(~allowed, -torch.inf)


def draw_ranked(
    merits: Tensor, count: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Draw tokens one after another without repeats, ``p ~ exp(merit / temperature)``.

    Adding Gumbel noise and sorting does that in one go (Yellott 1977; Kool et al. 2019).

    Args:
        merits: ``(V,)``, minus infinity where a token may not be drawn.
        count: tokens, at most.
        temperature: 0 takes the best.
        generator: of the random numbers.

    Returns:
        ``(at most count,)`` int64.
    """
    if temperature:
        uniform = torch.rand(len(merits), generator=generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        merits = merits.double() / temperature + noise
    usable = int(torch.isfinite(merits).sum())
    return merits.topk(min(count, usable)).indices
