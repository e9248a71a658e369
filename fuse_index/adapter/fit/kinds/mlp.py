"""Trains one hidden layer on what a matrix leaves unexplained."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse_index.adapter.fit.kinds.linear import fit_block
from fuse_index.adapter.fit.kinds.words import DenseWords
from fuse_index.adapter.fit.options import Ridge
from fuse_index.adapter.maps.mlp import MlpMap

_HIDDEN = 512
_BATCH, _LEAST_BATCH = 256, 16
_LEAST_STEPS = 32
_EPOCHS = 40
_PATIENCE = 6
_RATE = 3e-3
_DECAY = 1e-2
_TESTED = 10
"""Every tenth word decides when to stop."""


def fit_mlp(words: DenseWords, ridge: Ridge, seed: int) -> MlpMap:
    """Train a hidden layer by AdamW until words that are kept out get no better.

    Args:
        words: of a group.
        ridge: of the matrix.
        seed: of the first weights and the order of the words.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(words), generator=generator)
    cut = max(1, len(words) // _TESTED)
    tested, fitted = order[:cut].to(words.x.device), order[cut:].to(words.x.device)
    linear = fit_block(words.select(fitted), ridge)
    x, centre = words.x, words.x.mean(0)
    rest = words.y - linear.apply(x)
    unit = rest.square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    weights = _first(x - centre, rest.shape[1], generator)
    best = _train(weights, (x - centre, rest / unit), (fitted, tested), generator)
    inner, bias, outer = best[0], best[1], best[2] * unit
    hidden = torch.tanh((x - centre) @ inner + bias) @ outer
    offset = (x @ linear.matrix + hidden).mean(0)
    return MlpMap(words.intercept(offset), linear.matrix, centre, inner, bias, outer)


def _first(x: Tensor, out: int, generator: torch.Generator) -> list[Tensor]:
    scale = float(x.square().sum(1).mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny))
    inner = torch.randn(x.shape[1], _HIDDEN, generator=generator).to(x) / scale
    return [inner, x.new_zeros(_HIDDEN), x.new_zeros(_HIDDEN, out)]


def _train(
    weights: list[Tensor],
    pairs: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> list[Tensor]:
    """Return the weights of the epoch that fits the words kept out best, or the first ones."""
    (x, y), (fitted, tested) = pairs, parts
    weights = [own.requires_grad_() for own in weights]
    spread = float(weights[0].detach().square().mean().sqrt())
    optimizer = torch.optim.AdamW(
        [
            {"params": weights[:1], "lr": _RATE * spread * x.shape[1] ** 0.5},
            {"params": weights[1:], "lr": _RATE},
        ],
        weight_decay=_DECAY,
    )
    best, least, since = [own.detach().clone() for own in weights], _error(weights, x, y, tested), 0
    for _ in range(_EPOCHS):
        order = fitted[torch.randperm(len(fitted), generator=generator).to(fitted.device)]
        for rows in torch.split(order, min(_BATCH, max(_LEAST_BATCH, len(order) // _LEAST_STEPS))):
            loss = (_forward(weights, x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        error = _error(weights, x, y, tested)
        since += 1
        if error < least:
            best, least, since = [own.detach().clone() for own in weights], error, 0
        if since == _PATIENCE:
            break
    return best


def _forward(weights: list[Tensor], x: Tensor) -> Tensor:
    inner, bias, outer = weights
    return torch.tanh(x @ inner + bias) @ outer


@torch.no_grad()
def _error(weights: list[Tensor], x: Tensor, y: Tensor, rows: Tensor) -> float:
    return float((_forward(weights, x[rows]) - y[rows]).square().mean())
