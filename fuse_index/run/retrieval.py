"""Initial prompts from a corpus: the sentences nearest to the images or texts of objectives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.common.progress import Progress, stage
from fuse_index.errors import CorpusError, OptionError
from fuse_index.objectives.features import FeatureLoss
from fuse_index.predict.sentences import SentenceSearch, sentence_features
from fuse_index.words.corpus.sentences import read_sentences
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.state import Ids

    Place = tuple[Model, tuple[object, ...]]
    """A model, and what surrounds the prompt there."""

_SPARE = 8
"""Sentences looked at first for each that is wanted: some may not be prompts."""


class SentenceCorpus:
    """Sentences of a corpus, with their features in every model that was asked.

    Args:
        given: files, folders, patterns or URLs.
        progress: called while features are computed.

    Attributes:
        texts: the sentences.

    Raises:
        CorpusError: nothing was given, a file is unreadable, or there is no sentence.
    """

    def __init__(self, given: Sequence[str], progress: Progress | None = None) -> None:
        if not given:
            raise CorpusError(
                "initial prompts by retrieval without a corpus",
                expected="files with sentences, text or captions in JSON",
                remedy="name them: initial.corpus",
            )
        self._given, self._progress = tuple(map(str, given)), progress
        self.texts = read_sentences(self._given)
        self._features: dict[Place, Tensor] = {}
        self._searches: dict[tuple[Place, ...], SentenceSearch] = {}

    def nearest(self, problem: Problem, count: int) -> list[Ids]:
        """Return the sentences that the objectives of similarity like best, as prompts.

        Sentences are ranked by the weighted sum of their cosines to the images or texts of all such
        objectives. Those with tokens that may not be used, that do not survive as text, or have no
        room in a model are passed over.

        Args:
            problem: the objectives.
            count: prompts, at most.

        Raises:
            OptionError: no objective compares the prompt with images or texts.
            CorpusError: no sentence may be a prompt.
        """
        found: dict[Ids, None] = {}
        for row in self._ranked(problem, count) if count else ():
            found |= dict.fromkeys(_usable(problem, [self.texts[index] for index in row]))
            if len(found) >= count:
                break
        if count and not found:
            raise CorpusError(
                f"corpus {', '.join(self._given)}: none of {len(self.texts):,} sentences may be a "
                "prompt",
                expected="one of allowed tokens that survives as text and has room in every model",
                remedy="give other sentences, or filter less (tokens)",
            )
        return list(found)[:count]

    def prepare(self, problem: Problem) -> None:
        """Compute the features that a problem needs, while progress can be shown."""
        for loss, _ in _similarities(problem):
            self._of(loss)

    def _ranked(self, problem: Problem, count: int) -> Iterator[NDArray[np.int64]]:
        """Yield sentences, the nearest first: some, and then the rest."""
        queries: dict[Place, Tensor] = {}
        features: dict[Place, Tensor] = {}
        for loss, weight in _similarities(problem):
            place = _place(loss)
            query = weight * loss.target.cpu()
            queries[place] = queries[place] + query if place in queries else query
            features[place] = self._of(loss)
        key = tuple(queries)
        if key not in self._searches:
            self._searches[key] = SentenceSearch(list(features.values()))
        search, query = self._searches[key], torch.cat(list(queries.values()))
        first = min(_SPARE * count, len(self.texts))
        yield search.nearest(query, first)
        if first < len(self.texts):
            yield search.nearest(query, len(self.texts))[first:]

    def _of(self, loss: FeatureLoss) -> Tensor:
        place = _place(loss)
        if place not in self._features:
            tick = stage(
                self._progress, f"features of {len(self.texts):,} sentences in {loss.model.name}"
            )
            self._features[place] = sentence_features(loss, self.texts, tick)
        return self._features[place]


def _place(loss: FeatureLoss) -> Place:
    return loss.model, loss.surroundings.key


def _similarities(problem: Problem) -> list[tuple[FeatureLoss, float]]:
    """The losses of objectives of similarity, with their weights.

    Raises:
        OptionError: there is none.
    """
    found = []
    for weight, span in zip(problem.weights.tolist(), problem.items.spans, strict=True):
        own = problem.losses[span]
        found += [(x, weight / len(own)) for x in own if isinstance(x, FeatureLoss) and weight]
    if not found:
        raise OptionError(
            "initial prompts by retrieval",
            expected="an objective 'image' or 'text', to which sentences are compared",
            remedy="draw them otherwise, or give texts",
        )
    return found


def _usable(problem: Problem, texts: Sequence[str]) -> list[Ids]:
    """The prompts that sentences make, without those that may be none."""
    rows = [ids for ids in map(problem.encode, texts) if ids and problem.allowed[list(ids)].all()]
    prompts = Ragged.from_lists(rows)
    if not len(prompts):
        return []
    read = {target: target.read(prompts).contents.lengths for target in set(problem.targets)}
    fits = problem.fits([read[target] for target in problem.targets])
    kept = np.flatnonzero(fits & problem.words.survives(prompts))
    return [rows[row] for row in kept.tolist()]
