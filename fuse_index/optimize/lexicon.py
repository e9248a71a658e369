"""Whole words as moves: their tokens in the source, and their vectors in every model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import VocabularyError
from fuse_index.optimize.layer_store import kept_layer_vectors
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.optimize.layer_words import Progress
    from fuse_index.optimize.problem import Problem

_CHUNK_WORDS = 8192


@dataclass(frozen=True, eq=False)
class ModelWords:
    """Words in the tokens of one model.

    Attributes:
        tokens: ``N`` rows of token ids.
        vectors: ``(N, d)`` float32, the mean embedding of each word's tokens.
        mean: ``(d,)``, the mean of ``vectors``.
    """

    tokens: Ragged
    vectors: Tensor
    mean: Tensor

    @classmethod
    def of(cls, model: Model, words: Sequence[str]) -> ModelWords:
        """Tokenize words and average their embeddings, on the model's device."""
        tokens = model.words.encode_words(words)
        vectors = mean_vectors(tokens, model.table())
        return cls(tokens, vectors, vectors.mean(dim=0))


class Lexicon:
    """The words a prompt's words may be replaced by.

    Args:
        problem: whose source and models.
        words: candidates; those with a token that may not be used, or none, are left out.

    Attributes:
        words: ``N`` words.
        source: their tokens in the source.
        readers: those of the problem, whose bundles may have an index of the words.

    Raises:
        VocabularyError: no word is left.
    """

    def __init__(self, problem: Problem, words: Iterable[str]) -> None:
        given = list(dict.fromkeys(words))
        tokens = problem.source.words.encode_words(given)
        usable = _all_allowed(tokens, problem.allowed)
        usable &= problem.words.survives(tokens)
        for model in {id(term.model): term.model for term in problem.terms}.values():
            usable &= model.words.encode_words(given).lengths > 0
        kept = np.flatnonzero(usable)
        if not len(kept):
            raise VocabularyError(
                f"the filters leave none of {len(given)} words",
                expected=f"at least one word whose tokens {problem.source.name} may use",
                remedy="deny less, or give other words",
            )
        self.words = tuple(given[i] for i in kept)
        self.source = tokens.select(kept)
        self.readers = problem.readers
        self._models: dict[int, ModelWords] = {}
        self._layers: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.words)

    def of(self, model: Model) -> ModelWords:
        """Return the words in the tokens of a model, made once."""
        if id(model) not in self._models:
            self._models[id(model)] = ModelWords.of(model, self.words)
        return self._models[id(model)]

    def layers_of(self, model: Model, progress: Progress | None = None) -> Tensor:
        """Return the words' hidden states in every layer of a model, made once.

        Args:
            model: whose.
            progress: called with (words done, words in all) while they are made.

        Returns:
            ``(N, (layers + 1) * width)`` float32, :func:`~fuse_index.optimize.layer_words.
            layer_vectors`.

        Raises:
            ModelError: the model's layers cannot be told apart.
        """
        if id(model) not in self._layers:
            self._layers[id(model)] = kept_layer_vectors(
                model, self.of(model).tokens, progress=progress
            )
        return self._layers[id(model)]


def mean_vectors(tokens: Ragged, table: Tensor) -> Tensor:
    """Return the mean embedding of every row's tokens.

    Args:
        tokens: ``N`` rows of at least one id.
        table: ``(V, d)``.

    Returns:
        ``(N, d)`` float32 on the table's device.
    """
    parts = []
    for start in range(0, len(tokens), _CHUNK_WORDS):
        part = tokens.select(np.arange(start, min(start + _CHUNK_WORDS, len(tokens))))
        ids = torch.from_numpy(part.values).to(table.device)
        offsets = torch.from_numpy(part.offsets[:-1]).to(table.device)
        bags = torch.nn.functional.embedding_bag(ids, table.float(), offsets, mode="mean")
        parts.append(bags)
    return torch.cat(parts)


def replace_words(
    ids: Sequence[int],
    offsets: NDArray[np.int64],
    slots: Sequence[int],
    words: Sequence[Sequence[int]],
) -> list[int]:
    """Put words in the place of others.

    Args:
        ids: the prompt.
        offsets: ``(W + 1,)``, where each word of the prompt begins.
        slots: which of its words are replaced, none twice.
        words: the tokens that replace each.

    Returns:
        The new prompt.
    """
    out = list(ids)
    for slot, word in sorted(zip(slots, words, strict=True), reverse=True):
        out[int(offsets[slot]) : int(offsets[slot + 1])] = word
    return out


def _all_allowed(tokens: Ragged, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``(N,)``: rows that have tokens, all of them allowed."""
    bad = np.concatenate([[0], np.cumsum(~allowed[tokens.values])])
    found: NDArray[np.bool_] = bad[tokens.offsets[1:]] == bad[tokens.offsets[:-1]]
    return found & (tokens.lengths > 0)
