"""A test of a model as it is loaded: embeddings must give what their token ids give."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch

from fuse_index.errors import FuseIndexError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model

_TOLERANCE = {torch.float16: 5e-2, torch.bfloat16: 2e-1}
_EIGHT_BIT_TOLERANCE = 2e-1


def require_embeds(model: Model) -> Collection[str]:
    """Return the names of the arguments that a model takes; embeddings must be among them.

    Raises:
        ModelError: they are not.
    """
    accepted = inspect.signature(model.module.forward).parameters
    if "inputs_embeds" not in accepted:
        raise ModelError(
            f"{model.name}: {type(model.module).__name__} does not take input embeddings",
            expected="a model whose forward has inputs_embeds",
            remedy="choose another model",
        )
    return accepted


@contextlib.contextmanager
def trying(model: Model) -> Iterator[None]:
    """Turn any error of a first forward pass from embeddings into a ModelError.

    Raises:
        ModelError: the forward pass failed.
    """
    try:
        with torch.no_grad():
            yield
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
        if isinstance(error, FuseIndexError):
            raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{model.name}: {type(model.module).__name__} fails on input embeddings ({text})",
            expected="a model that takes inputs_embeds alone",
            remedy="choose another model",
        ) from error


def agree(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Whether two results are the same up to the rounding of their dtype.

    Args:
        a: any shape.
        b: of the same shape.
        tolerance: largest difference as a share of the largest number; None: by the dtype.
    """
    if tolerance is None:
        tolerance = _TOLERANCE.get(a.dtype, 1e-3)
    scale = float(a.float().abs().max()) + 1e-6
    return float((a.float() - b.float()).abs().max()) <= scale * tolerance


def tolerance_of(model: Model) -> float | None:
    """How far results of a model may differ by rounding, as a share; None: by their dtype.

    LLM.int8() quantizes activations by what else is in the batch.
    """
    quantization = getattr(getattr(model.module, "config", None), "quantization_config", None)
    return _EIGHT_BIT_TOLERANCE if getattr(quantization, "load_in_8bit", False) else None


def require_same(by_ids: Tensor, by_embeds: Tensor, model: Model) -> None:
    """Refuse a model that sees its tokens other than through the input embeddings.

    Raises:
        ModelError: it gives another result for embeddings than for the token ids they stand for.
    """
    if agree(by_ids, by_embeds, tolerance_of(model)):
        return
    raise ModelError(
        f"{model.name}: {type(model.module).__name__} computes something else from embeddings than "
        "from the same token ids",
        expected="a model that sees its tokens only through the input embeddings",
        remedy="choose another model",
    )
