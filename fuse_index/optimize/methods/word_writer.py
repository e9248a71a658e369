"""AutoDAN over whole words: write a prompt word by word, from left to right.

"AutoDAN: Interpretable Gradient-Based Adversarial Attacks on Large Language Models" (Zhu et al.
2023), with words in the place of tokens: no half of a word is ever shown to a model that reads
another tokenizer's pieces, and the gradient is met by words as that model knows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fuse_index.optimize.anchors import AnchorOptions
from fuse_index.optimize.merit import draw_ranked, require_causal
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    require,
    shares,
)
from fuse_index.optimize.methods.gcg import as_choice
from fuse_index.optimize.word_merit import Route, WordMerit
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel
    from fuse_index.optimize.state import State


@dataclass(frozen=True)
class WordWriter(AnchorOptions, MethodOptions):
    """Options of writing by words.

    One step puts one more word behind every prompt the search works on. Give it a beam.

    Attributes:
        words: written behind the initial prompts, at most.
        search_width: words tried in one step, over all prompts the search works on.
        weight: nats that one standard deviation of the predicted change counts against the
            log-probability; 0 does without the gradient.
        route: how the gradient comes to the words.
        temperature: words are drawn without repeats with probabilities in proportion to
            ``exp(merit / temperature)``; 0 takes the best.
        margin: the writing ends once the best of the prompts just written is worse than the best
            so far by more than this, in units of the total loss; None goes on to the last word.
    """

    words: int = 16
    search_width: int = 32
    weight: float = 2.0
    route: Route = Route.WORD
    temperature: float = 0.0
    margin: float | None = None

    type: ClassVar[str] = "write_words"

    def __post_init__(self) -> None:
        require(self, words=1, search_width=1, weight=0, temperature=0)
        if self.margin is not None:
            require(self, margin=0)
        object.__setattr__(self, "route", as_choice(self, "route", Route))
        self.check_anchors(own_only=True, swaps=False)

    @property
    def follows_gradient(self) -> bool:
        """Whether the words are judged by a gradient too."""
        return self.weight > 0

    @property
    def needs_adapters(self) -> bool:
        """Whether the gradient comes through the adapters."""
        return self.follows_gradient and self.route in (Route.ADAPTER, Route.MIXTURE)

    @property
    def needs_layers(self) -> bool:
        """Whether words are met at their hidden states."""
        return self.follows_gradient and self.route is Route.LAYERS

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts.

        Raises:
            ModelError: the source is not a causal language model.
        """
        return _WriterMethod(self, context, require_causal(context.problem.source, self.type))


class _WriterMethod(Method):
    def __init__(self, options: WordWriter, context: Context, source: CausalModel) -> None:
        super().__init__(context)
        self.options = options
        self._merit = WordMerit(context, source, options.route, options.weight, options)
        self._written = 0
        self._best = float("inf")

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals | None:
        options = self.options
        if self._written >= options.words or self._hopeless(states):
            return None
        self._written += 1
        merits = self._merit.behind([state.ids for state in states])
        tokens = self._merit.lexicon.source
        rows = []
        counts = shares(max(options.search_width, len(states)), len(states))
        for state, own, count in zip(states, merits, counts, strict=True):
            drawn = draw_ranked(own, count, options.temperature, self.context.generator)
            rows += [[*state.ids, *tokens[word].tolist()] for word in drawn.tolist()]
        return Proposals(Ragged.from_lists(rows), grown=True)

    def _hopeless(self, states: Sequence[State]) -> bool:
        """Whether what was written last is worse than the best by more than the margin."""
        now = min(state.total for state in states)
        self._best = min(self._best, now)
        return self.options.margin is not None and now > self._best + self.options.margin

    def tensors(self) -> dict[str, torch.Tensor]:
        best = torch.tensor(self._best, dtype=torch.float64)
        return {"written": torch.tensor(self._written), "best": best}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self._written = int(tensors["written"])
        self._best = float(tensors["best"])
