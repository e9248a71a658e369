"""What a model sees in the prompt: similarity to images or texts, or a classifier's label."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch.nn import functional

from fuse_index.common.options import options
from fuse_index.errors import OptionError
from fuse_index.models.clip import ClipModel
from fuse_index.models.contents import picture_hash
from fuse_index.models.encoder import ClassifierModel
from fuse_index.models.graphs import GraphCache
from fuse_index.models.images import as_images
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives.base import Loss, Objective, register
from fuse_index.objectives.items import ItemObjective

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.words.ragged import Ragged


LabelName = str | Annotated[int, Field(strict=True)]
"""A label by name or index; ``yes`` and ``1.0``, which YAML reads as no text, are neither."""


@register
@options(kw_only=True)
class ImageSimilarity(ItemObjective):
    """``1 - cosine`` between the prompt's features and an image's; of several images, the mean.

    Attributes:
        images: a path or PIL image, or several; kept as a tuple.
    """

    images: Any = ()

    type: ClassVar[str] = "image"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CLIP,)
    wanted: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        if isinstance(self.images, str) or not hasattr(self.images, "__iter__"):
            object.__setattr__(self, "images", (self.images,))
        object.__setattr__(self, "images", tuple(self.images))
        super().__post_init__()

    def require_item(self) -> None:
        """Refuse to have no image."""
        if not self.images:
            raise OptionError("image: no images", expected="at least one")

    def _prepare(self, model: Model) -> Loss:
        assert isinstance(model, ClipModel)
        opened = as_images(list(self.images))
        names = [
            f"the image {item}" if isinstance(item, (str, Path)) else f"image {number}"
            for number, item in enumerate(self.images, 1)
        ]
        hashes = dict(zip(names, map(picture_hash, opened), strict=True))
        return FeatureLoss(self, model, model.encode_image(opened, normalize=True), hashes)


@register
@options(kw_only=True)
class TextSimilarity(ItemObjective):
    """``1 - cosine`` between the prompt's features and another text's; of several texts, the mean.

    Attributes:
        texts: the other text or texts, each as it stands, without prefix or suffix; kept as a
            tuple.
    """

    texts: str | tuple[str, ...] = ()

    type: ClassVar[str] = "text"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.ENCODER, ModelKind.CLIP)
    wanted: ClassVar[str] = "texts"

    def __post_init__(self) -> None:
        texts = (self.texts,) if isinstance(self.texts, str) else tuple(self.texts)
        object.__setattr__(self, "texts", texts)
        super().__post_init__()

    def require_item(self) -> None:
        """Refuse to have no text, or an empty one."""
        if not self.texts or not all(self.texts):
            raise OptionError(
                f"text: texts {list(self.texts)!r}", expected="at least one, none empty"
            )

    def _prepare(self, model: Model) -> Loss:
        features = model.encode_texts(list(self.texts), normalize=True).features
        assert features is not None
        return FeatureLoss(self, model, features)


@register
@options(kw_only=True)
class ClassifierLabel(ItemObjective):
    """Cross-entropy of a classifier to a label, ``- log p(label | prompt)``.

    The probability is the classifier's own: by a softmax over the labels, or by a sigmoid where its
    ``problem_type`` says that a text may have several labels. A head that gives numbers, as of
    regression or rewards, is refused.

    Attributes:
        label: name of the label, or its index; a name comes before an index.
    """

    label: LabelName = ""

    type: ClassVar[str] = "label"
    kinds: ClassVar[tuple[ModelKind, ...]] = (ModelKind.CLASSIFIER,)
    wanted: ClassVar[str] = "label"
    can_be_met: ClassVar[bool] = True

    def require_item(self) -> None:
        """Refuse to have no label."""
        if self.label == "":
            raise OptionError("label: no 'label'", expected="label to be given")

    def _prepare(self, model: Model) -> Loss:
        assert isinstance(model, ClassifierModel)
        model.require_labels()
        return _LabelLoss(self, model)


class FeatureLoss(Loss):
    """``1 -`` the mean cosine to target features.

    Args:
        objective: the options.
        model: an encoder or CLIP.
        targets: (n, d), of unit length.
        contents: hashes of what the targets come from, by what it is.

    Attributes:
        target: ``(d,)`` float32, the mean of the targets; ``(b, d)`` where :meth:`joined`.
    """

    recordable: ClassVar[bool] = True
    shares_outputs: ClassVar[bool] = True

    def __init__(
        self,
        objective: Objective,
        model: Model,
        targets: Tensor,
        contents: dict[str, str] | None = None,
    ) -> None:
        super().__init__(objective, model)
        self._contents = contents or {}
        # the mean of cosines with n targets is one product with their mean
        self.target = targets.float().mean(dim=0)

    def contents(self) -> dict[str, str]:
        """Return hashes of the pictures."""
        return self._contents

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        """Return ``1 - cosine`` (b,)."""
        return self.from_outputs(self._outputs(embeds, batch))

    def from_outputs(self, outputs: Tensor) -> Tensor:
        """Return ``1 - cosine`` (b,) from features (b, d) of unit length."""
        if self.target.ndim == 2:
            return 1.0 - (outputs * self.target).sum(dim=-1)
        return 1.0 - outputs @ self.target

    def joined(self, losses: Sequence[Loss]) -> Loss:
        """Return the loss of a batch whose rows are compared with the targets of several losses."""
        if all(loss is self for loss in losses):
            return self
        found = copy(self)
        found.target = torch.stack([cast("FeatureLoss", loss).target for loss in losses])
        found.graphs = GraphCache(self.model)  # recordings read one target
        found.graphs.enabled = False
        return found

    def features(self, contents: Sequence[Sequence[int]] | Ragged) -> Tensor:
        """Return the features of prompts, without gradient.

        Args:
            contents: b rows of token ids of this model.

        Returns:
            (b, d) float32 of unit length.
        """
        return self.outputs(self.batch(contents))

    def _outputs(self, embeds: Tensor, batch: Batch) -> Tensor:
        features = self.model.forward(embeds, batch).features
        assert features is not None
        return functional.normalize(features.float(), dim=-1)


class _LabelLoss(Loss):
    recordable: ClassVar[bool] = True
    model: ClassifierModel
    ends_run: ClassVar[bool] = False

    def __init__(self, objective: ClassifierLabel, model: ClassifierModel) -> None:
        super().__init__(objective, model)
        self._label = model.label_id(objective.label)

    def compute(self, embeds: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        logits = self.model.forward(embeds, batch).logits
        assert logits is not None
        return -self.model.log_probabilities(logits)[:, self._label]

    def is_satisfied(self, contents: Sequence[Sequence[int]] | Ragged) -> Tensor | None:
        """Whether the classifier predicts the label."""
        with torch.no_grad():
            batch = self.batch(contents)
            logits = self.model.forward(self.model.embed(batch.ids), batch).logits
        assert logits is not None
        return self.model.predicted(logits)[:, self._label]
