"""What is optimized: prompts of one model, under losses of any number of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.errors import ModelError, OptionError
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.predict.target import SourceWords, Target
from fuse_index.predict.units import TokenUnits, Unit, Units, WordUnits

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.models.base import Model
    from fuse_index.objectives.base import Loss, Objective
    from fuse_index.optimize.state import Ids


@dataclass(frozen=True, eq=False)
class Term:
    """One objective for one model.

    Attributes:
        objective: what is wanted.
        model: the model that scores the prompt.
        adapter: from the source to the model, for predictors that go through it; not needed where
            the model has the source's tokens.
    """

    objective: Objective
    model: Model
    adapter: Adapter | None = None


class Problem:
    """Prompts in the tokens of a source model, and a weighted sum of losses.

    Args:
        source: the model whose tokens prompts are made of; of any kind.
        terms: at least one.
        tokens: which tokens may be used.
        words: the words of word-level moves; by default those of the adapters' bundles.

    Attributes:
        losses: the objectives bound to their models, in the order of the terms.
        targets: the target that reads the prompts of each term; terms of one model share it.
        weights: ``(terms,)``, as the objectives have them.

    Raises:
        OptionError: there is no term, or all weights are zero.
        ModelError: an objective does not fit its model, or prefix and suffix leave no room.
        IdentityError: an adapter was built for other models.
    """

    def __init__(
        self,
        source: Model,
        terms: Sequence[Term],
        *,
        tokens: TokenFilter | None = None,
        words: Sequence[str] | None = None,
    ) -> None:
        if not terms or not any(term.objective.weight for term in terms):
            raise OptionError(
                f"a problem of {len(terms)} terms, none with a weight",
                expected="at least one objective with a weight other than 0",
            )
        self.source = source
        self.terms = tuple(terms)
        self.tokens = tokens or TokenFilter()
        self.targets = _targets(source, self.terms)
        self.losses: tuple[Loss, ...] = tuple(
            term.objective.prepare(term.model) for term in self.terms
        )
        self.weights: NDArray[np.float64] = np.array([t.objective.weight for t in self.terms])
        self.names = _names(self.losses)
        """A name for every term: the type of its objective, numbered where two are alike."""
        self.words = SourceWords(source)
        self._given_words = words
        self._room = tuple(_room(loss) for loss in self.losses)

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """``(vocabulary size,)``: tokens of the source that may be used."""
        return self.tokens.allowed(self.source)

    def units(self, unit: Unit) -> Units:
        """Return the candidates of moves.

        Args:
            unit: tokens that may be used, or words.

        Raises:
            OptionError: no words were given, and no adapter comes from a bundle.
            VocabularyError: the filters leave none.
        """
        return self.word_units if unit is Unit.WORD else self._token_units

    @property
    def has_words(self) -> bool:
        """Whether there are words for word-level moves."""
        return bool(self._candidate_words())

    @cached_property
    def _token_units(self) -> TokenUnits:
        return TokenUnits(self.source, self.allowed)

    def _candidate_words(self) -> Sequence[str]:
        if self._given_words is not None:
            return self._given_words
        adapters = [target.adapter for target in self.targets if target.adapter is not None]
        bundles = [adapter.bundle for adapter in adapters if adapter.bundle is not None]
        return [word for bundle in bundles for word in bundle.table.words]

    @cached_property
    def word_units(self) -> WordUnits:
        """The words of word-level moves; see :meth:`units`."""
        words = self._candidate_words()
        if not words:
            raise OptionError(
                "word-level moves without words",
                expected="words, or an adapter that comes from a bundle",
                remedy="give the words to the problem",
            )
        return WordUnits(self, words, self.allowed)

    def encode(self, text: str) -> Ids:
        """Tokenize a text as the beginning of a prompt: as it stands inside running text."""
        return tuple(self.source.words.encode_running([text])[0].tolist())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt."""
        return self.source.words.decode(list(ids))

    def fits(self, lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Say which prompts have some content and room in the positions of every model.

        Args:
            lengths: for every term ``(n,)``, content tokens in its model.

        Returns:
            ``(n,)``.
        """
        found = [self.has_room(term, counts) for term, counts in enumerate(lengths)]
        together: NDArray[np.bool_] = np.logical_and.reduce(found)
        return together

    def has_room(self, term: int, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which prompts have some content and room in the positions of one term's model.

        Args:
            term: which.
            lengths: ``(n,)``, content tokens in its model.

        Returns:
            ``(n,)``.
        """
        room = self._room[term]
        found = lengths > 0
        return found if room is None else found & (lengths <= room)

    def describe(self) -> dict[str, Any]:
        """Return source, terms and filters as a JSON object."""
        return {
            "source": _describe_model(self.source),
            "terms": [
                {"model": _describe_model(term.model), "objective": _plain(term.objective)}
                for term in self.terms
            ],
            "tokens": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(self.tokens).items()
            },
        }


def _targets(source: Model, terms: tuple[Term, ...]) -> tuple[Target, ...]:
    """One target a model, with the adapter of the first term that has one."""
    made: dict[int, Target] = {}
    for term in terms:
        known = made.get(id(term.model))
        if known is None or (known.adapter is None and term.adapter is not None):
            made[id(term.model)] = Target(source, term.model, term.adapter)
    return tuple(made[id(term.model)] for term in terms)


def _names(losses: tuple[Loss, ...]) -> tuple[str, ...]:
    types = [loss.objective.type for loss in losses]
    seen: dict[str, int] = {}
    names = []
    for kind in types:
        seen[kind] = seen.get(kind, 0) + 1
        names.append(f"{kind} {seen[kind]}" if types.count(kind) > 1 else kind)
    return tuple(names)


def _room(loss: Loss) -> int | None:
    """Content tokens that have room between what stands around them, None without a limit."""
    if loss.model.positions is None:
        return None
    try:
        fixed = loss.batch([[loss.model.frame.pad]]).totals.item() - 1
    except ModelError as error:
        raise ModelError(
            f"{loss.name}: {error.given}, with a prompt of one token",
            expected=error.expected,
            remedy="shorten the prefix or the suffix",
        ) from error
    return loss.model.positions - int(fixed)


def _describe_model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "revision": model.revision,
        "kind": model.kind.value,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer_hash": model.words.fingerprint,
    }


def _plain(objective: Objective) -> dict[str, Any]:
    """The options of an objective; what cannot be written down by its type."""
    try:
        return objective.to_json()
    except OptionError:
        return {"type": objective.type, "weight": objective.weight}
