"""Bytes that forward and backward passes of a model take, estimated before they are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuse_index.errors import ModelError
from fuse_index.models.checkpoint import TransformersCheckpoint
from fuse_index.models.hub import load_config
from fuse_index.models.kinds import ModelKind
from fuse_index.models.naming import ModelSource, parse_model_name

if TYPE_CHECKING:
    from torch import nn

    from fuse_index.models.base import Model

_CHUNK_ROWS = 64
"""Rows whose probabilities are float32 at a time, in losses over a vocabulary."""
_AROUND = 8
"""Copies of the hidden states that stand beside a layer's widest intermediate results."""
_SAVED = 8
"""Copies of a layer's hidden states that a backward pass needs: norms, queries, keys, values."""


@dataclass(frozen=True)
class PassShape:
    """What the memory of a pass depends on.

    Attributes:
        layers: that a text passes through.
        width: of the hidden states.
        inner: largest width inside a layer, over all results that are there at once.
        vocabulary: columns of the logits of every position; 0 for models that are not causal.
        item: bytes of a number.
    """

    layers: int
    width: int
    inner: int
    vocabulary: int
    item: int

    def scoring(self, rows: int, length: int, predicted: int) -> int:
        """Bytes of a forward pass without gradient, beside the weights.

        Args:
            rows: prompts.
            length: tokens of each.
            predicted: positions with logits.
        """
        hidden = rows * length * self.item * (_AROUND * self.width + self.inner)
        logits = rows * predicted * self.vocabulary * self.item
        # in half precision the logits of a chunk are converted first
        chunk = min(rows, _CHUNK_ROWS) * predicted * self.vocabulary * 4 * (1 + (self.item < 4))
        return int(max(hidden, logits + chunk))

    def gradient(self, rows: int, length: int, predicted: int) -> int:
        """Bytes of a forward and backward pass; arguments as for :meth:`scoring`."""
        saved = rows * length * self.item * (_SAVED * self.width + self.inner) * self.layers
        # logits and their gradient, log-probabilities and theirs in float32
        logits = rows * predicted * self.vocabulary * (2 * self.item + 8)
        return int(saved + logits)


def pass_shape(model: Model) -> PassShape | None:
    """Return what passes of a loaded model depend on; None where it has no layers to see."""
    try:
        layers = model.layers
    except ModelError:
        return None
    causal = model.kind is ModelKind.CAUSAL
    return PassShape(
        layers=len(layers),
        width=model.width,
        inner=_inner(layers[0]),
        vocabulary=model.vocabulary_size if causal else 0,
        item=model.dtype.itemsize,
    )


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the weights and buffers of a network."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _inner(layer: nn.Module) -> int:
    """The widest results of a layer, as many as there are weights of that width."""
    shapes = [tuple(p.shape) for p in layer.parameters() if p.ndim == 2]
    widest = max((max(shape) for shape in shapes), default=0)
    return widest * sum(max(shape) == widest for shape in shapes)


def states_bytes(name: str, words: float, local_files_only: bool) -> int | None:
    """Bytes of the hidden states of words in a model that is not loaded.

    Args:
        name: the model.
        words: how many.
        local_files_only: whether the network may not be used.

    Returns:
        4 for every number; None where its configuration does not say how many layers it has.
    """
    source = parse_model_name(name)
    if source.source is ModelSource.OPEN_CLIP:
        return None
    try:
        config = load_config(TransformersCheckpoint(source, local_files_only=local_files_only))
    except ModelError:
        return None
    own = getattr(config, "text_config", None) or config
    layers = getattr(own, "num_hidden_layers", None)
    width = getattr(own, "hidden_size", None)
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    return round(4.0 * words * (layers + 1) * width)
