"""Units: what a move replaces, a token or a word, with their vectors and states in every model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.progress import Tick
from fuse_index.errors import VocabularyError
from fuse_index.models.base import Model
from fuse_index.predict.own_tokens import OwnTokens
from fuse_index.predict.spans import Spans
from fuse_index.predict.store import are_kept, kept_states
from fuse_index.predict.target import PromptTerms, Target
from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.probes import probe_words

_CHUNK_WORDS = 8192


class Unit(str, Enum):
    """What a move replaces."""

    TOKEN = "token"
    """One token of the source."""
    WORD = "word"
    """A word with all its tokens, in every model at once."""


class Units(ABC):
    """``N`` candidates that may stand in a position of a prompt.

    Attributes:
        source: ``N`` rows of source ids.
        firsts: ``(N,)`` int64 on the CPU, the first source id of each.
    """

    unit: ClassVar[Unit]
    source: Ragged

    def __init__(self, source: Ragged) -> None:
        self.source = source
        self.firsts: Tensor = torch.from_numpy(source.values[source.offsets[:-1]])
        self._states: dict[Model, Tensor] = {}
        self._vectors: dict[Model, Tensor] = {}

    def __len__(self) -> int:
        return len(self.source)

    @property
    def filler(self) -> NDArray[np.int64]:
        """Source ids of a unit that is a word, for a position that has none yet."""
        return self.source[0]

    @abstractmethod
    def spans(self, ids: Sequence[int]) -> Spans:
        """Cut a prompt into its units."""

    @abstractmethod
    def tokens(self, model: Model) -> Ragged:
        """Return ``N`` rows of ids: the units in the tokens of a model."""

    @abstractmethod
    def vectors(self, model: Model) -> Tensor:
        """Return ``(N, d)`` float32: the mean embedding of each unit's tokens in a model."""

    @abstractmethod
    def replaced(
        self, spans: Spans, positions: NDArray[np.int64], units: NDArray[np.int64]
    ) -> Ragged:
        """Replace units of a prompt.

        Args:
            spans: the prompt.
            positions: ``(n, r)``, which of its units are replaced in each candidate.
            units: ``(n, r)``, which units replace them.

        Returns:
            ``n`` rows of source ids.
        """

    def states(self, model: Model, progress: Tick | None = None) -> Tensor:
        """Return the units' hidden states in every layer of a model, computed once.

        Args:
            model: runs the units.
            progress: called with (units done, units in all) while states are computed.

        Returns:
            ``(N, (layers + 1) * width)`` float32, see :func:`fuse_index.predict.states.
            hidden_states`.

        Raises:
            ModelError: the model's layers cannot be told apart.
        """
        if model not in self._states:
            self._states[model] = kept_states(model, self.tokens(model), progress=progress)
        return self._states[model]

    def prepare(self, target: Target, progress: Tick | None = None) -> None:
        """Compute the states that rank the units for a target, before they are needed.

        Args:
            target: whose model runs what :meth:`run_for` returns.
            progress: called with (units done, units in all).

        Raises:
            ModelError: the model's layers cannot be told apart.
        """
        self.states(target.model, progress)

    def run_for(self, target: Target) -> Ragged:
        """Return the rows of ids whose states rank the units for a target."""
        return self.tokens(target.model)

    def states_are_kept(self, model: Model) -> bool:
        """Whether :meth:`states` costs nothing."""
        return model in self._states or are_kept(model, self.tokens(model))


class TokenUnits(Units):
    """Tokens of the source.

    Args:
        source: the source model.
        allowed: ``(vocabulary,)`` bool, which tokens may be used.
    """

    unit = Unit.TOKEN

    def __init__(self, source: Model, allowed: NDArray[np.bool_]) -> None:
        ids = np.flatnonzero(allowed)
        super().__init__(Ragged(np.arange(len(ids) + 1), ids))
        self._row = torch.full((len(allowed),), -1, dtype=torch.int64)
        self._row[torch.from_numpy(ids)] = torch.arange(len(ids))
        self._model = source
        self._own: dict[Target, OwnTokens] = {}
        self._own_vectors: dict[Target, Tensor] = {}

    @cached_property
    def filler(self) -> NDArray[np.int64]:
        """A token that is an everyday word; the first where none may be used."""
        words = self._model.words
        rows = [row for row in words.encode_words(probe_words(words.backend)) if len(row) == 1]
        return next((row for row in rows if self._row[row[0]] >= 0), self.source[0])

    def own(self, target: Target) -> OwnTokens:
        """Return the tokens in those of a target."""
        if target not in self._own:
            self._own[target] = OwnTokens.of(target, self.source.values)
        return self._own[target]

    def own_vectors(self, target: Target) -> Tensor:
        """Return ``(N, d)`` float32: the mean embedding of each token's own tokens in a target.

        They tell which tokens are similar for the target; one without own tokens has their mean.
        """
        if target.same_tokens:
            return self.vectors(target.model)
        if target not in self._own_vectors:
            own = self.own(target)
            rows = mean_vectors(own.rows, target.model.table().detach())
            rows = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
            self._own_vectors[target] = rows[own.inside.to(rows.device)]
        return self._own_vectors[target]

    def prepare(self, target: Target, progress: Tick | None = None) -> None:
        """Compute the states of the tokens' own tokens in a target."""
        self.own(target).states(progress)

    def run_for(self, target: Target) -> Ragged:
        """Return the tokens' own tokens in a target, each row once."""
        return self.own(target).rows

    def spans(self, ids: Sequence[int]) -> Spans:
        """Cut a prompt into its tokens."""
        return Spans(tuple(ids), np.arange(len(ids) + 1))

    def tokens(self, model: Model) -> Ragged:
        """Return the tokens themselves: only models with the source's tokens are asked."""
        del model
        return self.source

    def vectors(self, model: Model) -> Tensor:
        """Return the tokens' embeddings in a model with the source's tokens."""
        if model not in self._vectors:
            table = model.table().detach()
            self._vectors[model] = table[self.firsts.to(table.device)].float()
        return self._vectors[model]

    def replaced(
        self, spans: Spans, positions: NDArray[np.int64], units: NDArray[np.int64]
    ) -> Ragged:
        """Replace tokens of a prompt: all candidates have its length."""
        rows = np.repeat(np.array(spans.ids, dtype=np.int64)[None], len(positions), axis=0)
        np.put_along_axis(rows, positions, self.source.values[units], axis=1)
        return Ragged.from_rows(rows)

    def standing(self, spans: Spans, positions: Sequence[int]) -> Tensor:
        """Return ``(S,)`` int64: the tokens in positions, -1 for one that may not be used."""
        return self._row[torch.tensor(spans.ids)[list(positions)]]


