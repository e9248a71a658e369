"""Causal language models of transformers, run from input embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.base import Model, ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.prefix import Prefix, check_cacheable
from fuse_index.models.selfcheck import (
    agree,
    require_embeds,
    require_same,
    settle_padding,
    tolerance_of,
    trying,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class CausalModel(Model):
    """A causal language model.

    Rows are padded on the right, and a causal model looks only to the left, so padding needs no
    mask and every row has the positions it would have alone.

    Args:
        module: what ``AutoModelForCausalLM`` loads.
        embedding: its input embedding module.
        parts: tokenizer, frame and limits.

    Raises:
        ModelError: from embeddings the model does not compute what it computes from token ids, or
            a later token changes an earlier prediction.
    """

    kind: ClassVar[ModelKind] = ModelKind.CAUSAL

    def __init__(self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts) -> None:
        super().__init__(module, embedding, parts)
        accepted = require_embeds(self)
        self._keeps_logits = "logits_to_keep" in accepted
        self.cache_name = "cache" if "cache" in accepted else "past_key_values"
        """What the module's forward and output call the keys and values; renamed by transformers
        5.24."""
        self._self_check()
        settle_padding(self)

    @cached_property
    def caches(self) -> bool:
        """Whether it has keys and values that can be cached; found by running a short text."""
        try:
            self.prefill(self.probe().ids[0].tolist())
        except ModelError:
            return False
        return True

    def _forward(
        self, embeds: Tensor, batch: Batch, prefix: Prefix | None, logits_from: int
    ) -> ModelOutput:
        length = embeds.shape[1]
        if not 0 <= logits_from < length:
            raise OptionError(f"logits_from={logits_from}", expected=f"0 to {length - 1}")
        options: dict[str, Any] = {"use_cache": False}
        done = 0
        if prefix is not None:
            done = self._check_prefix(prefix, batch.shared, length)
            options = {"use_cache": True, self.cache_name: prefix.expanded(len(batch))}
        start = max(logits_from, done)
        if self._keeps_logits and start > done:
            options["logits_to_keep"] = length - start
        logits = self.module(inputs_embeds=embeds[:, done:], **options).logits.to(embeds.device)
        logits = logits[:, logits.shape[1] - (length - start) :, : self.vocabulary_size]
        return ModelOutput(logits=logits, start=start)

    def prefill(
        self, ids: Sequence[int], *, prefix: Prefix | None = None, logits_from: int | None = None
    ) -> Prefix:
        """Compute keys and values of a prompt's beginning once, without gradient.

        To score content, cache at most what stands before its last shared token: the logits that
        predict the next one come from running it. ``model.prefill(batch.shared[:-1])`` is the most.

        Args:
            ids: at least one token id, special ones included (``batch.shared`` begins with them).
            prefix: a shorter result of this method to go on from, of the same first ids.
            logits_from: keep the logits from this position on, too.

        Raises:
            OptionError: there are no ids, or ``logits_from`` is not one of the new positions.
            ModelError: the model has no keys and values to cache, or ``ids`` do not begin with the
                prefix.
        """
        self.require_held()
        ids = tuple(int(i) for i in ids)
        if not ids:
            raise OptionError(
                "a prefix of 0 tokens", expected="at least one", remedy="leave it out"
            )
        done = self._check_prefix(prefix, ids, len(ids)) if prefix is not None else 0
        kept = 1 if logits_from is None else len(ids) - logits_from
        if not 1 <= kept <= len(ids) - done:
            raise OptionError(f"logits_from={logits_from}", expected=f"{done} to {len(ids) - 1}")
        options: dict[str, Any] = {"use_cache": True}
        if prefix is not None:
            options[self.cache_name] = prefix.expanded(1)
        if self._keeps_logits:
            options["logits_to_keep"] = kept
        with torch.no_grad():
            embeds = self.embed(torch.tensor([ids[done:]], device=self.device))
            output = self.module(inputs_embeds=embeds, **options)
        cache = getattr(output, self.cache_name, None)
        check_cacheable(cache, self.name)
        logits = output.logits[0, -kept:, : self.vocabulary_size].to(self.device)
        return Prefix(ids, cache, None if logits_from is None else logits)

    def generate(self, rows: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Continue texts greedily, with the likeliest token at every step.

        Rows of one length run together, and keys and values are kept where the model has them.

        Args:
            rows: token ids, special ones included, none empty.
            count: tokens to generate; fewer where a row ends, or the model's positions do.

        Returns:
            The new tokens of every row, without one that ends it.
        """
        found: list[list[int]] = [[] for _ in rows]
        for length in sorted({len(row) for row in rows}):
            own = [i for i, row in enumerate(rows) if len(row) == length]
            room = count if self.positions is None else min(count, self.positions - length)
            ids = torch.tensor([list(rows[i]) for i in own], device=self.device)
            for i, new in zip(own, self._continued(ids, room), strict=True):
                found[i] = new
        return found

    @torch.no_grad()
    def _continued(self, ids: Tensor, count: int) -> list[list[int]]:
        """Continue rows of one length: (b, L) -> up to ``count`` tokens of each."""
        ends = self._ends()
        rows: list[list[int]] = [[] for _ in ids]
        alive = set(range(len(rows)))
        options: dict[str, Any] = {"logits_to_keep": 1} if self._keeps_logits else {}
        whole, fresh, cache = ids, ids, None
        for _ in range(count):
            kept: dict[str, Any] = {} if cache is None else {self.cache_name: cache}
            output = self.module(inputs_embeds=self.embed(fresh), use_cache=True, **kept, **options)
            logits = output.logits[:, -1, : self.vocabulary_size]
            drawn = logits.float().argmax(dim=-1, keepdim=True).to(self.device)
            cache = getattr(output, self.cache_name, None)
            whole = torch.cat([whole, drawn], dim=1)
            fresh = whole if cache is None else drawn
            for i, token in enumerate(drawn[:, 0].tolist()):
                if token in ends:
                    alive.discard(i)
                elif i in alive:
                    rows[i].append(token)
            if not alive:
                break
        return rows

    def _ends(self) -> set[int]:
        """The tokens with which the model ends a text."""
        generation = getattr(self.module, "generation_config", None)
        found = getattr(generation, "eos_token_id", None)
        ends = set(found) if isinstance(found, (list, tuple)) else {found}
        return {
            int(i) for i in (*ends, getattr(self.tokenizer, "eos_token_id", None)) if i is not None
        }

    def _check_prefix(self, prefix: Prefix, shared: tuple[int, ...], length: int) -> int:
        done = len(prefix)
        if shared[:done] != prefix.ids:
            raise ModelError(
                f"{self.name}: a cached prefix of {done} tokens that the batch does not begin with",
                expected=f"the first tokens of {list(shared)}",
                remedy="prefill(batch.shared[:-1])",
            )
        if done >= length:
            raise ModelError(
                f"{self.name}: a cached prefix of {done} tokens for rows of {length}",
                expected="at least one token after the prefix",
                remedy="prefill(batch.shared[:-1])",
            )
        return done

    def _self_check(self) -> None:
        ids = self.probe().ids
        with trying(self):
            embeds = self.embed(ids)
            by_ids, by_embeds, shorter = (
                self.module(**inputs, use_cache=False).logits[..., : self.vocabulary_size]
                for inputs in (
                    {"input_ids": ids},
                    {"inputs_embeds": embeds},
                    {"inputs_embeds": embeds[:, :-1]},
                )
            )
        require_same(by_ids, by_embeds, self)
        if ids.shape[1] > 1 and not agree(by_ids[:, :-1], shorter, tolerance_of(self)):
            raise ModelError(
                f"{self.name}: in {type(self.module).__name__} a later token changes the logits of "
                "earlier ones",
                expected="a causal language model",
                remedy="load it as kind 'encoder'",
            )
