"""Targets: models that read the source's prompts, the same text in other tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.adapter import Adapter
from fuse_index.adapter.layout import WordLayout
from fuse_index.bundle.identity import require_model
from fuse_index.errors import OptionError, ShapeError
from fuse_index.models.base import Model
from fuse_index.models.reading import Reading
from fuse_index.objectives.base import Loss
from fuse_index.predict.store import offer_states
from fuse_index.words.ragged import Ragged
from fuse_index.words.retokenize.retokenizer import Retokenized, Retokenizer


class PromptTerms(Protocol):
    """Prompts of a source under losses of several models: what predictions are made for.

    Attributes:
        source: the model whose tokens prompts are made of.
        losses: one for every term, or for every item of a term.
        targets: the targets that read the prompts, one a loss; those of one model share it.
        words: cuts prompts into words.
    """

    source: Model
    losses: tuple[Loss, ...]
    targets: tuple[Target, ...]
    words: SourceWords

    def passes(self, used: NDArray[np.bool_]) -> int:
        """Return how many forward passes one prompt costs if some ``(losses,)`` are computed."""


@dataclass(frozen=True, eq=False)
class TargetPrompts:
    """Prompts in the tokens of one model.

    Attributes:
        contents: ``n`` rows of the model's token ids.
        words: the words of the rows in both models' tokens; None where both have the same tokens.
    """

    contents: Ragged
    words: Retokenized | None


class Target:
    """A model that reads the source's prompts, with its retokenizer and adapter.

    Args:
        source: the model whose tokens prompts are made of.
        model: the model that reads them; it may be the source.
        adapter: carries its gradients back to the source's tokens; None where none is needed.
        reading: how the model reads prompts between the text around them.
        source_reading: how the source does.

    Raises:
        IdentityError: the adapter comes from a bundle of other models.
        ShapeError: the adapter has other widths.
    """

    def __init__(
        self,
        source: Model,
        model: Model,
        adapter: Adapter | None = None,
        *,
        reading: Reading | None = None,
        source_reading: Reading | None = None,
    ) -> None:
        self.source = source
        self.model = model
        self.is_source = model is source
        self.same_tokens = self.is_source or model.words.fingerprint == source.words.fingerprint
        self.adapter = None if adapter is None or self.same_tokens else self._checked(adapter)
        self._retokenizer: Retokenizer | None = None
        if not self.same_tokens:
            bundle = None if self.adapter is None else self.adapter.bundle
            table = None if bundle is None else bundle.table
            reading = reading or Reading()
            texts = reading.read((source_reading or Reading()).texts(source.words))
            self._retokenizer = Retokenizer(texts, reading.encoder(model.words), table)

    def _checked(self, adapter: Adapter) -> Adapter:
        source, model = self.source, self.model
        widths = adapter.source_width, adapter.target_width
        if adapter.bundle is not None:
            manifest = adapter.bundle.manifest
            require_model("source", manifest.source, source.identity(), "the adapter")
            require_model("target", manifest.target, model.identity(), "the adapter")
            for own in (source, model):
                offer_states(own, adapter.bundle)
        if widths != (source.width, model.width):
            raise ShapeError(
                f"an adapter of widths {widths[0]} to {widths[1]}",
                expected=f"{source.width} to {model.width}, from {source.name} to {model.name}",
                remedy=f"build the adapter of this pair: fuse-index build {source.name} "
                f"{model.name}",
            )
        return adapter.to(model.device)

    def read(self, prompts: Ragged) -> TargetPrompts:
        """Retokenize rows of source ids.

        Args:
            prompts: ``n`` rows of the source's token ids.
        """
        if self._retokenizer is None:
            return TargetPrompts(prompts, None)
        words = self._retokenizer.retokenize(prompts.padded(fill=0), prompts.lengths)
        return TargetPrompts(words.target, words)

    def require_adapter(self) -> None:
        """Refuse to send a gradient back without an adapter.

        Raises:
            OptionError: the model has other tokens than the source, and no adapter.
        """
        if self.adapter is None and not self.same_tokens:
            raise OptionError(
                f"{self.model.name}: no adapter from {self.source.name}",
                expected="one for every model with other tokens whose gradient is wanted",
                remedy=f"build it: fuse-index build {self.source.name} {self.model.name}",
            )

    def source_rows(self, ids: NDArray[np.int64]) -> Tensor:
        """Return the source's embeddings of its tokens ``(n,)``: ``(n, d_src)`` float32."""
        table = self.source.table().detach()
        rows = table[torch.from_numpy(ids).to(table.device)].float()
        return rows if self.adapter is None else rows.to(self.adapter.device)

    def layout(self, prompts: TargetPrompts) -> WordLayout:
        """Lay out the words of prompts, each with the adapter of its group.

        Raises:
            OptionError: this model has no adapter.
        """
        self.require_adapter()
        words = prompts.words
        assert self.adapter is not None
        assert words is not None
        return self.adapter.layout(
            words.source_counts, words.target_counts, np.diff(words.word_row_offsets)
        )


class SourceWords:
    """The words of source prompts, and whether the prompts survive being read as text.

    Args:
        source: the model whose tokens prompts are made of.
        reading: how it reads prompts between the text around them.
    """

    def __init__(self, source: Model, reading: Reading | None = None) -> None:
        self.source = source
        reading = reading or Reading()
        self._retokenizer = _own(source, reading)
        inside = Reading(continued=reading.continued)
        self._inside = self._retokenizer if reading == inside else _own(source, inside)

    def survives(self, prompts: Ragged) -> NDArray[np.bool_]:
        """``(n,)``: whether decoding and encoding a row gives its tokens again, and some text."""
        return _reads_again(self._retokenizer, prompts)

    def stand(self, words: Ragged) -> NDArray[np.bool_]:
        """``(n,)``: the same for words as they stand inside a prompt, if not at its beginning."""
        return _reads_again(self._inside, words)

    def offsets(self, prompts: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cut prompts at white space.

        Returns:
            ``(W + 1,)`` where each word begins in ``prompts.values``, and ``(n + 1,)`` the first
            word of each row.
        """
        words = self._retokenizer.retokenize(prompts.padded(fill=0), prompts.lengths)
        return words.source_word_offsets, words.word_row_offsets


def _reads_again(retokenizer: Retokenizer, prompts: Ragged) -> NDArray[np.bool_]:
    again = retokenizer.retokenize(prompts.padded(fill=0), prompts.lengths).target
    same: NDArray[np.bool_] = again.lengths == prompts.lengths
    rows = np.flatnonzero(same)
    equal = prompts.select(rows).values == again.select(rows).values
    row_of = np.repeat(rows, prompts.lengths[rows])
    same[row_of[~equal]] = False
    return same


def _own(source: Model, reading: Reading) -> Retokenizer:
    """What reads the source's prompts as text in its own tokens."""
    return Retokenizer(reading.read(reading.texts(source.words)), reading.encoder(source.words))
