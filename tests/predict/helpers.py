"""What predictions are compared with: gradients and vectors written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fuse_index.models import Model
from fuse_index.objectives.base import Loss
from fuse_index.optimize import Problem, Spent
from fuse_index.predict import Gradients, Predictor, WordUnits
from fuse_index.predict.loss_gradients import embedding_gradient
from fuse_index.predict.word_predictor import WordPredictor

WORDS = ("circle", "triangle", "gorgeous", "left", "purple", "above")


def word_predictor(
    problem: Problem, predictor: str = "embedding", words: Sequence[str] = ()
) -> WordPredictor:
    """What ranks the words of a problem, or others."""
    units = WordUnits(problem, words, problem.allowed) if words else problem.word_units
    return WordPredictor(Gradients(problem, Spent()), units, Predictor(predictor))


def word_gradient(problem: Problem, text: str, position: int) -> Tensor:
    """The gradient of the first term at the target tokens of one word: ``(q, d)``."""
    rows = problem.terms[0].model.words.encode_words(text.split())
    _, packed = embedding_gradient(problem.losses[0], [rows.values.tolist()])
    return packed[rows.offsets[position] : rows.offsets[position + 1]]


def word_vector(model: Model, word: str) -> Tensor:
    """The mean embedding of one word's tokens."""
    return model.table()[model.words.encode_words([word]).values.tolist()].mean(0)


def cut_gradient(loss: Loss, content: Sequence[int], begin: int, end: int) -> Tensor:
    """The gradients at the states of a span, layer after layer, each a leaf written by hand."""
    model, batch = loss.model, loss.batch([list(content)])
    here = slice(batch.start + begin, batch.start + end)
    leaves: list[Tensor] = []

    def cut(states: Tensor) -> Tensor:
        leaf = states[:, here].detach().clone().requires_grad_()
        leaves.append(leaf)
        return torch.cat([states[:, : here.start], leaf, states[:, here.stop :]], dim=1)

    def before(_, args, kwargs):
        if args:
            return (cut(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": cut(kwargs["hidden_states"])}

    def behind(_, args, output):
        return (cut(output[0]), *output[1:]) if isinstance(output, tuple) else cut(output)

    handles = [own.register_forward_pre_hook(before, with_kwargs=True) for own in model.layers]
    handles.append(model.layers[-1].register_forward_hook(behind))
    embeds = model.embed(batch.ids).requires_grad_()  # so that nothing comes from a cache
    value = loss(embeds, batch).sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    parts = [
        torch.zeros(own.shape[2]) if gradient is None else gradient[0].sum(0)
        for own, gradient in zip(leaves, gradients, strict=True)
    ]
    return torch.cat(parts)
