"""Drafts: sentences the language model wrote, and what every model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from fuse_index.objectives import Fluency, TokenReduction
from fuse_index.optimize import Problem, Term
from fuse_index.optimize.writing import write_sentences
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.demo.cast import Cast

_ROWS = 64


def fluency() -> Fluency:
    """What the language model is asked: a likely sentence that ends where it ends.

    The sum over its tokens, not their mean: a mean is lowered by padding a caption with phrases
    that are likely and say nothing.
    """
    return Fluency(include_end=True, reduction=TokenReduction.SUM, weight=1 / TYPICAL_TOKENS)


TYPICAL_TOKENS = 12
"""Tokens of a plain caption: for one of that length, the loss is that of a mean token."""


class Drafts:
    """Sentences for all scenes: looked at once by each model, they cost a scene one product.

    Args:
        cast: the models.
        count: how many are written; repeats are dropped.
        seed: decides them.

    Attributes:
        rows: tokens of the language model.
        texts: what they say.
    """

    def __init__(self, cast: Cast, count: int, seed: int) -> None:
        self.cast = cast
        generator = torch.Generator().manual_seed(seed)
        written = write_sentences(cast.lm, [()] * count, generator)
        rows = list(dict.fromkeys(row for row in written if row is not None))
        survives = Problem(cast.lm, [Term(Fluency(), cast.lm)]).words.survives(
            Ragged.from_lists(rows)
        )
        self.rows = [row for row, whole in zip(rows, survives, strict=True) if whole]
        self.texts = [cast.lm.words.decode(list(row)).strip() for row in self.rows]

    def score(self) -> None:
        """Let every model look at them now rather than when first needed."""
        _ = self.features, self.fluencies, self.opinions

    @cached_property
    def features(self) -> Tensor:
        """``(n, d)``: CLIP's, of unit length."""
        clip = self.cast.clip

        def ask(texts: Sequence[str]) -> Tensor:
            features = clip.encode_texts(texts, normalize=True).features
            assert features is not None
            return features.float()

        return _in_parts(ask, self.texts)

    @cached_property
    def fluencies(self) -> Tensor:
        """``(n,)``: what their fluency adds to the total loss."""
        asked = fluency()
        return asked.weight * _in_parts(asked.prepare(self.cast.lm).score, self.rows)

    @cached_property
    def opinions(self) -> Tensor:
        """``(n, labels)``: negative log-probabilities of the classifier's labels."""
        model = self.cast.sentiment

        def ask(texts: Sequence[str]) -> Tensor:
            logits = model.encode_texts(texts).logits
            assert logits is not None
            return -logits.float().log_softmax(dim=-1)

        return _in_parts(ask, self.texts)


def _in_parts(call: Callable[[Any], Tensor], rows: Sequence[Any]) -> Tensor:
    parts = [call(rows[begin : begin + _ROWS]) for begin in range(0, len(rows), _ROWS)]
    return torch.cat(parts)
