"""The one interface all models have: tokens, embeddings, batches, a forward from embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from fuse_index.bundle.identity import ModelIdentity, hash_embeddings
from fuse_index.errors import ModelError, OptionError, ShapeError
from fuse_index.models.batch import Batch, build_batch
from fuse_index.models.branches import find_branches
from fuse_index.models.frame import Frame
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.layers import find_layers
from fuse_index.models.lengths import run_by_length
from fuse_index.models.parameters import active_parameters
from fuse_index.models.placement import device_of, is_offloaded, is_spread
from fuse_index.models.table import check_finite, effective_table, is_plain, used_rows
from fuse_index.words.tokenizers.tokenization import WordTokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Self

    from fuse_index.models.prefix import Prefix
    from fuse_index.words.ragged import Ragged


@dataclass(frozen=True)
class ModelParts:
    """What a loader found out about a model, whatever library it is of.

    Attributes:
        name: the model as the user named it.
        revision: commit of the weights where known, else "".
        tokenizer: the library's own tokenizer.
        words: the same tokenizer for words and running text.
        frame: special tokens around the content.
        positions: largest number of tokens, or None where there is no limit.
        stored: dtype the weights have on disk, where known.
    """

    name: str
    revision: str
    tokenizer: Any
    words: WordTokenizer
    frame: Frame
    positions: int | None
    stored: torch.dtype | None = None


class Model(ABC):
    """A frozen model in evaluation mode, seen from its input embeddings.

    ``model.forward(model.embed(batch.ids), batch)`` is what the model computes for ``batch``; a
    gradient with respect to the embeddings is taken by making them require one first.

    As a context manager it calls :meth:`release` at the end.

    Args:
        module: the network; its parameters are frozen and it is switched to evaluation.
        embedding: the module inside it that looks token ids up.
        parts: tokenizer, frame and limits.

    Raises:
        ModelError: the table has fewer rows than there are tokens, or a used row that is
            not finite.
    """

    kind: ClassVar[ModelKind]

    def __init__(self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts) -> None:
        self.module = module.eval().requires_grad_(False)
        self.parts = parts
        self.name: str = parts.name
        """The model as it was named when loaded."""
        self.revision: str = parts.revision
        """Commit of the weights where known, else ""."""
        self.tokenizer: Any = parts.tokenizer
        """The library's own tokenizer, untouched."""
        self.words: WordTokenizer = parts.words
        """The tokenizer for words and running text."""
        self.positions: int | None = parts.positions
        """Largest number of tokens of a prompt, special ones included; None without a limit."""
        self.padding_limit: int | None = None
        """Longest padded batch whose rows give what they give alone. Rows of longer ones run apart
        by length: all rows where it is 0, none where it is None."""
        self._embedding = embedding
        self._at_release = ExitStack()
        self._released = False
        rows = int(embedding.weight.shape[0])
        self.frame: Frame = parts.frame.within(rows, parts.name)
        """Special tokens around the content."""
        self.vocabulary_size = used_rows(rows, parts.words, parts.name)
        """Tokens that the embedding table has a row for: all but special ones beyond it."""
        self.unused_rows = rows - self.vocabulary_size
        """Rows of the embedding table no token uses (padding to a round number)."""
        offloaded = embedding.weight.device.type == "meta"
        rows_used = self.table() if offloaded else embedding.weight[: self.vocabulary_size]
        check_finite(rows_used, self.words, parts.name)

    @cached_property
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers that a text passes through, in order; found by running a short one.

        Raises:
            ModelError: there are none that can be told apart (:mod:`fuse_index.models.layers`).
        """
        shape = tuple(self.probe().ids.shape)
        return find_layers(self.module, self._run_probe, shape, self.name)

    @cached_property
    def branches(self) -> tuple[nn.Module, ...]:
        """The modules that end the residual branches of the layers; found by running a short text.

        Raises:
            ModelError: they cannot be told apart (:mod:`fuse_index.models.branches`).
        """
        return find_branches(self.layers, self._run_probe, self.name)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that a token passes, without embeddings.

        Raises:
            ModelError: they cannot be counted (:mod:`fuse_index.models.parameters`).
        """
        return active_parameters(self.module, self._run_probe, self.name)

    @property
    def width(self) -> int:
        """Columns of the input embedding table."""
        return int(self._embedding.weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the embedding table is, and where batches go."""
        place = self._embedding.weight.device
        return place if place.type != "meta" else device_of(self._embedding, self.name)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embedding table."""
        return self._embedding.weight.dtype

    @property
    def spread(self) -> bool:
        """Whether it computes on several devices, or brings its weights for each pass."""
        return is_spread(self.module)

    @property
    def offloaded(self) -> bool:
        """Whether some of its weights are elsewhere between two passes."""
        return is_offloaded(self.module)

    def release(self) -> None:
        """Give a module that was wrapped back to the caller, as it was found.

        Afterwards the model can no longer be run. A model that was loaded by its name owns its
        module; nothing is restored then.
        """
        self._released = True
        self._at_release.close()

    def at_release(self, undo: Callable[[], object]) -> None:
        """Have a function called by :meth:`release`, the latest first."""
        self._at_release.callback(undo)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def require_held(self) -> None:
        """Refuse to run a module that was given back.

        Raises:
            ModelError: :meth:`release` was called.
        """
        if self._released:
            raise ModelError(
                f"{self.name}: its module was given back by release()",
                expected="a model that is still held",
                remedy="wrap the module again",
            )

    def identity(self) -> ModelIdentity:
        """Return name and hashes; no embedding hash where loading narrowed the weights."""
        return self._identity

    @cached_property
    def _identity(self) -> ModelIdentity:
        plain = is_plain(self._embedding)
        exact = self.dtype == torch.float32 or (
            plain and self.dtype in (torch.float64, self.parts.stored)
        )
        return ModelIdentity(
            name=self.name,
            revision=self.revision,
            tokenizer_hash=self.words.fingerprint,
            embedding_hash=hash_embeddings(self.table()) if exact else "",
            width=self.width,
            vocabulary_size=self.vocabulary_size,
        )

    def table(self) -> Tensor:
        """Return the input embeddings of all tokens as the model's first layer receives them.

        Row i is what ``embed`` gives for id i, scaling included where the embedding module scales
        (Gemma 3). Scaling that the model applies later to ``inputs_embeds`` is not included,
        because it applies to these rows as well.

        Returns:
            (vocabulary_size, width), without gradient; a view of the weights where nothing scales.
        """
        return effective_table(self._embedding, self.vocabulary_size, self.device)

    def batch(
        self,
        contents: Sequence[Sequence[int]] | Ragged,
        prefix: str | Sequence[int] = "",
        suffix: str | Sequence[int] = "",
        *,
        frame: Frame | None = None,
    ) -> Batch:
        """Frame rows of content ids with special tokens, a prefix and a suffix, and pad them.

        Args:
            contents: b rows of token ids.
            prefix: text before the content, tokenized as it stands, or token ids.
            suffix: text after the content, tokenized as it stands (begin it with a space where the
                content ends in a word), or token ids.
            frame: special tokens around all of it; by default the model's.

        Raises:
            ModelError: a row is longer than the model's positions.
        """
        return build_batch(
            contents,
            frame or self.frame,
            prefix=self._ids(prefix),
            suffix=self._ids(suffix),
            limit=self.positions,
            name=self.name,
            device=self.device,
        )

    def _ids(self, text: str | Sequence[int]) -> Sequence[int]:
        if not isinstance(text, str):
            return text
        return self.words.encode_text(text) if text else ()

    def probe(self) -> Batch:
        """Return a batch of one short row of plain text, for a first look at the model."""
        ids = self.words.encode_text(self.words.probe_text)
        if self.positions is not None:
            room = self.positions - len(self.frame.head) - len(self.frame.tail)
            ids = ids[: max(room, 1)]
        return self.batch([ids])

    def _run_probe(self) -> ModelOutput:
        batch = self.probe()
        return self.forward(self.embed(batch.ids), batch)

    def embed(self, ids: Tensor) -> Tensor:
        """Look token ids up: (b, L) int64 -> (b, L, width), without gradient."""
        embeds: Tensor = self._embedding(ids)
        return embeds.detach()

    def forward(
        self,
        embeds: Tensor,
        batch: Batch,
        *,
        prefix: Prefix | None = None,
        logits_from: int = 0,
        normalize: bool = False,
    ) -> ModelOutput:
        """Run the model on embeddings of a batch.

        A row gives what it gives alone, whatever is in the batch beside it: where padding would
        change results, rows of equal length run together (:attr:`padding_limit`).

        Args:
            embeds: (b, L, width), the embeddings of ``batch.ids`` or what stands for them; where
                ``batch.mask`` is false the values do not matter.
            batch: the ids, mask and lengths that go with them.
            prefix: keys and values of the batch's shared beginning, a result of
                :meth:`CausalModel.prefill` (causal models only); ``embeds`` are still all of them.
            logits_from: positions before this one get no logits, which saves their memory (causal
                models only).
            normalize: scale features to unit length (encoders and CLIP).

        Returns:
            For causal models ``logits`` (b, L - start, V) of the next tokens, ``start`` being
            ``max(logits_from, len(prefix))``; for classifiers ``logits`` (b, labels); for encoders
            and CLIP ``features`` (b, d).

        Raises:
            ShapeError: ``embeds`` does not have the shape of the batch.
            ModelError: a prefix for a model that is not causal, or of another batch.
            OptionError: another option is not for this kind of model, or outside its range.
        """
        self.require_held()
        expected = (*batch.ids.shape, self.width)
        if tuple(embeds.shape) != expected:
            raise ShapeError(
                f"{self.name}: embeds of shape {tuple(embeds.shape)}",
                expected=f"{expected}, the batch's shape and the model's width",
            )
        causal = self.kind is ModelKind.CAUSAL
        if prefix is not None and not causal:
            raise ModelError(
                f"{self.name}: a cached prefix for a model of kind {self.kind.value}",
                expected="a causal language model",
                remedy="leave the prefix out",
            )
        if logits_from and not causal:
            raise OptionError(
                f"{self.name}: logits_from={logits_from}", expected="a causal language model"
            )
        if normalize and self.kind in (ModelKind.CAUSAL, ModelKind.CLASSIFIER):
            raise OptionError(f"{self.name}: normalize=True", expected="an encoder or CLIP")
        if self.splits(batch):
            output = run_by_length(
                lambda own, part, first: self._forward(own, part, prefix, first),
                embeds,
                batch,
                logits_from,
            )
        else:
            output = self._forward(embeds, batch, prefix, logits_from)
        if normalize and output.features is not None:
            return ModelOutput(features=functional.normalize(output.features, dim=-1))
        return output

    def splits(self, batch: Batch) -> bool:
        """Whether a batch is run in groups of rows of equal length, because padding would matter.

        Args:
            batch: rows of ids.
        """
        limit = self.padding_limit
        return limit is not None and not batch.even and batch.ids.shape[1] > limit

    @abstractmethod
    def _forward(
        self, embeds: Tensor, batch: Batch, prefix: Prefix | None, logits_from: int
    ) -> ModelOutput:
        """Run the model on checked arguments; the last two are for causal models."""

    def encode_texts(self, texts: Sequence[str], *, normalize: bool = False) -> ModelOutput:
        """Tokenize, embed and run texts as they stand, without gradient."""
        with torch.no_grad():
            batch = self.batch(self.words.encode_texts(texts))
            return self.forward(self.embed(batch.ids), batch, normalize=normalize)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.vocabulary_size} tokens x {self.width}, "
            f"{self.dtype}, {self.device})"
        )
