"""Captions of the demo's scenes: the language model drafts, and guided revision corrects.

The language model writes drafts once for all scenes. For a request, those with the smallest loss
are gone over from left to right by :class:`fuse_index.optimize.AutoDAN`: each token is chosen anew
from those that the language model finds likely between its neighbours and the gradients of CLIP
and the classifier, pulled back through the adapters, find helpful.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from fuse_index.demo.graph import agreement
from fuse_index.demo.lexicon import Sentiment
from fuse_index.demo.parsing import graph_of_sentence
from fuse_index.demo.writing import write_sentences
from fuse_index.errors import OptionError
from fuse_index.evaluate.graphs import Agreement
from fuse_index.objectives import ClassifierLabel, Fluency, ImageSimilarity
from fuse_index.optimize import (
    AutoDAN,
    Budget,
    Greedy,
    MethodOptions,
    Problem,
    Result,
    RunOptions,
    SearchOptions,
    Stop,
    Term,
    optimize,
)
from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.demo.cast import Cast
    from fuse_index.demo.scene import Scene
    from fuse_index.optimize.optimize import Callback

_ROWS = 64


class Request(str, Enum):
    """What is asked of a caption."""

    PLAIN = "plain"
    """What is in the picture."""
    POSITIVE = "positive"
    """Also with liking."""
    NEGATIVE = "negative"
    """Also with dislike."""

    @property
    def sentiment(self) -> Sentiment | None:
        """The sentiment that is wanted, None where any will do."""
        return None if self is Request.PLAIN else Sentiment(self.value)


@dataclass(frozen=True)
class GuideOptions:
    """How captions are looked for.

    Attributes:
        seed: decides the drafts and every other draw.
        drafts: sentences the language model writes, for all scenes together.
        starts: drafts that are revised for a caption, the best first.
        sweeps: how often each is gone over.
        search_width: tokens tried in each position.
        guidance: of the gradients against the likelihood, see :class:`AutoDAN`.
        image_weight: of ``1 - cosine`` against a token's mean negative log-likelihood.
        sentiment_weight: of the classifier's cross-entropy, for requests with a sentiment.
    """

    seed: int = 0
    drafts: int = 384
    starts: int = 2
    sweeps: int = 1
    search_width: int = 12
    guidance: float = 2.0
    image_weight: float = 22.0
    sentiment_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("drafts", "starts", "sweeps", "search_width"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}", expected="at least 1")

    def method(self, length: int) -> MethodOptions:
        """The method that revises a draft of so many tokens."""
        return AutoDAN(
            length=length,
            search_width=self.search_width,
            weight=self.guidance,
            iterations=1,
            sweeps=self.sweeps,
        )


@dataclass(frozen=True)
class Finding:
    """A caption and how it was found.

    Attributes:
        scene: number of the scene.
        request: what was asked.
        text: the caption.
        agreement: of what it says with the scene.
        likeness: cosine of caption and picture, by CLIP.
        fluency: mean negative log-likelihood of a token.
        verdict: the sentiment that the judge sees in it.
        curve: (forward passes, smallest total loss so far) of every step.
        seconds: wall time.
    """

    scene: int
    request: Request
    text: str
    agreement: Agreement
    likeness: float
    fluency: float
    verdict: str
    curve: tuple[tuple[int, float], ...]
    seconds: float

    @property
    def kept(self) -> bool:
        """Whether the judge sees the sentiment that was asked for."""
        wanted = self.request.sentiment
        return wanted is None or self.verdict == wanted.value

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return {
            "scene": self.scene,
            "request": self.request.value,
            "caption": self.text,
            "f1": self.agreement.f1,
            "precision": self.agreement.precision,
            "recall": self.agreement.recall,
            "clip": self.likeness,
            "fluency": self.fluency,
            "verdict": self.verdict,
            "kept": self.kept,
            "forward_passes": self.curve[-1][0],
            "loss": self.curve[-1][1],
            "seconds": self.seconds,
        }


class Drafts:
    """Sentences the language model wrote, and what every model makes of them.

    Args:
        cast: the models.
        count: how many are written; repeats are dropped.
        seed: decides them.
    """

    def __init__(self, cast: Cast, count: int, seed: int) -> None:
        self.cast = cast
        generator = torch.Generator().manual_seed(seed)
        rows = write_sentences(cast.lm, [()] * count, generator)
        kept = list(dict.fromkeys(rows))
        survives = Problem(cast.lm, [Term(Fluency(), cast.lm)]).words.survives(
            Ragged.from_lists(kept)
        )
        self.rows = [row for row, whole in zip(kept, survives, strict=True) if whole]
        self.texts = [cast.lm.words.decode(list(row)).strip() for row in self.rows]

    def score(self) -> None:
        """Let every model look at them now rather than when first needed."""
        _ = self.features, self.fluencies, self.opinions

    @cached_property
    def features(self) -> Tensor:
        """``(n, d)``: CLIP's, of unit length."""
        parts = []
        for begin in range(0, len(self.texts), _ROWS):
            texts = self.texts[begin : begin + _ROWS]
            features = self.cast.clip.encode_texts(texts, normalize=True).features
            assert features is not None
            parts.append(features.float())
        return torch.cat(parts)

    @cached_property
    def fluencies(self) -> Tensor:
        """``(n,)``: mean negative log-likelihoods of their tokens and of their end."""
        loss = fluency().prepare(self.cast.lm)
        return _in_parts(loss.score, self.rows)

    @cached_property
    def opinions(self) -> Tensor:
        """``(n, labels)``: negative log-probabilities of the classifier's labels."""
        model = self.cast.sentiment

        def ask(texts: Sequence[str]) -> Tensor:
            logits = model.encode_texts(texts).logits
            assert logits is not None
            return -logits.float().log_softmax(dim=-1)

        return _in_parts(ask, self.texts)


