"""First-order predictions of what a candidate word does to a target loss.

All start from the gradient of the loss at the target's embeddings in the position, and all give
``(m,)`` scores, lower is better, up to a constant that is the same for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.adapter import Adapter
from fuse_index.optimize.anchored import likeness, weighted
from fuse_index.optimize.word_gradient import Expansion
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

Rows = NDArray[np.int64]
_CHUNK_WORDS = 8192


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words, their embeddings in both models, and the adapter between the two.

    Attributes:
        table: the words and their token ids.
        adapter: from source to target.
        source: ``(source vocabulary, d_src)``.
        target: ``(target vocabulary, d_tgt)``, on the same device.
    """

    table: WordTable
    adapter: Adapter
    source: Tensor
    target: Tensor


Predictor = Callable[[Vocabulary, Tensor, int, Rows], Tensor]
"""``(vocabulary, gradient (q, d_tgt), row of the current word, candidates (m,)) -> (m,)``."""


def by_word(vocabulary: Vocabulary, gradient: Tensor, row: int, candidates: Rows) -> Tensor:
    """Word-space gradient: summed gradient times the candidate's mean target embedding.

    Needs no adapter, only the candidate's target tokens (DESIGN section 2).
    """
    del row
    tokens = vocabulary.table.target.select(candidates)
    rows, word, counts = _packed(tokens, vocabulary.target)
    return _sum_by_word(rows @ gradient.sum(0), word, len(counts)) / counts


def by_adapter(vocabulary: Vocabulary, gradient: Tensor, row: int, candidates: Rows) -> Tensor:
    """Pull the word's gradient back through each candidate's own group.

    A candidate with ``q'`` target tokens receives the summed gradient, spread evenly over them, as
    in word space; the pull-back carries it to its ``p'`` source tokens, whose embeddings it meets.
    """
    del row
    table, adapter = vocabulary.table, vocabulary.adapter
    source = table.source.select(candidates)
    q = table.target.lengths[candidates]
    layout = adapter.layout(source.lengths, q)
    repeats = torch.from_numpy(q).to(gradient.device)
    share = gradient.sum(0) / repeats[:, None].to(gradient.dtype)
    pulled = adapter.pull_back(torch.repeat_interleave(share, repeats, 0), layout)
    rows, word, counts = _packed(source, vocabulary.source)
    return _sum_by_word((rows * pulled).sum(1), word, len(counts))


def by_adapter_at_word(
    vocabulary: Vocabulary, gradient: Tensor, row: int, candidates: Rows
) -> Tensor:
    """Pull the gradient back once, at the current word's group, and compare token by token.

    What an optimizer of single source tokens sees: token s of the candidate meets the gradient of
    token s of the current word; tokens beyond it meet nothing.
    """
    table, adapter = vocabulary.table, vocabulary.adapter
    p = table.source.lengths[row : row + 1]
    layout = adapter.layout(p, table.target.lengths[row : row + 1])
    pulled = adapter.pull_back(gradient, layout)  # (p, d_src)
    ids = table.source.select(candidates).padded()[:, : len(pulled)]  # (m, <= p)
    index = torch.from_numpy(ids).to(pulled.device)
    embeddings = vocabulary.source[index.clamp(min=0)] * (index >= 0)[..., None]
    return torch.einsum("msd,sd->m", embeddings, pulled[: ids.shape[1]])


PREDICTORS: dict[str, tuple[Predictor, Expansion]] = {
    "adapter": (by_adapter, Expansion.MEAN_WORD),
    "word": (by_word, Expansion.MEAN_WORD),
    "adapter_at_current": (by_adapter, Expansion.CURRENT),
    "adapter_by_token": (by_adapter_at_word, Expansion.CURRENT),
    "word_at_current": (by_word, Expansion.CURRENT),
}
"""Every prediction that is measured, by its name in reports, and where its gradient is taken.

The gradient with the mean word in the position predicts far-away candidates better than the one at
the current word, for the same backward pass (docs/benchmarks.md, section "Gradient signal").
"""


ANCHORED: dict[str, Predictor] = {"adapter_anchored": by_adapter, "word_anchored": by_word}
"""Predictions from the average of the gradients at anchors."""
WEIGHTED = "word_weighted"
"""Name of :func:`by_weighted_anchors` in reports."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Words that were put into the position, and what the loss does there.

    Attributes:
        rows: ``(a,)`` rows of the word table.
        losses: ``(a,)``.
        gradients: ``(a, d_tgt)``, summed over each anchor's tokens.
    """

    rows: Rows
    losses: Tensor
    gradients: Tensor


def by_weighted_anchors(vocabulary: Vocabulary, anchors: Anchors, candidates: Rows) -> Tensor:
    """Let every candidate weigh the anchors' own linear predictions by its likeness to them.

    Anchor i predicts ``L_i + g_i . (e_w - e_i)`` for word w; the weights are a softmax of the
    cosines between the mean embeddings of w and of the anchors, times a constant.
    """
    words = mean_embeddings(vocabulary, candidates)
    own = mean_embeddings(vocabulary, anchors.rows)
    values, at_itself = anchors.gradients @ words.T, (own * anchors.gradients).sum(1)
    return weighted(values, anchors.losses, at_itself, likeness(words, own))


def mean_embeddings(vocabulary: Vocabulary, rows: Rows) -> Tensor:
    """``(m, d_tgt)``: the mean target embedding of each word's tokens."""
    packed, word, counts = _packed(vocabulary.table.target.select(rows), vocabulary.target)
    total = packed.new_zeros(len(counts), packed.shape[1]).index_add(0, word, packed)
    return total / counts[:, None]


def mean_word(vocabulary: Vocabulary) -> Tensor:
    """``(d_tgt,)``: the mean over all words of the mean target embedding of their tokens."""
    total = vocabulary.target.new_zeros(vocabulary.target.shape[1])
    for start in range(0, len(vocabulary.table), _CHUNK_WORDS):
        words = np.arange(start, min(start + _CHUNK_WORDS, len(vocabulary.table)))
        rows, word, counts = _packed(vocabulary.table.target.select(words), vocabulary.target)
        total += (rows / counts[word, None]).sum(0)
    return total / len(vocabulary.table)


def _packed(tokens: Ragged, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed embeddings ``(rows, width)``, the word of every row, and the words' token counts."""
    device = embeddings.device
    counts = torch.from_numpy(tokens.lengths).to(device)
    word = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    return embeddings[torch.from_numpy(tokens.values).to(device)], word, counts


def _sum_by_word(values: Tensor, word: Tensor, words: int) -> Tensor:
    return values.new_zeros(words).index_add(0, word, values)
