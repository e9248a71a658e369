"""The shared beginning of a batch, computed once where the model can cache it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.batch import Batch
    from fuse_index.models.causal import CausalModel
    from fuse_index.models.prefix import Prefix

_KEPT = 4
_SHORT_SHARE = 4
"""On a GPU, a beginning of less than a quarter of the rows is cheaper to run than to join."""


class SharedStart:
    """Cached prefixes of one causal model.

    What stands before the content is kept for good. Content that a batch shares is kept until
    :meth:`forget`, the most recently used ones; a shorter one is cut from a longer one, so that a
    caller who runs batches in the order of what they share, the longest first, pays once.

    Args:
        model: whose keys and values are cached; one that has none is run without.
    """

    def __init__(self, model: CausalModel) -> None:
        self.model = model
        self._before: dict[tuple[int, ...], Prefix] = {}  # recordings read its memory
        self._content: OrderedDict[tuple[tuple[int, ...], int | None], Prefix] = OrderedDict()

    @property
    def possible(self) -> bool:
        """Whether rows of any length may be run with what they share."""
        return self.model.padding_limit is None and self.model.caches

    def needed(self, batch: Batch, length: int) -> Batch:
        """Leave out positions that nothing is predicted from, where no gradient is taken.

        Args:
            batch: rows of ids.
            length: positions that predictions are wanted from, and those before.
        """
        # cut states are found from the end of the rows
        if torch.is_grad_enabled() or self.model.padding_limit is not None:
            return batch
        return batch.cut(max(length, 1))

    def forget(self) -> None:
        """Drop content, so that results do not depend on the batches that ran before."""
        self._content.clear()

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
        limit_of_padding = self.model.padding_limit
        # beyond it, what was computed for a shorter text is not the beginning of a longer one
        apart = limit_of_padding is not None and embeds.shape[1] > limit_of_padding
        if apart or not self.model.caches:
            return None
        most = len(batch.shared) - 1 if limit is None else min(limit, len(batch.shared) - 1)
        before = min(max(batch.start - 1, 0), most)
        short = embeds.device.type == "cuda" and _SHORT_SHARE * before < embeds.shape[1]
        static = None if short or before <= 0 else self._static(batch.shared[:before])
        graded = torch.is_grad_enabled() and embeds.requires_grad
        if graded or len(batch) == 1 or most <= before:
            return static
        return self._shared(batch.shared[:most], static, before if logits else None)

    def _static(self, ids: tuple[int, ...]) -> Prefix:
        if ids not in self._before:
            self._before[ids] = self.model.prefill(ids)
        return self._before[ids]

    def _shared(
        self, ids: tuple[int, ...], start: Prefix | None, logits_from: int | None
    ) -> Prefix:
        key = (ids, logits_from)
        found = self._content.get(key) or self._cut(ids, logits_from)
        found = found or self.model.prefill(ids, prefix=start, logits_from=logits_from)
        self._content[key] = found
        self._content.move_to_end(key)
        while len(self._content) > _KEPT:
            self._content.popitem(last=False)
        return found

    def _cut(self, ids: tuple[int, ...], logits_from: int | None) -> Prefix | None:
        """Cut a kept prefix that begins with these ids, if there is one."""
        for (longer, kept_from), prefix in self._content.items():
            if kept_from == logits_from and longer[: len(ids)] == ids and prefix.complete:
                cut = prefix.cut(len(ids))
                if logits_from is None or prefix.logits is None:
                    return cut
                return replace(cut, logits=prefix.logits[: len(ids) - logits_from])
        return None