def fluency() -> Fluency:
    """What the language model is asked: a likely sentence that ends where it ends."""
    return Fluency(include_end=True)


def _in_parts(call: Any, rows: Sequence[Any]) -> Tensor:
    parts = [call(rows[begin : begin + _ROWS]) for begin in range(0, len(rows), _ROWS)]
    return torch.cat(parts)


class SceneCaptioner:
    """Captions pictures of scenes.

    Args:
        cast: the models.
        options: how.
    """

    def __init__(self, cast: Cast, options: GuideOptions | None = None) -> None:
        self.cast = cast
        self.options = options or GuideOptions()

    @cached_property
    def drafts(self) -> Drafts:
        """What captions begin from, written when first needed."""
        return Drafts(self.cast, self.options.drafts, self.options.seed)

    def problem(self, picture: Any, request: Request) -> Problem:
        """Return what is minimized for a picture and a request."""
        cast, options = self.cast, self.options
        likeness = ImageSimilarity(images=picture, weight=options.image_weight)
        terms = [Term(fluency(), cast.lm), Term(likeness, cast.clip, cast.to_clip)]
        if request.sentiment is not None:
            feeling = ClassifierLabel(
                label=request.sentiment.value, weight=options.sentiment_weight
            )
            terms.append(Term(feeling, cast.sentiment, cast.to_sentiment))
        return Problem(cast.lm, terms)

    def best_drafts(self, picture: Any, request: Request, count: int) -> list[tuple[int, ...]]:
        """Return the drafts with the smallest total loss, the best first."""
        options, drafts = self.options, self.drafts
        features = self.cast.clip.encode_image([picture], normalize=True)[0].float()
        totals = drafts.fluencies + options.image_weight * (1 - drafts.features @ features)
        if request.sentiment is not None:
            label = self.cast.sentiment.label_id(request.sentiment.value)
            totals = totals + options.sentiment_weight * drafts.opinions[:, label]
        order = totals.argsort(stable=True)[:count].tolist()
        return [drafts.rows[index] for index in order]

    def caption(
        self,
        scene: Scene,
        number: int,
        request: Request,
        callbacks: Sequence[Callback] = (),
    ) -> Finding:
        """Look for a caption of a scene's picture.

        Args:
            scene: what is drawn.
            number: its number, for the finding.
            request: what is asked.
            callbacks: called after every step of every run.

        Raises:
            KeyboardInterrupt: an interrupt came; there is no finding then.
        """
        from fuse_index.demo.drawing import draw  # noqa: PLC0415

        begin = time.perf_counter()
        picture = draw(scene)
        problem = self.problem(picture, request)
        results = []
        for start in self.best_drafts(picture, request, self.options.starts):
            found = self._revise(problem, start, callbacks)
            if found.stop is Stop.INTERRUPTED:
                raise KeyboardInterrupt
            results.append(found)
        best = min(results, key=lambda result: result.total)
        text = best.text.strip()
        return Finding(
            scene=number,
            request=request,
            text=text,
            agreement=agreement(graph_of_sentence(text), scene.graph, scene.truths),
            likeness=1 - best.losses["image"],
            fluency=best.losses["fluency"],
            verdict=self.verdict(text),
            curve=joined_curve(results),
            seconds=time.perf_counter() - begin,
        )

    def _revise(
        self, problem: Problem, start: tuple[int, ...], callbacks: Sequence[Callback]
    ) -> Result:
        return optimize(
            problem,
            [start],
            method=self.options.method(len(start)),
            search=self._search(),
            budget=Budget(steps=len(start) * self.options.sweeps),
            options=RunOptions(seed=self.options.seed),
            callbacks=callbacks,
        )

    def _search(self) -> SearchOptions:
        return Greedy()

    def verdict(self, text: str) -> str:
        """Return the sentiment that the judge sees in a text."""
        logits = self.cast.judge.encode_texts([text]).logits
        assert logits is not None
        return self.cast.judge.labels[int(logits[0].argmax())]


def joined_curve(results: Sequence[Result]) -> tuple[tuple[int, float], ...]:
    """Put runs one after another: forward passes so far, and the smallest total so far."""
    points: list[tuple[int, float]] = []
    passes, best = 0, float("inf")
    for result in results:
        for point in result.trajectory:
            best = min(best, point.best)
            points.append((passes + point.forward_passes, best))
        passes = points[-1][0]
    return tuple(points)
