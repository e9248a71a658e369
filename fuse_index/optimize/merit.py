"""The merit of units in positions of a prompt: likely for the source, helpful by the gradient.

"AutoDAN: Interpretable Gradient-Based Adversarial Attacks on Large Language Models" (Zhu et al.
2023): log-probability less the predicted change of the loss, the latter in standard deviations
over the units, so that its weight means the same for any losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.bounds import MIN_TEMPERATURE
from fuse_index.optimize.methods.base import Context
from fuse_index.optimize.state import Ids, Losses
from fuse_index.predict.likelihood import Likelihood
from fuse_index.predict.predictor import unit_predictor
from fuse_index.predict.ranking import Predictor
from fuse_index.predict.spans import Spans
from fuse_index.predict.units import Units
from fuse_index.predict.weights import by_weights
from fuse_index.words.ragged import Ragged


class UnitMerit:
    """Judges units in positions of prompts.

    The log-probability of a unit is that of its first token behind what stands before it.

    Args:
        context: of the run.
        units: the candidates.
        predictor: what predicts the change of the loss; None takes no gradient.
        weight: nats that one standard deviation of the predicted changes counts.
        method: named where the source is refused.

    Attributes:
        likelihood: of the source.

    Raises:
        ModelError: the source is not a causal language model.
        OptionError: no term has a gradient, or a model has no adapter.
    """

    def __init__(
        self,
        context: Context,
        units: Units,
        predictor: Predictor | None,
        weight: float,
        method: str,
    ) -> None:
        self.problem, self.context = context.problem, context
        self.units, self.weight = units, weight
        gradients = context.gradients
        self.likelihood = Likelihood(self.problem, gradients.spent, method, gradients.joint)
        # a word, so that it does not join the one before it where targets take words as a whole
        whole = predictor in (Predictor.EMBEDDING, Predictor.LAYERS)
        other = any(not target.same_tokens for target in self.problem.targets)
        self._filler = (units.filler if whole and other else units.source[0]).tolist()
        self._predictor = None
        if predictor is not None and weight:
            self._predictor = unit_predictor(context.gradients, units, predictor)

    def behind(self, prompts: Sequence[Ids]) -> Tensor:
        """Judge units behind prompts, with the mean word as the point of expansion.

        It costs one forward pass a prompt, and one gradient.

        Returns:
            ``(b, N)`` float32 on the CPU; higher is better.
        """
        likely = self.likelihood.next_tokens(prompts)[:, self.units.firsts]
        positions = np.array([len(self.units.spans(ids)) for ids in prompts])
        grown = Ragged.from_lists([[*ids, *self._filler] for ids in prompts])
        return merits_of(likely, self.changes(grown, positions, mean=True), self.weight)

    def instead(self, prompt: Spans) -> Tensor:
        """Judge units in every position of a prompt.

        It costs one forward pass, and one gradient a position.

        Returns:
            ``(P, N)`` float32 on the CPU; higher is better.
        """
        likely = self.likelihood.along(prompt.ids)[prompt.offsets[:-1]][:, self.units.firsts]
        rows = Ragged.from_lists([prompt.ids] * len(prompt))
        return merits_of(likely, self.changes(rows, np.arange(len(prompt)), mean=True), self.weight)

    def between(self, prompt: Spans) -> Tensor:
        """Judge units before each of a prompt's, and behind the last.

        It costs one forward pass, and one gradient a gap.

        Returns:
            ``(P + 1, N)`` float32 on the CPU; higher is better.
        """
        ids, offsets = prompt.ids, prompt.offsets
        likely = self.likelihood.along(ids)[offsets][:, self.units.firsts]
        rows = Ragged.from_lists([[*ids[:at], *self._filler, *ids[at:]] for at in offsets])
        positions = np.arange(len(prompt) + 1)
        return merits_of(likely, self.changes(rows, positions, mean=True), self.weight)

    def changes(
        self, prompts: Ragged, positions: NDArray[np.int64], *, mean: bool
    ) -> Tensor | None:
        """Predict the change of the loss for units in a position of each prompt.

        Terms whose loss is the likelihood of the source's tokens are left out: the likelihood of a
        unit counts already. A prompt without room in a model is predicted to change nothing.

        Args:
            prompts: ``b`` rows of source ids.
            positions: ``(b,)``.
            mean: whether the mean word stands in the position; for words.

        Returns:
            ``(b, N)`` float32 on the CPU, or None without a gradient.
        """
        if self._predictor is None or not len(self._counted):
            return None
        read = {target: target.read(prompts).contents for target in set(self.problem.targets)}
        lengths = [read[target].lengths for target in self.problem.targets]
        rows = np.flatnonzero(self.problem.fits(lengths))
        found = torch.zeros(len(prompts), len(self.units))
        for part, weights in by_weights(self._weights(prompts.select(rows))):
            own = rows[part]
            changes = self._predictor.at(prompts.select(own), positions[own], weights, mean=mean)
            found[torch.from_numpy(own)] = changes.float().cpu()
        return found

    @cached_property
    def _counted(self) -> list[int]:
        """The losses whose gradient counts."""
        problem, terms = self.problem, self.context.gradients.terms
        return [
            i for i in terms if not (problem.targets[i].is_source and problem.losses[i].uses_labels)
        ]

    def _weights(self, prompts: Ragged) -> Losses:
        """``(b, losses)``: the weights of those whose gradient counts."""
        weights = np.zeros((len(prompts), len(self.problem.losses)))
        if len(prompts):
            weights[:, self._counted] = self.context.weights(prompts)[:, self._counted]
        return weights


def merits_of(likelihoods: Tensor, changes: Tensor | None, weight: float) -> Tensor:
    """Combine log-probabilities with predicted changes of the loss.

    Args:
        likelihoods: ``(..., N)`` log-probabilities.
        changes: ``(..., N)`` predicted changes of the loss, or None.
        weight: nats that one standard deviation of the predicted changes counts.

    Returns:
        ``(..., N)`` float32.
    """
    merits = likelihoods.float()
    if changes is None:
        return merits
    own = changes.float()
    spread = own.std(dim=-1, correction=0, keepdim=True)
    relative = (own - own.mean(dim=-1, keepdim=True)) / spread
    return merits - weight * torch.where(spread > 0, relative, 0.0)


def draw_ranked(
    merits: Tensor, count: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Draw units one after another without repeats, ``p ~ exp(merit / temperature)``.

    Gumbel noise and sorting draw all at once (Yellott 1977; Kool et al. 2019).

    Args:
        merits: ``(N,)``, minus infinity where a unit may not be drawn.
        count: units, at most.
        temperature: 0, or next to it, takes the best.
        generator: of the random numbers.

    Returns:
        ``(at most count,)`` int64.
    """
    if temperature > MIN_TEMPERATURE:
        uniform = torch.rand(len(merits), generator=generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        merits = merits.double() / temperature + noise
    usable = int(torch.isfinite(merits).sum())
    return merits.topk(min(count, usable)).indices
