"""What others do across tokenizers: candidates are drawn for each model apart (llm-attacks).

Every model ranks its own tokens in its own reading of the prompt; the candidates of all are read as
text and scored by all. No gradient passes from one model's tokens to another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from fuse_index.common.options import Width, options
from fuse_index.models.base import Model
from fuse_index.optimize.methods.base import (
    Context,
    Method,
    MethodOptions,
    Proposals,
    shares,
    width_of,
)
from fuse_index.optimize.methods.gcg import sample_ranks
from fuse_index.optimize.state import State
from fuse_index.optimize.tokens import TokenFilter
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.units import Unit
from fuse_index.words.ragged import Ragged


@options()
class Apart(MethodOptions):
    """Options of candidates that are drawn for each model apart.

    Attributes:
        search_width: candidates of one step, over all models.
        top_k: tokens of each position that they are drawn from.
    """

    search_width: Width = 512
    top_k: Width = 256

    type: ClassVar[str] = "apart"

    @property
    def ranking(self) -> tuple[Unit, Predictor]:
        """Tokens of each model by its own gradient."""
        return Unit.TOKEN, Predictor.EMBEDDING

    def start(self, context: Context, states: Sequence[State]) -> Method:
        """Begin from scored prompts."""
        return _ApartMethod(self, context, states)


class _ApartMethod(Method):
    def __init__(self, options: Apart, context: Context, states: Sequence[State]) -> None:
        super().__init__(context)
        self.options = options
        self._longest = max(len(state.ids) for state in states)

    @cached_property
    def _allowed(self) -> dict[Model, Any]:
        models = dict.fromkeys(loss.model for loss in self.context.problem.losses)
        return {
            model: torch.from_numpy(TokenFilter().allowed(model)).to(model.device)
            for model in models
        }

    def propose(self, states: Sequence[State], most: int | None = None) -> Proposals:
        """Draw candidates of the best prompt by every model's own gradient."""
        problem = self.context.problem
        width = width_of(self.options.search_width, most, self.context.passes())
        row = Ragged.from_lists([states[0].ids])
        self.context.gradients.count(1, np.ones(len(problem.losses)))
        rows: list[list[int]] = []
        for index, count in enumerate(shares(width, len(problem.losses))):
            rows += self._drawn(index, row, count)
        kept = [own for own in rows if 0 < len(own) <= self._longest]
        return Proposals(Ragged.from_lists(kept or [list(states[0].ids)]))

    def _drawn(self, index: int, row: Ragged, count: int) -> list[list[int]]:
        """Candidates by one model, in the source's tokens."""
        problem = self.context.problem
        loss, target = problem.losses[index], problem.targets[index]
        contents = target.read(row).contents
        self.context.gradients.spent.run_gradient(loss, contents.lengths)
        _, packed = embedding_gradient(loss, contents)
        table = loss.model.table()
        scores = (packed.to(table.dtype) @ table.T).float()
        scores = scores.masked_fill(~self._allowed[loss.model], torch.inf)
        top = (-scores).topk(min(self.options.top_k, scores.shape[1]), dim=1).indices.cpu()
        positions, tokens = sample_ranks(top, count, 1, self.context.generator)
        drawn = np.repeat(contents.values[None], count, axis=0)
        np.put_along_axis(drawn, positions.numpy(), tokens.numpy(), axis=1)
        if target.same_tokens:
            return drawn.tolist()
        texts = loss.surroundings.decode(drawn.tolist())
        return [list(problem.encode(text)) for text in texts]
