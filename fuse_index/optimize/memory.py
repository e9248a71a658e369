"""What a run will take of the memory, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from fuse_index.models.graph_memory import SHARE
from fuse_index.models.memory import pass_shape, weight_bytes
from fuse_index.optimize.scoring import default_batch
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.states import states_cost
from fuse_index.predict.units import Unit
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.optimize.methods.base import MethodOptions
    from fuse_index.optimize.problem import Problem
    from fuse_index.optimize.state import Ids


@dataclass(frozen=True)
class MemoryPlan:
    """Estimated bytes of a run.

    Attributes:
        weights: of all models.
        states: hidden states of units that the method ranks by.
        scoring: the largest batch of prompts.
        prompts: how many that batch has.
        gradient: the largest gradient of one prompt.
        graphs: what CUDA graphs may hold at most; 0 without a GPU.
    """

    weights: int
    states: int
    scoring: int
    prompts: int
    gradient: int
    graphs: int

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "states of units": self.states,
            f"scoring {self.prompts} prompts at once": self.scoring,
            "a gradient": self.gradient,
            "CUDA graphs, at most": self.graphs,
        }
        return ", ".join(f"{name} {_size(value)}" for name, value in parts.items() if value)

    def to_json(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)


def plan_memory(
    problem: Problem,
    method: MethodOptions,
    initial: Sequence[Ids],
    *,
    batch_size: int | None = None,
    cuda_graphs: bool = True,
) -> MemoryPlan:
    """Estimate what a run takes.

    Args:
        problem: what is optimized.
        method: how candidates are proposed.
        initial: prompts to begin from; those of the run are taken to be as long.
        batch_size: prompts of one forward pass, as in :class:`RunOptions`.
        cuda_graphs: as in :class:`RunOptions`.
    """
    models = {loss.model: None for loss in problem.losses} | {problem.source: None}
    scoring, prompts, gradient = 0, 0, 0
    for index, loss in enumerate(problem.losses):
        shape = pass_shape(loss.model)
        if shape is None:
            continue
        contents = problem.targets[index].read(Ragged.from_lists(initial)).contents
        longest = contents.select([int(contents.lengths.argmax())])
        batch = loss.batch(longest)
        length = int(batch.totals[0])
        predicted = loss.predictions(batch)
        rows = batch_size or default_batch(loss)
        size = shape.scoring(rows, length, predicted)
        if size > scoring:
            scoring, prompts = size, rows
        gradient = max(gradient, shape.gradient(1, length, predicted))
    return MemoryPlan(
        weights=sum(weight_bytes(model.module) for model in models),
        states=_states(problem, method),
        scoring=scoring,
        prompts=prompts,
        gradient=gradient if method.ranking is not None else 0,
        graphs=_graphs(list(models)) if cuda_graphs else 0,
    )


def _states(problem: Problem, method: MethodOptions) -> int:
    """Hidden states of all units in all models of losses with a gradient."""
    if method.ranking is None or method.ranking[1] is not Predictor.LAYERS:
        return 0
    words = method.ranking[0] is Unit.WORD
    losses = [x for x in problem.losses if x.objective.differentiable and x.objective.weight]
    total = 0
    for model in {loss.model: None for loss in losses}:
        units = len(problem.word_units) if words else model.vocabulary_size
        total += states_cost(model, units)[0]
    return total


def _graphs(models: Sequence[Model]) -> int:
    """A share of what GPUs have left, as recordings are bounded."""
    devices = {model.device for model in models if model.device.type == "cuda"}
    return sum(torch.cuda.mem_get_info(device)[0] // SHARE for device in devices)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
