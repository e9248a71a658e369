"""Anchors: prompts near the current one, over whose gradients a prediction is averaged.

A first-order prediction made at the current token or word is a poor one for those far from it. The
same gradient averaged over a few others in the place, the anchors, is a far better one
(docs/mathematics.md). A place holds a token or a word; what can stand there is given as rows of
source ids, so that methods of tokens and of words draw and weigh their anchors alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fuse_index.errors import OptionError
from fuse_index.optimize.lexicon import replace_words
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.merit import draw_ranked, require_causal
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.methods.base import Context
    from fuse_index.optimize.state import Ids

SHARPNESS = 4.0
"""How sharply likeness weighs anchors: the inverse temperature of a softmax of cosines."""
_ALL_SHARE = 0.5
"""Probability that a place is replaced, where all are at once."""


class AnchorSource(str, Enum):
    """Where anchors come from."""

    VOCABULARY = "vocabulary"
    """Any token or word that may be used, drawn evenly."""
    MODEL = "model"
    """Those that the source, a causal language model, expects in the place behind what stands
    before it; costs one forward pass a prompt."""
    SCORED = "scored"
    """The latest candidates scored in the place, for free: their losses correct what the gradient
    at the prompt predicts for others like them (:mod:`fuse_index.optimize.hindsight`)."""


class AnchorPlaces(str, Enum):
    """What an anchor replaces."""

    OWN = "own"
    """One place: every place has anchors of its own, and a gradient for each of them."""
    ALL = "all"
    """Every place with probability 1/2: each gradient counts for all places at once."""

    @property
    def own(self) -> bool:
        """Whether every place has anchors of its own."""
        return self is AnchorPlaces.OWN


class AnchorAverage(str, Enum):
    """How the predictions from the anchors are put together."""

    PLAIN = "plain"
    """The mean of their gradients."""
    WEIGHTED = "weighted"
    """Every candidate weighs the anchors' own linear predictions by its likeness to them."""


@dataclass(frozen=True, kw_only=True)
class AnchorOptions:
    """Options of anchored gradients, shared by the methods that rank by a gradient.

    Attributes:
        anchors: gradients that a prediction is averaged over, for each place with ``anchor_places``
            "own", for each prompt with "all"; 0 takes the gradient at the prompt itself. With the
            source "scored", candidates remembered in each place, which cost nothing.
        anchor_source: where anchors come from.
        anchor_places: what an anchor replaces.
        anchor_average: how the predictions from the anchors are put together.
    """

    anchors: int = 0
    anchor_source: AnchorSource = AnchorSource.VOCABULARY
    anchor_places: AnchorPlaces = AnchorPlaces.OWN
    anchor_average: AnchorAverage = AnchorAverage.PLAIN

    @property
    def from_scored(self) -> bool:
        """Whether candidates that were scored stand for anchors."""
        return self.anchors > 0 and self.anchor_source is AnchorSource.SCORED

    def check_anchors(self, *, own_only: bool = False, swaps: bool = True) -> None:
        """Turn strings into enums and refuse what does not go together.

        Args:
            own_only: whether the method asks about one place at a time.
            swaps: whether its candidates are swaps in places, which can be learned from.

        Raises:
            OptionError: an option is outside its range, or two exclude each other.
        """
        name = getattr(self, "type", "")
        if isinstance(self.anchors, bool) or self.anchors < 0:
            raise OptionError(f"{name}: anchors={self.anchors}", expected="at least 0")
        for option, choices in _CHOICES.items():
            value = getattr(self, option)
            try:
                object.__setattr__(self, option, choices(value))
            except ValueError:
                raise OptionError(
                    f"{name}: {option} {value!r}",
                    expected="one of " + ", ".join(str(choice.value) for choice in choices),
                ) from None
        if self.anchor_source is AnchorSource.SCORED and not swaps:
            raise OptionError(
                f"{name}: anchor_source 'scored'",
                expected="another source: its candidates are no swaps in places that stay",
            )
        if self.anchor_source is AnchorSource.SCORED and not self.anchor_places.own:
            raise OptionError(
                f"{name}: anchor_source 'scored' with anchor_places 'all'",
                expected="anchor_places 'own': a candidate tells about its place",
            )
        if own_only and not self.anchor_places.own:
            raise OptionError(
                f"{name}: anchor_places 'all'",
                expected="'own': it asks about one place of a prompt at a time",
            )
        if self.anchor_average is AnchorAverage.WEIGHTED and not self.anchor_places.own:
            raise OptionError(
                f"{name}: anchor_average 'weighted' with anchor_places 'all'",
                expected="anchor_places 'own': the losses of other places are not the place's",
            )


