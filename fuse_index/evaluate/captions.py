"""The standard metrics of captions against references: BLEU, METEOR, ROUGE-L, CIDEr, SPICE."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from fuse_index.common.options import options
from fuse_index.common.progress import Progress, silent
from fuse_index.errors import CorpusError, MissingDependencyError, OptionError, ShapeError
from fuse_index.evaluate import scorers
from fuse_index.evaluate.interval import Score
from fuse_index.evaluate.scorers import Words
from fuse_index.evaluate.tokenization import Tokenization, choose_tokenization, tokenize

_LOGGER = logging.getLogger(__name__)


class CaptionMetric(str, Enum):
    """A caption metric, or a family of them."""

    BLEU = "bleu"
    """BLEU-1 to BLEU-4."""
    METEOR = "meteor"
    """Needs Java."""
    ROUGE = "rouge"
    """ROUGE-L."""
    CIDER = "cider"
    """CIDEr-D."""
    SPICE = "spice"
    """Needs Java, and Stanford CoreNLP, which is a separate download."""
    CLIPSCORE = "clipscore"
    """CLIPScore and RefCLIPScore; needs pictures and a CLIP model."""


TEXT_METRICS = tuple(metric for metric in CaptionMetric if metric is not CaptionMetric.CLIPSCORE)
"""What needs texts only, in the order of COCO's table."""
PURE_METRICS = (CaptionMetric.BLEU, CaptionMetric.ROUGE, CaptionMetric.CIDER)
"""What needs no Java."""
_SCORERS: dict[CaptionMetric, Callable[[Words, Sequence[Words]], Score | list[Score]]] = {
    CaptionMetric.BLEU: scorers.bleu,
    CaptionMetric.METEOR: scorers.meteor,
    CaptionMetric.ROUGE: scorers.rouge_l,
    CaptionMetric.CIDER: scorers.cider,
    CaptionMetric.SPICE: scorers.spice,
}


@options()
class CaptionOptions:
    """What to compute, and on which words.

    Attributes:
        metrics: of :data:`TEXT_METRICS`.
        tokenization: None takes PTB where Java is, and the plain one elsewhere.
    """

    metrics: tuple[CaptionMetric, ...] = TEXT_METRICS
    tokenization: Tokenization | None = None

    def __post_init__(self) -> None:
        others = [metric.value for metric in self.metrics if metric not in TEXT_METRICS]
        if others or not self.metrics:
            names = ", ".join(metric.value for metric in TEXT_METRICS)
            raise OptionError(
                f"metrics {', '.join(others) or '()'}", expected=f"one or several of {names}"
            )


@dataclass(frozen=True)
class CaptionReport:
    """What :func:`score_captions` found.

    Attributes:
        scores: by name: "BLEU-1" to "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE".
        left_out: why a metric could not be computed, by metric.
        tokenization: by which tokenizer captions were cut into words.
    """

    scores: dict[str, Score]
    left_out: dict[CaptionMetric, str]
    tokenization: Tokenization


def score_captions(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    options: CaptionOptions | None = None,
    progress: Progress = silent,
) -> CaptionReport:
    """Score captions against references with pycocoevalcap.

    What cannot be computed here, because Java, a download or pycocoevalcap itself is missing, is
    left out with the reason, and the rest is computed.

    Args:
        candidates: one caption an item.
        references: one or several captions of each item.
        options: see :class:`CaptionOptions`.
        progress: called with (metric, metrics done, metrics in all).

    Raises:
        ShapeError: there is no caption, or not as many lists of references.
        CorpusError: an item has no reference.
        MissingDependencyError: PTB is asked for and cannot run.
    """
    options = options or CaptionOptions()
    _check(candidates, references)
    tokenization = choose_tokenization(options.tokenization)
    words, reference_words = _cut(candidates, references, tokenization)
    scores: dict[str, Score] = {}
    left_out: dict[CaptionMetric, str] = {}
    for done, metric in enumerate(options.metrics):
        progress(metric.value, done, len(options.metrics))
        try:
            found = _SCORERS[metric](words, reference_words)
            for score in found if isinstance(found, list) else [found]:
                scores[score.name] = score
        except MissingDependencyError as error:
            left_out[metric] = str(error)
    if CaptionMetric.CIDER in options.metrics and len(candidates) == 1:
        _LOGGER.warning("CIDEr of one image is always 0: it weighs words by their rarity")
    return CaptionReport(scores, left_out, tokenization)


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(candidates, str) or not candidates or len(candidates) != len(references):
        raise ShapeError(
            f"{len(candidates)} captions and {len(references)} lists of references",
            expected="a list of captions and as many lists of references, at least one",
        )
    for index, others in enumerate(references):
        if isinstance(others, str) or not others:
            raise CorpusError(
                f"references of item {index}: {others!r}", expected="a list of at least one caption"
            )


def _cut(
    candidates: Sequence[str], references: Sequence[Sequence[str]], how: Tokenization
) -> tuple[Words, list[Words]]:
    """Cut everything in one go, because starting Java takes longer than the work."""
    texts = [*candidates, *(text for others in references for text in others)]
    words = iter(tokenize(texts, how))
    own: Words = list(islice(words, len(candidates)))
    return own, [list(islice(words, len(others))) for others in references]
