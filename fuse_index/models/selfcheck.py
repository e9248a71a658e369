"""Tests of a model as it is loaded or wrapped, by a few short passes.

Embeddings must give what their token ids give, and a row in a batch what it gives alone.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fuse_index.errors import FuseIndexError, ModelError
from fuse_index.models.kinds import ModelKind
from fuse_index.models.lengths import stated_padding_limit

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float16: 5e-2, torch.bfloat16: 2e-1}
_EIGHT_BIT_TOLERANCE = 2e-1
_PADDING_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Less, because a model that is only thought to need it loses nothing but time."""
_SAME_PASS = 5
_LONGER = 3
"""Times that the long row of a batch is as long as the short ones."""


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


def settle_padding(model: Model) -> None:
    """Find out whether padding changes a model's results, and have its rows run accordingly.

    A row alone is compared with the same row beside a longer one, and with other embeddings at its
    padding. Where they differ, :attr:`Model.padding_limit` becomes 0, so that only rows of equal
    length run together; text towers get rows of full width instead, which is how they were trained
    and how their libraries run them.

    Raises:
        ModelError: even beside rows of its own length a row gives something else than alone.
    """
    model.padding_limit = stated_padding_limit(getattr(model.module, "config", None))
    short, long = _probes(model)
    if not long:
        return
    with trying(model):
        alone = _first_row(model, [short])
        if _pads(model, short, long, alone):
            return
        if model.kind is ModelKind.CLIP and model.frame.width is None and model.positions:
            model.frame = replace(model.frame, width=model.positions)
            logger.info("%s: padding changes its features; all rows have full width", model.name)
            alone = _first_row(model, [short])
        else:
            model.padding_limit = 0
            logger.info("%s: padding changes its results; rows run by length", model.name)
        beside = _first_row(model, [short, long[: len(short)]])
    if not agree(alone, beside, tolerance_of(model)):
        raise ModelError(
            f"{model.name}: {type(model.module).__name__} computes something else from a text in a "
            "batch than from the text alone",
            expected="a model whose result for a text depends on nothing else",
            remedy="choose another model",
        )


def _probes(model: Model) -> tuple[list[int], list[int]]:
    """A short content and a longer one, as the model's positions allow; the latter may be empty."""
    batch = model.probe()
    ids: list[int] = batch.ids[batch.content].tolist()
    room = model.positions
    if room is not None:
        room -= len(model.frame.head) + len(model.frame.tail)
    long = (_LONGER * ids)[::-1][:room]
    short = ids[: max(len(long) // _LONGER, 1)]
    return short, long if len(long) > len(short) else []


def _pads(model: Model, short: list[int], long: list[int], alone: Tensor) -> bool:
    """Whether a padded row gives what it gives alone, whatever stands at its padding."""
    batch = model.batch([short, short, long])
    embeds = model.embed(batch.ids)
    # at the padding of the second row stand tokens
    embeds[1] = torch.where(batch.mask[1, :, None], embeds[1], embeds[2])
    found = _result(model, embeds, batch)
    rows = [found[row, : len(alone)] for row in (0, 1)]
    tolerance = tolerance_of(model) or _PADDING_TOLERANCE.get(found.dtype, 1e-4)
    # rows of one pass are computed by the same kernels, so that they differ less by rounding
    return agree(alone, rows[0], tolerance) and agree(rows[0], rows[1], tolerance / _SAME_PASS)


def _first_row(model: Model, contents: list[list[int]]) -> Tensor:
    batch = model.batch(contents)
    return _result(model, model.embed(batch.ids), batch)[0]


def _result(model: Model, embeds: Tensor, batch: Batch) -> Tensor:
    """Features (b, d), logits of labels (b, labels), or logits of tokens (b, L, V)."""
    output = model.forward(embeds, batch)
    value = output.logits if output.features is None else output.features
    assert value is not None
    return value
