"""Objectives: options that can be written down, and the loss that they define on a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import model_validator

from fuse_index.bundle.jsontext import plain
from fuse_index.common.options import Flag, Number, options
from fuse_index.common.reading import read_options
from fuse_index.errors import LossError, ModelError, OptionError
from fuse_index.models.boundaries import placed, surround
from fuse_index.models.chat import Conversation, Message, require_place
from fuse_index.models.graphs import GraphCache
from fuse_index.models.kinds import ModelKind
from fuse_index.models.surroundings import Surroundings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.words.ragged import Ragged

OBJECTIVES: dict[str, type[Objective]] = {}
"""Every objective that can be written in a file, by its type name."""

ObjectiveType = TypeVar("ObjectiveType", bound="type[Objective]")


@options(kw_only=True)
class Objective(ABC):
    """What is wanted of a prompt, measured by one model.

    Attributes:
        weight: factor of this loss in the sum; negative to push away from what it rewards.
        prefix: text before the prompt for this model, as it stands.
        suffix: text after the prompt for this model, as it stands.
        special_tokens: whether special tokens that prefix and suffix spell out, such as ``</s>``,
            count as such; else they are text.
        messages: a conversation instead of prefix and suffix, each message with role and content;
            ``{prompt}`` in one content is where the prompt stands. The model's own chat template
            renders it, with its special tokens.
        add_generation_prompt: whether the template begins an answer behind the messages.
    """

    weight: Number = 1.0
    prefix: str = ""
    suffix: str = ""
    special_tokens: Flag = False
    messages: tuple[Message, ...] = ()
    add_generation_prompt: Flag = True

    type: ClassVar[str] = ""
    """Name in files and messages."""
    kinds: ClassVar[tuple[ModelKind, ...]] = tuple(ModelKind)
    """Kinds of models that can measure it."""
    differentiable: ClassVar[bool] = True
    """Whether the loss has a gradient with respect to embeddings or soft labels."""

    @model_validator(mode="after")
    def _require_place(self) -> Objective:
        """Refuse messages without one place for the prompt, or beside a prefix or suffix."""
        if self.messages:
            require_place(self.messages)
        if self.messages and (self.prefix or self.suffix):
            raise OptionError(
                f"{self.type}: messages beside a prefix or suffix",
                expected="one or the other",
                remedy="write the text into the messages",
            )
        return self

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives of its items (:mod:`fuse_index.objectives.items`); itself without any."""
        return (self,)

    def prepare(self, model: Model) -> Loss:
        """Make the loss of a model: what does not depend on the prompt is computed here, once.

        Raises:
            ModelError: the model is of another kind, or lacks what the objective asks for.
        """
        if model.kind not in self.kinds:
            raise ModelError(
                f"{model.name}: a model of kind {model.kind.value!r} for objective {self.type!r}",
                expected=f"kind {' or '.join(repr(kind.value) for kind in self.kinds)}",
                remedy="choose another model, or load it as that kind",
            )
        return self._prepare(model)

    @abstractmethod
    def _prepare(self, model: Model) -> Loss:
        """Make the loss of a model of the right kind."""

    def surround(self, model: Model, target: str = "") -> Surroundings:
        """Tokenize what stands around the prompt.

        Args:
            model: whose tokens.
            target: text behind the suffix.

        Raises:
            OptionError: the target has no tokens, or shares one with the suffix.
            ModelError: the model has no chat template for the messages, or not one that writes the
                prompt once and as it stands.
        """
        chat = None
        if self.messages:
            chat = Conversation(model, self.messages, self.add_generation_prompt)
        return surround(
            model,
            self.prefix,
            self.suffix,
            target,
            special_tokens=self.special_tokens,
            conversation=chat,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object with the type name.

        Raises:
            OptionError: an option cannot be written down (a function, an opened image).
        """
        values: dict[str, Any] = {"type": self.type}
        for field in fields(self):
            try:
                values[field.name] = plain(getattr(self, field.name))
            except TypeError as error:
                raise OptionError(
                    f"{self.type}: {field.name}: {error}",
                    expected="something that can be written in a file",
                ) from None
        return values


def register(cls: ObjectiveType) -> ObjectiveType:
    """Class decorator: let an objective be written in files under its type name."""
    OBJECTIVES[cls.type] = cls
    return cls


def objective_from_json(value: Mapping[str, Any]) -> Objective:
    """Build an objective from what :meth:`Objective.to_json` returns or a file says.

    Raises:
        OptionError: the type or an option is unknown, or an option is outside its range.
    """
    given = dict(value)
    name = given.pop("type", None)
    if name not in OBJECTIVES:
        raise OptionError(
            f"objective type {name!r}", expected="one of " + ", ".join(sorted(OBJECTIVES))
        )
    return read_options(OBJECTIVES[name], given, name)


class Loss(ABC):
    """An objective bound to a model: embeddings of a batch to one loss a row.

    Every row is a candidate and has one loss; nothing is averaged over the batch.

    Args:
        objective: the options.
        model: the model, of a kind the objective accepts.
        surroundings: what stands around the prompt; by default what the objective says.
    """

    uses_labels: ClassVar[bool] = False
    """Whether tokens count as labels too, so that one-hot labels change the gradient."""
    ends_run: ClassVar[bool] = True
    """Whether a run may end early once :meth:`is_satisfied`."""
    recordable: ClassVar[bool] = False
    """Whether it computes with what is on the model's device alone, the same for every batch of one
    shape, so that a GPU may replay it (:mod:`fuse_index.models.graphs`)."""

    runs_model: ClassVar[bool] = True
    """Whether the model is run; not where the tokens alone are looked at."""
    shares_outputs: ClassVar[bool] = False
    """Whether :meth:`outputs` are the same for every objective of the type on one model."""

    def __init__(
        self, objective: Objective, model: Model, surroundings: Surroundings | None = None
    ) -> None:
        self.objective = objective
        self.model = model
        self.surroundings: Surroundings = surroundings or objective.surround(model)
        """What stands around the prompt, in the model's tokens."""
        self.graphs = GraphCache(model)
        """Recordings of its passes."""
        self.graphs.enabled = self.recordable

    @property
    def name(self) -> str:
        """Type and model, for tables and messages."""
        return f"{self.objective.type}({self.model.name})"

    @property
    def shares_starts(self) -> bool:
        """Whether content that all rows of a batch begin with is run once."""
        return False

    def predictions(self, batch: Batch) -> int:
        """Return at how many positions of a row the logits over a vocabulary are computed.

        Args:
            batch: some prompts.
        """
        del batch
        return 0

    def batch(self, contents: Sequence[Sequence[int]] | Ragged) -> Batch:
        """Put prompts between what surrounds them.

        Args:
            contents: b rows of token ids of this model.

        Raises:
            ModelError: a row is longer than the model's positions.
        """
        return self.surroundings.batch(contents)

    def count_tokens(self, lengths: NDArray[np.int64]) -> int:
        """Return how many tokens the model reads for prompts, none where it is not run.

        Args:
            lengths: ``(n,)``, content tokens.
        """
        return self.surroundings.count(lengths) if self.runs_model else 0

    def place(self, texts: Sequence[str]) -> None:
        """Tokenize what stands around the prompt anew, for prompts that are texts.

        Args:
            texts: some prompts, as another model's tokens decode.
        """
        self.surroundings = placed(self.surroundings, texts)

    def contents(self) -> dict[str, str]:
        """Return hashes of what the options only name, such as pictures, by what it is."""
        return {}

    def __call__(self, embeds: Tensor, batch: Batch, labels: Tensor | None = None) -> Tensor:
        """Return one loss a row.

        Args:
            embeds: (b, L, width), embeddings of ``batch.ids`` or what stands for them.
            batch: made by :meth:`batch`.
            labels: (b, C, vocabulary size), the content tokens once more as (relaxed) one-hot rows,
                C the longest content; for losses in which tokens are labels as well as inputs. See
                :func:`fuse_index.objectives.one_hot_content`.

        Returns:
            (b,) float32.

        Raises:
            LossError: the objective does not give one loss a row.
        """
        losses = self.compute(embeds, batch, labels)
        if losses.shape != (len(batch),):
            raise LossError(
                f"{self.name} gives losses of shape {tuple(losses.shape)}",
                expected=f"({len(batch)},), one for every prompt",
                remedy="do not average over the batch",
            )
        return losses.float()

    @abstractmethod
    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        """Compute one loss a row, unchecked."""

    def score(self, contents: Sequence[Sequence[int]] | Ragged) -> Tensor:
        """Return the losses (b,) of rows of token ids, without gradient."""
        return self.score_batch(self.batch(contents))

    def score_batch(self, batch: Batch) -> Tensor:
        """Return the losses (b,) of a batch, without gradient."""
        return self.from_outputs(self.outputs(batch))

    def outputs(self, batch: Batch) -> Tensor:
        """Return what :meth:`from_outputs` makes losses of; a GPU replays what it knows.

        Returns:
            (b, ...), without gradient.
        """
        with torch.no_grad():
            embeds = self.model.embed(batch.ids)
            return self.graphs.run("outputs", lambda *own: (self._outputs(*own),), embeds, batch)[0]

    def _outputs(self, embeds: Tensor, batch: Batch) -> Tensor:
        return self(embeds, batch)

    def from_outputs(self, outputs: Tensor) -> Tensor:
        """Return the losses (b,) of a batch from its outputs."""
        return outputs

    def joined(self, losses: Sequence[Loss]) -> Loss:
        """Return the loss of a batch whose rows belong to several losses that share outputs.

        Args:
            losses: b losses, one a row; this one, or of its type.
        """
        assert all(loss is self for loss in losses)
        return self

    def forget(self) -> None:
        """Drop what was computed for the content of earlier batches.

        Without it a loss may reuse what batches share; the values are the same up to rounding.
        """
        return

    def is_satisfied(self, contents: Sequence[Sequence[int]] | Ragged) -> Tensor | None:
        """Return which prompts (b,) satisfy the objective; None for one without a threshold.

        Args:
            contents: b rows of token ids of this model.
        """
        del contents
        return None

    def texts(self, batch: Batch) -> list[str]:
        """Decode the content of every row, as it stands in the whole text."""
        rows = [row[mask].tolist() for row, mask in zip(batch.ids, batch.content, strict=True)]
        return self.surroundings.decode(rows)


def require_finite(losses: Tensor, loss: Loss, batch: Batch) -> None:
    """Refuse NaN and infinity, naming the objective and the prompt.

    Raises:
        LossError: a loss is not finite.
    """
    bad = (~torch.isfinite(losses)).nonzero()[:, 0].tolist()
    if bad:
        text = loss.texts(batch)[bad[0]]
        raise LossError(
            f"{loss.name} is {losses[bad[0]].item()} for the prompt {text!r}"
            + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""),
            expected="a finite loss",
            remedy="run the model in float32 or bfloat16, or check its weights",
        )