_CHOICES: dict[str, type[Enum]] = {
    "anchor_source": AnchorSource,
    "anchor_places": AnchorPlaces,
    "anchor_average": AnchorAverage,
}


@dataclass(frozen=True, eq=False)
class Anchored:
    """The anchors of some places of one prompt.

    Attributes:
        rows: ``R`` prompts whose gradient is to be taken. With places of their own, those of the
            first place come first, ``R / S`` a place.
        slots: ``(R,)`` the place that counts in each; None where all do.
        units: ``(R,)`` int64, which token or word stands there; None where all places count.
        each: ``R / S``, with places of their own.
    """

    rows: Ragged
    slots: NDArray[np.int64] | None
    units: NDArray[np.int64] | None
    each: int = 1


@dataclass(eq=False)
class AnchorDrawer:
    """Draws anchors for places of prompts.

    Attributes:
        options: what is drawn.
        context: of the run.
        pool: ``N`` rows of source ids that can stand in a place: tokens or words.
    """

    options: AnchorOptions
    context: Context
    pool: Ragged
    _likelihood: Likelihood | None = field(default=None, init=False)
    _firsts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._firsts = torch.from_numpy(self.pool.values[self.pool.offsets[:-1]])
        if self.options.anchors and self.options.anchor_source is AnchorSource.MODEL:
            problem = self.context.problem
            source: CausalModel = require_causal(problem.source, "anchors from the model")
            self._likelihood = Likelihood(problem, source, self.context.gradients.spent)

    def draw(self, ids: Ids, offsets: NDArray[np.int64], slots: Sequence[int]) -> Anchored:
        """Draw anchors for places of a prompt.

        Args:
            ids: the prompt.
            offsets: ``(W + 1,)`` where each of its places begins.
            slots: ``S`` of the places.
        """
        likely = None
        if self._likelihood is not None:
            likely = self._likelihood.along(ids)[offsets[:-1]][:, self._firsts]
        if not self.options.anchor_places.own:
            return Anchored(self._everywhere(ids, offsets, likely), None, None)
        return self.own(ids, offsets, slots, None if likely is None else likely[list(slots)])

    def own(
        self,
        ids: Ids,
        offsets: NDArray[np.int64],
        slots: Sequence[int],
        likely: Tensor | None = None,
    ) -> Anchored:
        """Draw anchors that each stand in one place.

        Args:
            ids: the prompt.
            offsets: ``(W + 1,)`` where each of its places begins.
            slots: ``S`` of the places.
            likely: ``(S, N)`` log-probabilities of what can stand there; None draws evenly.
        """
        count = self.options.anchors
        units = self._units(len(slots), count, likely)
        rows = [
            replace_words(ids, offsets, [slot], [self.pool[unit].tolist()])
            for slot, own in zip(slots, units.tolist(), strict=True)
            for unit in own
        ]
        return Anchored(
            Ragged.from_lists(rows),
            np.repeat(np.asarray(slots, np.int64), units.shape[1]),
            units.reshape(-1).numpy(),
            units.shape[1],
        )

    def _units(self, places: int, count: int, likely: Tensor | None) -> Tensor:
        """``(places, count)`` int64: which tokens or words; likely ones without repeats."""
        generator = self.context.generator
        if likely is None:
            return torch.randint(0, len(self.pool), (places, count), generator=generator)
        count = min(count, len(self.pool))
        return torch.stack([draw_ranked(own, count, 1.0, generator) for own in likely])

    def _everywhere(self, ids: Ids, offsets: NDArray[np.int64], likely: Tensor | None) -> Ragged:
        """Prompts with every place replaced with probability 1/2."""
        places, count = len(offsets) - 1, self.options.anchors
        units = self._units(places, count, likely).tolist()
        chosen = torch.rand((count, places), generator=self.context.generator) < _ALL_SHARE
        rows = []
        for i in range(len(units[0])):
            slots = chosen[i].nonzero()[:, 0].tolist()
            words = [self.pool[units[slot][i]].tolist() for slot in slots]
            rows.append(replace_words(ids, offsets, slots, words))
        return Ragged.from_lists(rows)


def joined(parts: Sequence[Anchored]) -> Anchored:
    """Put the anchors of places of several prompts, as many each, one after another."""
    slots = [part.slots for part in parts if part.slots is not None]
    units = [part.units for part in parts if part.units is not None]
    rows = Ragged.concatenate([part.rows for part in parts])
    return Anchored(rows, np.concatenate(slots), np.concatenate(units), parts[0].each)
