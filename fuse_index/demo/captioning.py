"""Captions of the demo's scenes by :class:`fuse_index.optimize.Moves`.

A plain caption begins from the drafts of the language model with the smallest loss. A caption with
a sentiment begins from the plain one, with beginnings and endings of drafts of that sentiment put
before and behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fuse_index.common.options import Count, NaturalWidth, NonNegative, Seed, Width, options
from fuse_index.demo.drafts import Drafts, fluency
from fuse_index.demo.drawing import draw
from fuse_index.demo.graph import agreement
from fuse_index.demo.lexicon import Sentiment
from fuse_index.demo.parsing import graph_of_sentence
from fuse_index.evaluate.graphs import Agreement
from fuse_index.objectives import ClassifierLabel, ImageSimilarity
from fuse_index.optimize import Budget, Moves, Problem, Result, RunOptions, Stop, Term, optimize
from fuse_index.report import Alternative, WordEffects, alternatives_of, curve_of, word_effects

if TYPE_CHECKING:
    from fuse_index.demo.cast import Cast
    from fuse_index.demo.scene import Scene
    from fuse_index.optimize.optimize import Callback


class Request(str, Enum):
    """What is asked of a caption."""

    PLAIN = "plain"
    """What is in the picture, without feeling."""
    POSITIVE = "positive"
    """Also with liking."""
    NEGATIVE = "negative"
    """Also with dislike."""

    @property
    def sentiment(self) -> Sentiment:
        """The sentiment that is wanted."""
        return Sentiment.NEUTRAL if self is Request.PLAIN else Sentiment(self.value)


@options(label="demo")
class GuideOptions:
    """How captions are searched.

    Attributes:
        seed: decides every draw.
        passes: forward passes of a plain caption, about.
        felt_passes: forward passes of a caption with a sentiment, about.
        drafts: sentences the language model writes, for all scenes together.
        taken: drafts from which the search for a plain caption begins.
        grafts: drafts whose beginnings and endings give a plain caption a sentiment.
        method: the moves; their drafts and grafts are set here.
        image_weight: of ``1 - cosine`` against the log-likelihood of :func:`drafts.fluency`.
        sentiment_weight: of the classifier's cross-entropy.
    """

    seed: Seed = 0
    passes: Count = 1500
    felt_passes: Count = 600
    drafts: Width = 400
    taken: Width = 32
    grafts: NaturalWidth = 10
    method: Moves = field(default_factory=lambda: Moves(drafts=0))
    image_weight: NonNegative = 40.0
    sentiment_weight: NonNegative = 2.0


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
        alternatives: other captions of the Pareto front.
        words: what each word is worth to each model.
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
    alternatives: tuple[Alternative, ...] = ()
    words: WordEffects | None = None

    @property
    def kept(self) -> bool:
        """Whether the judge sees the sentiment that was asked for."""
        return self.verdict == self.request.sentiment.value

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


class SceneCaptioner:
    """Captions pictures of scenes.

    Args:
        cast: the models.
        options: how captions are searched.
    """

    def __init__(self, cast: Cast, options: GuideOptions | None = None) -> None:
        self.cast = cast
        self.options = options or GuideOptions()

    @cached_property
    def drafts(self) -> Drafts:
        """The sentences from which captions begin, written when first needed."""
        return Drafts(self.cast, self.options.drafts, self.options.seed)

    def problem(self, picture: Any, request: Request) -> Problem:
        """Return the problem of a picture and a request."""
        cast, options = self.cast, self.options
        likeness = ImageSimilarity(images=picture, weight=options.image_weight)
        feeling = ClassifierLabel(label=request.sentiment.value, weight=options.sentiment_weight)
        terms = [
            Term(fluency(), cast.lm),
            Term(likeness, cast.clip, cast.to_clip),
            Term(feeling, cast.sentiment, cast.to_sentiment),
        ]
        return Problem(cast.lm, terms)

    def best_drafts(self, picture: Any, request: Request, count: int) -> list[tuple[int, ...]]:
        """Return the drafts with the smallest total loss, the best first."""
        options, drafts = self.options, self.drafts
        features = self.cast.clip.encode_image([picture], normalize=True)[0].float()
        totals = drafts.fluencies + options.image_weight * (1 - drafts.features @ features)
        label = self.cast.sentiment.label_id(request.sentiment.value)
        totals = totals + options.sentiment_weight * drafts.opinions[:, label]
        order = totals.argsort(stable=True)[:count].tolist()
        return [drafts.rows[index] for index in order]

    def felt_drafts(self, request: Request) -> tuple[str, ...]:
        """Return the drafts with the clearest sentiment."""
        label = self.cast.sentiment.label_id(request.sentiment.value)
        order = self.drafts.opinions[:, label].argsort(stable=True)[: self.options.grafts].tolist()
        return tuple(self.drafts.texts[index] for index in order)

    def caption(
        self,
        scene: Scene,
        number: int,
        request: Request,
        callbacks: Sequence[Callback] = (),
        basis: str = "",
    ) -> Finding:
        """Search a caption of a scene's picture.

        Args:
            scene: what is drawn.
            number: its number, for the finding.
            request: what is asked.
            callbacks: called after every step.
            basis: a plain caption to begin from, for a request with a sentiment.

        Raises:
            KeyboardInterrupt: an interrupt ended the run; there is no finding then.
        """
        begin = time.perf_counter()
        picture = draw(scene)
        problem, options = self.problem(picture, request), self.options
        if basis:
            initial, passes = [problem.encode(basis)], options.felt_passes
            method = replace(options.method, grafts=self.felt_drafts(request))
        else:
            initial, passes = self.best_drafts(picture, request, options.taken), options.passes
            method = options.method
        result = optimize(
            problem,
            initial,
            method=method,
            budget=Budget(forward_passes=passes),
            options=RunOptions(seed=options.seed),
            callbacks=callbacks,
        )
        if result.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - begin
        effects = word_effects(problem, result.text)
        return replace(self._finding(result, scene, number, request, seconds), words=effects)

    def _finding(
        self, result: Result, scene: Scene, number: int, request: Request, seconds: float
    ) -> Finding:
        text = result.text.strip()
        return Finding(
            scene=number,
            request=request,
            text=text,
            agreement=agreement(graph_of_sentence(text), scene.graph, scene.truths),
            likeness=1 - result.losses["image"],
            fluency=result.losses["fluency"] / (len(result.ids) + 1),
            verdict=self.verdict(text),
            curve=curve_of(result),
            seconds=seconds,
            alternatives=alternatives_of(result),
        )

    def verdict(self, text: str) -> str:
        """Return the sentiment that the judge finds in a text."""
        logits = self.cast.judge.encode_texts([text]).logits
        assert logits is not None
        return self.cast.judge.labels[int(logits[0].argmax())]
