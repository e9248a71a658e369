"""The merit of whole words in places of a prompt: likely for the source, helpful by the gradient.

AutoDAN (Zhu et al. 2023) judges a token by its log-probability and the gradient together. Here a
word is judged: by the log-probability of its first token behind what stands before the place, less
the predicted change of the other terms' loss with the mean word as the point of expansion. The
latter is counted in standard deviations over the words, so that it means the same for any losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.optimize.anchors import AnchorDrawer, AnchorOptions, AnchorSource, joined
from fuse_index.optimize.likelihood import Likelihood
from fuse_index.optimize.merit import merits_of
from fuse_index.optimize.word_gradient import WordDifferentiator
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.anchors import Anchored
    from fuse_index.optimize.methods.base import Context
    from fuse_index.optimize.state import Ids, Losses
    from fuse_index.optimize.word_points import PlaceGradient, Places


class Route(str, Enum):
    """How the gradient of a model with other tokens comes to the words."""

    WORD = "word"
    """In word space: against the words' embeddings in that model."""
    LAYERS = "layers"
    """Against the words' hidden states in every layer of that model, which takes some forward
    passes a word once (docs/mathematics.md)."""
    ADAPTER = "adapter"
    """Pulled back through the adapter, against their embeddings in the source."""
    MIXTURE = "mixture"
    """The mean of both, each in standard deviations."""


class WordMerit:
    """Judges words of the problem's lexicon in places of prompts.

    Args:
        context: of the run.
        source: the problem's source, which says what is likely.
        route: how gradients come to the words.
        weight: of the gradient; 0 takes none.
        anchors: of the gradient; without any it is taken with the mean word in the place.
    """

    def __init__(
        self,
        context: Context,
        source: CausalModel,
        route: Route,
        weight: float,
        anchors: AnchorOptions | None = None,
    ) -> None:
        problem = context.problem
        self.problem, self.context = problem, context
        self.route, self.weight = route, weight
        self._options = anchors or AnchorOptions()
        self.lexicon = problem.lexicon
        tokens = self.lexicon.source
        self._firsts = torch.from_numpy(tokens.values[tokens.offsets[:-1]])
        self._filler = tokens[0].tolist()
        spent = context.gradients.spent
        self._likelihood = Likelihood(problem, source, spent)
        self._words = WordDifferentiator(
            context.gradients, self.lexicon, layers=route is Route.LAYERS
        )
        self._drawer = AnchorDrawer(self._options, context, tokens)

    def places(self, ids: Ids) -> Places:
        """Cut a prompt into its words."""
        return self._words.places(ids)

    def behind(self, prompts: Sequence[Ids]) -> Tensor:
        """Judge words behind prompts.

        It costs one forward pass a prompt, and one gradient.

        Returns:
            ``(b, N)`` float32 on the CPU; higher is better.
        """
        likely = self._likelihood.next_tokens(prompts)[:, self._firsts]
        slots = np.array([len(self.places(ids)) for ids in prompts])
        grown = Ragged.from_lists([[*ids, *self._filler] for ids in prompts])
        return self._merits(likely, grown, slots)

    def instead(self, places: Places) -> Tensor:
        """Judge words in the place of each of a prompt's.

        It costs one forward pass, and one gradient a word.

        Returns:
            ``(W, N)`` float32 on the CPU; higher is better.
        """
        likely = self._likelihood.along(places.ids)[places.offsets[:-1]][:, self._firsts]
        rows = Ragged.from_lists([places.ids] * len(places))
        return self._merits(likely, rows, np.arange(len(places)))

    def between(self, places: Places) -> Tensor:
        """Judge words before each of a prompt's, and behind the last.

        It costs one forward pass, and one gradient a gap.

        Returns:
            ``(W + 1, N)`` float32 on the CPU; higher is better.
        """
        likely = self._likelihood.along(places.ids)[places.offsets][:, self._firsts]
        rows = [
            [*places.ids[:offset], *self._filler, *places.ids[offset:]] for offset in places.offsets
        ]
        return self._merits(likely, Ragged.from_lists(rows), np.arange(len(places) + 1))

    def _merits(self, likely: Tensor, prompts: Ragged, slots: NDArray[np.int64]) -> Tensor:
        """``(b, N)``: with the gradient where there is room for it in every model."""
        change = torch.zeros_like(likely)
        weights = self._weights()
        rows = np.flatnonzero(self._fit(prompts))
        if self.weight and weights.any() and len(rows):
            own = prompts.select(rows)
            if self._options.anchors:
                drawn = self._drawn(own, slots[rows], likely[torch.from_numpy(rows)])
                taken = self._words.at_anchors(drawn, weights, self._options.anchor_average)
            else:
                taken = self._words.at_mean_word(own, slots[rows], weights)
            change[torch.from_numpy(rows)] = self._change(taken).float().cpu()
        every = torch.ones(len(self.lexicon), dtype=torch.bool)
        return merits_of(likely, change, every, self.weight)

    def _drawn(self, prompts: Ragged, slots: NDArray[np.int64], likely: Tensor) -> Anchored:
        """Anchors for a place of each prompt; the likely words are known already."""
        expected = self._options.anchor_source is AnchorSource.MODEL
        parts = []
        for ids, slot, own in zip(prompts.to_lists(), slots.tolist(), likely, strict=True):
            offsets = self.places(tuple(ids)).offsets
            known = own[None] if expected else None
            parts.append(self._drawer.own(tuple(ids), offsets, [slot], known))
        return joined(parts)

    def _change(self, taken: list[PlaceGradient]) -> Tensor:
        words = self._words
        if self.route in (Route.WORD, Route.LAYERS):
            return words.in_word_space(taken)
        adapted = words.through_adapter(taken)
        if self.route is Route.ADAPTER:
            return adapted
        both = (adapted, words.in_word_space(taken).to(adapted.device))
        return sum(
            (own / own.std(dim=1, keepdim=True).clamp(min=1e-12) for own in both), adapted * 0
        )

    def _weights(self) -> Losses:
        """Those of the terms the likelihood does not speak for already."""
        problem = self.problem
        weights: Losses = np.array(self.context.weights)
        for term, (loss, reader) in enumerate(zip(problem.losses, problem.readers, strict=True)):
            if term not in self.context.gradients.terms or (reader.is_source and loss.uses_labels):
                weights[term] = 0.0
        return weights

    def _fit(self, prompts: Ragged) -> NDArray[np.bool_]:
        readers = self.problem.readers
        return self.problem.fits([reader.read(prompts).contents.lengths for reader in readers])
