"""What is optimized: prompts of one model, under losses of any number of models."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuse_index.adapter.adapter import Adapter
from fuse_index.errors import ModelError, OptionError
from fuse_index.models.base import Model
from fuse_index.models.boundaries import surround
from fuse_index.models.reading import Reading
from fuse_index.models.surroundings import Surroundings
from fuse_index.objectives.base import Loss, Objective
from fuse_index.optimize.items import ItemGroups
from fuse_index.optimize.passes import Passes, PassMemo
from fuse_index.optimize.state import Ids
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.predict.target import SourceWords, Target
from fuse_index.predict.units import TokenUnits, Unit, Units, WordUnits
from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.probes import probe_prompts


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
        losses: the objectives bound to their models, in the order of the terms; one for each item
            of an objective that has items.
        items: which losses are items of which term, and what they make together.
        targets: the target that reads the prompts of each loss; those of one model share it where
            prompts are read alike in what surrounds them.
        surroundings: what stands around the prompt for the source, in its first term; None
            where it has none.
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
        self.items = ItemGroups([term.objective for term in self.terms])
        self.losses: tuple[Loss, ...] = tuple(
            part.prepare(term.model) for term in self.terms for part in term.objective.parts
        )
        own = (loss.surroundings for loss in self.losses if loss.model is source)
        self.surroundings: Surroundings | None = next(own, None)
        self._reading: Reading = (self.surroundings or surround(source)).reading
        self._texts = self._reading.texts(source.words)
        self._place()
        self.targets = self._read()
        self.weights: NDArray[np.float64] = np.array([t.objective.weight for t in self.terms])
        self.names = _names(self.terms)
        """A name for every term: the type of its objective, numbered where two are alike."""
        self.words = SourceWords(source, self._reading)
        self._given_words = words
        self._room = tuple(_room(loss) for loss in self.losses)
        self.runner: Passes = Passes()
        """Runs the models."""
        self.shared_memo = PassMemo()
        """Runs those of the problems that :meth:`with_objective` makes."""

    def with_objective(self, term: int, objective: Objective) -> Problem:
        """Return this problem with another objective, which compares prompts with something else.

        All else is shared: models, words, targets, the other losses, and what runs that begin
        alike compute.

        Args:
            term: which objective is replaced.
            objective: the other one, with the same text around the prompt and as many items.

        Raises:
            OptionError: one of the two is not of similarity, or it has another text around the
                prompt, or another number of items.
            ModelError: it does not fit the model.
        """
        own, span = self.terms[term], self.items.spans[term]
        made = tuple(part.prepare(own.model) for part in objective.parts)
        same = [
            new.shares_outputs
            and old.shares_outputs
            and new.surroundings.text_before == old.surroundings.text_before
            and new.surroundings.text_after == old.surroundings.text_after
            for new, old in zip(made, self.losses[span], strict=False)
        ]
        if len(made) != len(self.losses[span]) or not all(same):
            raise OptionError(
                f"objective {objective.type!r} in place of {own.objective.type!r}",
                expected="one of similarity, with the same text around and as many items",
            )
        for new, old in zip(made, self.losses[span], strict=True):
            new.surroundings = old.surroundings
        found = copy(self)
        found.runner = self.shared_memo
        found.losses = (*self.losses[: span.start], *made, *self.losses[span.stop :])
        terms = list(self.terms)
        terms[term] = replace(own, objective=objective)
        found.terms = tuple(terms)
        found.items = ItemGroups([item.objective for item in terms])
        found.weights = np.array([item.objective.weight for item in terms])
        found.names = _names(found.terms)
        return found

    @cached_property
    def opening(self) -> Surroundings:
        """What surrounds the prompt for the source in its first term with a text before it."""
        own = [loss.surroundings for loss in self.losses if loss.model is self.source]
        begun = (around for around in own if around.text_before)
        return next(begun, None) or self.surroundings or surround(self.source)

    def _place(self) -> None:
        """Tokenize what stands around the prompts of models with other tokens."""
        source = self.source.words
        texts = self._texts.decode_batch(
            source.encode_running(probe_prompts(source.backend)).to_lists()
        )
        for loss in self.losses:
            if loss.model.words.fingerprint != source.fingerprint:
                loss.place(texts)

    def _read(self) -> tuple[Target, ...]:
        """One target a model and reading, with the adapter of the model's first term with one."""
        adapters: dict[Model, Adapter] = {}
        for term in self.terms:
            if term.adapter is not None:
                adapters.setdefault(term.model, term.adapter)
        made: dict[tuple[Model, Reading | None], Target] = {}
        found = []
        for loss in self.losses:
            model, reading = loss.model, loss.surroundings.reading
            same = model.words.fingerprint == self.source.words.fingerprint
            key = model, None if same else reading
            if key not in made:
                made[key] = Target(
                    self.source,
                    model,
                    adapters.get(model),
                    reading=reading,
                    source_reading=self._reading,
                )
            found.append(made[key])
        return tuple(found)

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
        return bool(self.candidate_words())

    @cached_property
    def _token_units(self) -> TokenUnits:
        return TokenUnits(self.source, self.allowed)

    def candidate_words(self) -> Sequence[str]:
        """Return the words of word-level moves: those given, else those of the adapters."""
        if self._given_words is not None:
            return self._given_words
        adapters = [target.adapter for target in self.targets if target.adapter is not None]
        bundles = [adapter.bundle for adapter in adapters if adapter.bundle is not None]
        return [word for bundle in bundles for word in bundle.table.words]

    @cached_property
    def word_units(self) -> WordUnits:
        """The words of word-level moves; see :meth:`units`."""
        words = self.candidate_words()
        if not words:
            raise OptionError(
                "word-level moves without words",
                expected="words, or an adapter that comes from a bundle",
                remedy="give the words to the problem",
            )
        return WordUnits(self, words, self.allowed)

    def encode(self, text: str) -> Ids:
        """Tokenize a prompt.

        Args:
            text: a prompt as :meth:`decode` gives it, if it begins with white space; else it is
                read as inside running text, behind a space.
        """
        words, reading = self.source.words, self._reading
        if not (text[:1].isspace() or reading.bare):
            return tuple(words.encode_running([text])[0].tolist())
        return tuple(reading.encode(words, text))

    def begun(self, prompts: Ragged) -> Ragged:
        """Return prompts of words as they begin here: without a space where none can stand.

        Args:
            prompts: ``n`` rows of source ids, drawn or written from the middle of texts.
        """
        if not self._reading.bare:
            return prompts
        texts = self._texts.decode_batch(prompts.to_lists())
        return Ragged.from_lists([list(self.encode(text.lstrip())) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt, as it stands between what surrounds it for the source."""
        return self._texts.decode(list(ids))

    def texts(self, loss: int, prompts: Ragged) -> list[str]:
        """Return the texts of prompts as they stand for the model of one loss.

        The same for all, but for the space with which some tokenizers begin a text: where one
        loss's model reads the source's tokens at the beginning and the other's inside a text.

        Args:
            loss: which.
            prompts: ``n`` rows of source ids.
        """
        rows = prompts.to_lists()
        if self.targets[loss].same_tokens:
            return self.losses[loss].surroundings.decode(rows)
        return self._texts.decode_batch(rows)

    def full_texts(self, ids: Sequence[int]) -> dict[str, str]:
        """Return the whole text that each term's model reads, by the name of the term.

        Args:
            ids: a prompt.

        Returns:
            A text for every term, or for every item of one that has items, as ``continuation[0]``.
        """
        prompts = Ragged.from_lists([list(ids)])
        return {
            name: loss.surroundings.full_text(self.texts(index, prompts)[0])
            for index, (name, loss) in enumerate(zip(self.loss_names, self.losses, strict=True))
        }

    @property
    def loss_names(self) -> tuple[str, ...]:
        """A name for every loss: that of its term, with the number of the item if it is one."""
        return self.items.loss_names(self.names)

    def fits(self, lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Say which prompts have some content and room in the positions of every model.

        Args:
            lengths: for every loss ``(n,)``, content tokens in its model.

        Returns:
            ``(n,)``.
        """
        found = [self.has_room(loss, counts) for loss, counts in enumerate(lengths)]
        together: NDArray[np.bool_] = np.logical_and.reduce(found)
        return together

    def has_room(self, loss: int, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which prompts have some content and room in the positions of one loss's model.

        Args:
            loss: which.
            lengths: ``(n,)``, content tokens in its model.

        Returns:
            ``(n,)``.
        """
        room = self._room[loss]
        found = lengths > 0
        return found if room is None else found & (lengths <= room)

    def passes(self, used: NDArray[np.bool_]) -> int:
        """Return how many forward passes one prompt costs.

        Args:
            used: ``(losses,)``, those that are computed.

        Returns:
            One for all models together, or one for every item of the objective with the most.
        """
        return self.items.passes(used)

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
                if value or name != "allow_added"  # runs before the option was there go on
            },
        }


def _names(terms: tuple[Term, ...]) -> tuple[str, ...]:
    types = [term.objective.type for term in terms]
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
