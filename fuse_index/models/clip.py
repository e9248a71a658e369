"""Models with a text and an image tower: what they share, and those of transformers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from fuse_index.errors import ShapeError
from fuse_index.models.base import Model, ModelParts
from fuse_index.models.batch import Batch
from fuse_index.models.images import Images, as_images
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.selfcheck import settle_padding
from fuse_index.models.substitute import EmbeddingSubstitute, marker_ids, with_padding_embedded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fuse_index.models.prefix import Prefix

_CHANNELS = 4
"""Channels that an image may have, for what processors guess from its shape."""


class ClipModel(Model):
    """A text and an image tower with one feature space; ``embedding`` is the text tower's."""

    kind: ClassVar[ModelKind] = ModelKind.CLIP
    module: Any

    def __init__(self, module: nn.Module, embedding: nn.Embedding, parts: ModelParts) -> None:
        super().__init__(module, embedding, parts)
        self._substitute = EmbeddingSubstitute(embedding)

    def _forward(
        self, embeds: Tensor, batch: Batch, prefix: Prefix | None, logits_from: int
    ) -> ModelOutput:
        if self.frame.width is not None:
            pad = self.embed(torch.full((1, 1), self.frame.pad, device=self.device))[0, 0]
            embeds = with_padding_embedded(embeds, batch, pad)
        with self._substitute.using(embeds):
            return ModelOutput(features=self._text_features(batch))

    def encode_image(self, images: Images, *, normalize: bool = False) -> Tensor:
        """Return image features, without gradient.

        Args:
            images: one or several PIL images or paths, or preprocessed pixels (b, 3, h, w).
            normalize: scale them to unit length.

        Returns:
            (b, d).

        Raises:
            ImageError: a file is not an image.
        """
        with torch.no_grad():
            if isinstance(images, torch.Tensor):
                pixels = images
                if pixels.ndim == 3:
                    pixels = pixels[None]
                if pixels.ndim != 4:
                    raise ShapeError(
                        f"{self.name}: pixels of shape {tuple(pixels.shape)}",
                        expected="(b, 3, h, w)",
                    )
            else:
                pixels = self._pixels(as_images(images))
            features = self._image_features(pixels.to(self.device))
        return functional.normalize(features, dim=-1) if normalize else features

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosine similarities by."""
        return float(self.module.logit_scale.exp())

    @abstractmethod
    def _text_features(self, batch: Batch) -> Tensor:
        """Run the text tower while its lookup is substituted -> (b, d)."""

    @abstractmethod
    def _image_features(self, pixels: Tensor) -> Tensor:
        """Run the image tower on (b, 3, h, w) -> (b, d)."""

    @abstractmethod
    def _pixels(self, images: list[Any]) -> Tensor:
        """Preprocess RGB images -> (b, 3, h, w)."""


class TransformersClipModel(ClipModel):
    """CLIP and SigLIP of transformers.

    CLIP's text tower looks only to the left and pools at the end-of-text token. SigLIP's looks both
    ways without a mask and pools at the last position, so its rows always have full width.

    Args:
        module: a ``CLIPModel``, ``SiglipModel`` or ``Siglip2Model``.
        embedding: see :class:`ClipModel`.
        parts: see :class:`ClipModel`.
        load_processor: loads the image processor when the first image comes.
    """

    def __init__(
        self,
        module: nn.Module,
        embedding: nn.Embedding,
        parts: ModelParts,
        load_processor: Callable[[], Any],
    ) -> None:
        super().__init__(module, embedding, parts)
        self._load_processor = load_processor
        self._processor: Any = None
        end = getattr(self.module.config.text_config, "eos_token_id", None)
        # Configurations from before transformers 4.31 say 2 and mean "the largest id".
        self._end = int(embedding.num_embeddings) - 1 if end in (None, 2) else int(end)
        settle_padding(self)

    def _text_features(self, batch: Batch) -> Tensor:
        ids = marker_ids(batch, end=self._end, pad=0)
        return _pooled(self.module.get_text_features(input_ids=ids))

    def _image_features(self, pixels: Tensor) -> Tensor:
        return _pooled(self.module.get_image_features(pixel_values=pixels.to(self.dtype)))

    def _pixels(self, images: list[Any]) -> Tensor:
        if self._processor is None:
            self._processor = self._load_processor()
        how: dict[str, Any] = {"return_tensors": "pt"}
        if any(min(image.size) <= _CHANNELS for image in images):
            # processors may take a side this short for the channels unless told where those are
            images = [np.array(image) for image in images]
            how["input_data_format"] = "channels_last"
        pixels: Tensor = self._processor(images=images, **how)["pixel_values"]
        return pixels


def _pooled(output: Any) -> Tensor:
    """Features were a bare tensor before transformers 5."""
    features: Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features
