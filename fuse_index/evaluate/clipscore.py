"""CLIPScore: how well captions fit pictures, by a CLIP of your choice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fuse_index.common.progress import Tick
from fuse_index.errors import ImageError, ModelError, OptionError, ShapeError
from fuse_index.evaluate.interval import Score, mean_score
from fuse_index.models.clip import ClipModel

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.models.base import Model
    from fuse_index.models.images import ImageLike

_LOGGER = logging.getLogger(__name__)
PROMPT = "A photo depicts "
"""What the paper puts before every caption."""
WEIGHT = 2.5
"""What the paper multiplies similarities by."""


def score_clip(
    model: Model,
    images: Sequence[ImageLike],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]] | None = None,
    *,
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: Tick | None = None,
    on_unreadable: Callable[[int, ImageError], None] | None = None,
) -> dict[str, Score]:
    """Score captions against pictures, and against references in CLIP's text space.

    CLIP-S = 2.5 max(cos(caption, picture), 0); RefCLIP-S is the harmonic mean of it and of
    max(max over references of cos(caption, reference), 0) (Hessel et al. 2021, section 3).

    Args:
        model: of kind CLIP; published figures use ViT-B/32 of OpenAI.
        images: n pictures or paths of them.
        candidates: n captions.
        references: of each; None leaves RefCLIPScore out.
        prompt: put before every text. Texts too long for the model lose their last tokens.
        batch_size: pictures or texts of one forward pass.
        progress: called with (pictures done, pictures in all).
        on_unreadable: called with the number of a picture that cannot be read, and why; it has no
            score then, and the means are those of the others. Without it that is an error.

    Returns:
        "CLIPScore" and, with references, "RefCLIPScore".

    Raises:
        ModelError: the model is not a CLIP.
        ShapeError: there are not as many pictures, captions and lists of references.
        ImageError: a file is not an image, and ``on_unreadable`` is not given; or none is one.
        OptionError: the batch size is below 1.
    """
    if not isinstance(model, ClipModel):
        raise ModelError(f"{model.name}: a model of kind {model.kind.value}", expected="a CLIP")
    if batch_size < 1:
        raise OptionError(f"batch_size={batch_size}", expected="at least 1")
    counts = [len(images), len(candidates)] + ([] if references is None else [len(references)])
    if len(set(counts)) != 1 or not counts[0]:
        raise ShapeError(
            f"{', '.join(map(str, counts))} pictures, captions and lists of references",
            expected="as many of each, and at least one",
        )
    texts = _text_features(model, candidates, prompt, batch_size)
    pictures = _image_features(model, images, batch_size, progress, on_unreadable)
    similarity = WEIGHT * (texts * pictures).sum(dim=1).clamp(min=0)
    scores = [mean_score("CLIPScore", similarity.cpu().numpy())]
    if references is not None:
        flat = [text for others in references for text in others]
        others = _text_features(model, flat, prompt, batch_size)
        nearest = _nearest(texts, others, [len(group) for group in references])
        total = similarity + nearest
        harmonic = torch.where(total == 0, 0.0, 2 * similarity * nearest / total)
        scores.append(mean_score("RefCLIPScore", harmonic.cpu().numpy()))
    return {score.name: score for score in scores}


def _image_features(
    model: ClipModel,
    images: Sequence[ImageLike],
    batch_size: int,
    progress: Tick | None,
    on_unreadable: Callable[[int, ImageError], None] | None,
) -> Tensor:
    """(n, d) float64 of unit length; NaN for a picture that cannot be read."""
    rows: list[Tensor | None] = []
    errors: list[ImageError] = []

    def encode(index: int) -> Tensor | None:
        try:
            return model.encode_image([images[index]])[0]
        except ImageError as error:
            if on_unreadable is None:
                raise
            on_unreadable(index, error)
            errors.append(error)
            return None

    for start in range(0, len(images), batch_size):
        end = min(start + batch_size, len(images))
        try:
            rows += model.encode_image(list(images[start:end])).unbind()
        except ImageError:  # which of them it is shows one at a time
            rows += [encode(index) for index in range(start, end)]
        if progress is not None:
            progress(end, len(images))
    known = [row for row in rows if row is not None]
    if not known:
        raise errors[0]
    blank = torch.full_like(known[0], torch.nan)
    return _unit(torch.stack([blank if row is None else row for row in rows]))


def _text_features(model: ClipModel, texts: Sequence[str], prompt: str, batch_size: int) -> Tensor:
    """(n, d) float64 of unit length."""
    limit = None
    if model.positions is not None:
        limit = model.positions - len(model.frame.head) - len(model.frame.tail)
    found, cut = [], 0
    for start in range(0, len(texts), batch_size):
        encoded = model.words.encode_texts([prompt + t for t in texts[start : start + batch_size]])
        rows = [row.tolist() for row in encoded]
        cut += sum(limit is not None and len(row) > limit for row in rows)
        with torch.no_grad():
            batch = model.batch([row[:limit] for row in rows])
            features = model.forward(model.embed(batch.ids), batch).features
        assert features is not None
        found.append(features)
    if cut:
        _LOGGER.warning("%d texts are longer than %s reads and were cut", cut, model.name)
    return _unit(torch.cat(found))


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=-1)


def _nearest(texts: Tensor, references: Tensor, counts: Sequence[int]) -> Tensor:
    """(n,): cosine to each text's nearest reference, at least 0."""
    if not all(counts):
        raise ShapeError(
            f"item {int(np.argmin(counts))} has no reference", expected="at least one an item"
        )
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    owner = owner.to(texts.device)
    cosines = (texts[owner] * references).sum(dim=1)
    return texts.new_zeros(len(counts)).scatter_reduce(0, owner, cosines, "amax")
