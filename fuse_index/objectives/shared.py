"""The shared beginning of a batch, computed once where the model can cache it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from fuse_index.errors import ModelError
from fuse_index.models.causal import CausalModel

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.batch import Batch
    from fuse_index.models.prefix import Prefix

_KEPT = 4


class SharedStart:
    """Cached prefixes of one causal model, the most recently used kept.

    Args:
        model: whose keys and values are cached; one that has none is run without.
    """

    def __init__(self, model: CausalModel) -> None:
        self.model = model
        self._kept: OrderedDict[tuple[tuple[int, ...], int | None], Prefix] = OrderedDict()
        self._possible = True

    def of(
        self, embeds: Tensor, batch: Batch, *, limit: int | None = None, logits: bool = False
    ) -> Prefix | None:
        """Return the prefix a batch may be run with, or None.

        Where a gradient is taken, it ends before the token that predicts the content's first.
        Where none is, it goes on through content that all rows share.

        Args:
            embeds: embeddings of the batch; whether they require a gradient decides.
            batch: rows of ids.
            limit: most tokens it may hold; by default all shared ones but the last.
            logits: whether the predictions of shared content are wanted. ``prefix.logits`` then
                begins at position ``max(batch.start, 1) - 1``; None if it holds no content.
        """
        if not self._possible:
            return None
        most = len(batch.shared) - 1 if limit is None else min(limit, len(batch.shared) - 1)
        before = min(max(batch.start - 1, 0), most)
        static = self._get(batch.shared[:before]) if before > 0 else None
        graded = torch.is_grad_enabled() and embeds.requires_grad
        if graded or len(batch) == 1 or most <= before:
            return static
        return self._get(batch.shared[:most], static, before if logits else None)

    def _get(
        self, ids: tuple[int, ...], start: Prefix | None = None, logits_from: int | None = None
    ) -> Prefix | None:
        key = (ids, logits_from)
        found = self._kept.get(key)
        if found is None:
            if not self._possible:
                return None
            try:
                found = self.model.prefill(ids, prefix=start, logits_from=logits_from)
            except ModelError:
                # the only refusal left: the model has no keys and values
                self._possible = False
                return None
            self._kept[key] = found
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found