class WordUnits(Units):
    """Words, with all their tokens in every model.

    Args:
        terms: source and targets.
        words: candidates; those with a token that may not be used, or without tokens in a model,
            are left out.
        allowed: ``(vocabulary,)`` bool, which tokens of the source may be used.

    Attributes:
        words: ``N`` words.
        targets: those of the terms, whose bundles may have an index of the words.

    Raises:
        VocabularyError: no word is left.
    """

    unit = Unit.WORD

    def __init__(
        self, terms: PromptTerms, words: Iterable[str], allowed: NDArray[np.bool_]
    ) -> None:
        given = list(dict.fromkeys(words))
        tokens = terms.source.words.encode_words(given)
        usable = _all_allowed(tokens, allowed) & terms.words.stand(tokens)
        self.targets: tuple[Target, ...] = terms.targets
        for model in dict.fromkeys(target.model for target in self.targets):
            usable &= model.words.encode_words(given).lengths > 0
        kept = np.flatnonzero(usable)
        if not len(kept):
            raise VocabularyError(
                f"the filters leave none of {len(given)} words",
                expected=f"at least one word whose tokens {terms.source.name} may use",
                remedy="deny less, or give other words",
            )
        super().__init__(tokens.select(kept))
        self.words = tuple(given[i] for i in kept)
        self._source_words = terms.words
        self._tokens: dict[Model, Ragged] = {}

    def spans(self, ids: Sequence[int]) -> Spans:
        """Cut a prompt into its words."""
        offsets, _ = self._source_words.offsets(Ragged.from_lists([ids]))
        return Spans(tuple(ids), offsets)

    def tokens(self, model: Model) -> Ragged:
        """Return the words in the tokens of a model."""
        if model not in self._tokens:
            self._tokens[model] = model.words.encode_words(self.words)
        return self._tokens[model]

    def vectors(self, model: Model) -> Tensor:
        """Return the mean embedding of each word's tokens in a model."""
        if model not in self._vectors:
            self._vectors[model] = mean_vectors(self.tokens(model), model.table())
        return self._vectors[model]

    def mean(self, model: Model) -> Tensor:
        """Return ``(d,)``: the mean of :meth:`vectors`, the *mean word*."""
        return self.vectors(model).mean(dim=0)

    def words_of(self, spans: Spans, target: Target) -> Tensor:
        """Return ``(P, d)`` float32: the mean embedding in a model of each word of a prompt.

        Zero where words join in the model's tokens.
        """
        read = target.read(Ragged.from_lists([spans.ids]))
        offsets = spans.offsets if read.words is None else read.words.target_word_offsets
        table = target.model.table()
        if len(offsets) - 1 != len(spans):
            return torch.zeros(len(spans), table.shape[1], device=table.device)
        rows = Ragged(offsets, read.contents.values)
        return mean_vectors(rows, table)

    def replaced(
        self, spans: Spans, positions: NDArray[np.int64], units: NDArray[np.int64]
    ) -> Ragged:
        """Replace words of a prompt."""
        rows = [
            replace_spans(spans, own, [self.source[unit].tolist() for unit in new])
            for own, new in zip(positions.tolist(), units.tolist(), strict=True)
        ]
        return Ragged.from_lists(rows)


def mean_vectors(tokens: Ragged, table: Tensor) -> Tensor:
    """Return the mean embedding of every row's tokens.

    Args:
        tokens: ``N`` rows of at least one id.
        table: ``(V, d)``.

    Returns:
        ``(N, d)`` float32 on the table's device.
    """
    parts, table = [], table.float()
    for start in range(0, len(tokens), _CHUNK_WORDS):
        part = tokens.select(np.arange(start, min(start + _CHUNK_WORDS, len(tokens))))
        ids = torch.from_numpy(part.values).to(table.device)
        offsets = torch.from_numpy(part.offsets[:-1]).to(table.device)
        bags = torch.nn.functional.embedding_bag(ids, table, offsets, mode="mean")
        parts.append(bags)
    return torch.cat(parts)


def replace_spans(
    spans: Spans, positions: Sequence[int], units: Sequence[Sequence[int]]
) -> list[int]:
    """Return the ids of a prompt with other ids in some of its spans, none of them twice."""
    out = list(spans.ids)
    for position, unit in sorted(zip(positions, units, strict=True), reverse=True):
        out[int(spans.offsets[position]) : int(spans.offsets[position + 1])] = unit
    return out


def _all_allowed(tokens: Ragged, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``(N,)``: rows that have tokens, all of them allowed."""
    bad = np.concatenate([[0], np.cumsum(~allowed[tokens.values])])
    found: NDArray[np.bool_] = bad[tokens.offsets[1:]] == bad[tokens.offsets[:-1]]
    return found & (tokens.lengths > 0)
