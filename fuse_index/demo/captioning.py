"""Captions of the demo's scenes: the language model drafts, guided revision corrects.

The language model writes drafts once for all scenes. For a request, those with the smallest loss
are taken up. In every round the language model goes on from beginnings of the best in other words;
the best is gone over from left to right by :class:`fuse_index.optimize.AutoDAN`, each token chosen
anew from those that the language model finds likely between its neighbours and the gradients of
CLIP and the classifier, pulled back through the adapters, find helpful; and words are inserted,
left out and exchanged. A caption with a sentiment begins from the plain one, with beginnings and
endings of drafts of that sentiment before and behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fuse_index.demo.corpus import vocabulary
from fuse_index.demo.drafts import Drafts, fluency
from fuse_index.demo.drawing import draw
from fuse_index.demo.graph import agreement
from fuse_index.demo.lexicon import Sentiment
from fuse_index.demo.parsing import graph_of_sentence
from fuse_index.demo.shortlist import Shortlist
from fuse_index.errors import OptionError
from fuse_index.evaluate.graphs import Agreement
from fuse_index.objectives import ClassifierLabel, ImageSimilarity
from fuse_index.optimize import AutoDAN, MethodOptions, Problem, Term

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


@dataclass(frozen=True)
class GuideOptions:
    """How captions are looked for.

    Attributes:
        seed: decides the drafts and every other draw.
        drafts: sentences the language model writes, for all scenes together.
        width: drafts taken up for a caption, and captions whose beginnings are rewritten.
        rounds: of rewriting, revision and edits.
        rewrites: sentences written in a round.
        starts: captions revised in a round.
        search_width: tokens tried in each position of a revision.
        guidance: of the gradients against the likelihood, see :class:`AutoDAN`.
        edits: insertions tried in a round.
        grafts: drafts whose beginnings and endings give a plain caption a sentiment.
        image_weight: of ``1 - cosine`` against a token's mean negative log-likelihood.
        sentiment_weight: of the classifier's cross-entropy.
    """

    seed: int = 0
    drafts: int = 640
    width: int = 8
    rounds: int = 2
    rewrites: int = 64
    starts: int = 1
    search_width: int = 12
    guidance: float = 2.0
    edits: int = 80
    grafts: int = 10
    image_weight: float = 14.0
    sentiment_weight: float = 2.0

    def __post_init__(self) -> None:
        least = {"drafts": 1, "width": 1, "rounds": 1, "search_width": 1}
        for name, value in (least | dict.fromkeys(("rewrites", "starts", "edits"), 0)).items():
            if getattr(self, name) < value:
                raise OptionError(f"{name}={getattr(self, name)}", expected=f"at least {value}")

    def method(self, length: int) -> MethodOptions:
        """The method that revises a draft of so many tokens."""
        return AutoDAN(
            length=length,
            search_width=self.search_width,
            weight=self.guidance,
            iterations=1,
            sweeps=1,
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

    def caption(
        self,
        scene: Scene,
        number: int,
        request: Request,
        callbacks: Sequence[Callback] = (),
        basis: str = "",
    ) -> Finding:
        """Look for a caption of a scene's picture.

        Args:
            scene: what is drawn.
            number: its number, for the finding.
            request: what is asked.
            callbacks: called after every step of every run.
            basis: a plain caption to begin from, for a request with a sentiment.

        Raises:
            KeyboardInterrupt: an interrupt came; there is no finding then.
        """
        begin = time.perf_counter()
        picture = draw(scene)
        problem = self.problem(picture, request)
        words = vocabulary()
        found = Shortlist(problem, self.cast.lm, words, self.options.seed, callbacks)
        if basis:
            self.recolour(found, tuple(problem.encode(basis)), request)
        else:
            self.search(found, self.best_drafts(picture, request, self.options.width))
        best = found.best()[0]
        text = problem.decode(best).strip()
        losses = dict(zip(problem.names, found.losses[best], strict=True))
        return Finding(
            scene=number,
            request=request,
            text=text,
            agreement=agreement(graph_of_sentence(text), scene.graph, scene.truths),
            likeness=1 - losses["image"],
            fluency=losses["fluency"],
            verdict=self.verdict(text),
            curve=tuple(found.curve),
            seconds=time.perf_counter() - begin,
        )

    def search(self, found: Shortlist, drafts: Sequence[tuple[int, ...]]) -> None:
        """Go from drafts to the best caption: rewriting, guided revision and edits in turn."""
        options = self.options
        found.add(drafts)
        for _ in range(options.rounds):
            if options.rewrites:
                found.rewrite(options.rewrites, options.width)
            for ids in found.best(options.starts):
                found.revise(ids, options.method(len(ids)), len(ids))
            if options.edits:
                found.edit(1, options.edits)

    def recolour(self, found: Shortlist, basis: tuple[int, ...], request: Request) -> None:
        """Go from a plain caption to the best with a sentiment."""
        label = self.cast.sentiment.label_id(request.sentiment.value)
        order = self.drafts.opinions[:, label].argsort(stable=True)[: self.options.grafts].tolist()
        found.add([basis])
        found.graft(basis, [self.drafts.rows[index] for index in order])
        best = found.best()[0]
        found.revise(best, self.options.method(len(best)), len(best))

    def verdict(self, text: str) -> str:
        """Return the sentiment that the judge sees in a text."""
        logits = self.cast.judge.encode_texts([text]).logits
        assert logits is not None
        return self.cast.judge.labels[int(logits[0].argmax())]
