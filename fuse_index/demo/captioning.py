"""Captions of the demo's scenes: drafts, edits, and writing word by word, under guidance.

The search begins from the drafts of the language model with the smallest loss. The best captions
are edited (:class:`fuse_index.optimize.WordEdits`); where no edit helps any more, the language
model goes on from beginnings of them, or puts phrases inside, and parts of other sentences are put
where the same words stand around them. Where that helps no more either, another caption is written
from left to right (:class:`fuse_index.optimize.WordWriter`) and improved in the same way, as long
as there are forward passes left. The words tried are those that the language model finds likely and
the gradients of CLIP and the classifier helpful. A caption with a sentiment begins from the plain
one, with beginnings and endings of drafts of that sentiment before and behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fuse_index.demo.drafts import Drafts, fluency
from fuse_index.demo.drawing import draw
from fuse_index.demo.graph import agreement
from fuse_index.demo.lexicon import Sentiment
from fuse_index.demo.parsing import graph_of_sentence
from fuse_index.demo.shortlist import Ids, Shortlist
from fuse_index.errors import OptionError
from fuse_index.evaluate.graphs import Agreement
from fuse_index.objectives import ClassifierLabel, ImageSimilarity
from fuse_index.optimize import Problem, Route, Term, WordEdits, WordWriter

if TYPE_CHECKING:
    from fuse_index.demo.cast import Cast
    from fuse_index.demo.scene import Scene
    from fuse_index.optimize.optimize import Callback


_WORDS = 16
"""Words of the longest caption that is written from nothing."""
_MARGIN = 0.8
"""A writing ends where it is worse than its best by so much."""
_STALE = 2
"""Remakes in a row without a better caption, after which another is begun."""
_EXCHANGES = WordEdits(swaps=0, pairs=0, insertions=0, omissions=0, exchanges=True, weight=0.0)
"""Two words change places: what is said of one thing may be true of the other."""
_BEST = 4
"""Captions from which others are made."""
_GIVERS = 40
"""Captions whose parts are put into the best."""
_TEMPERATURE = 0.6
"""Of the words' merits where captions are to differ."""


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
        seed: decides every draw.
        passes: forward passes of a plain caption, about.
        felt_passes: forward passes of a caption with a sentiment, about.
        drafts: sentences the language model writes, for all scenes together.
        taken: drafts from which the search for a plain caption begins.
        grafts: drafts whose beginnings and endings give a plain caption a sentiment.
        width: of the beam in which a caption is written.
        search_width: words tried for one place, over the whole beam.
        rewrites: sentences the language model writes where no edit helps.
        crossings: captions made of parts of two where that does not help either.
        guidance: of the gradients against the likelihood, see :class:`WordWriter`.
        route: how the gradients come to the words.
        image_weight: of ``1 - cosine`` against the log-likelihood of :func:`drafts.fluency`.
        sentiment_weight: of the classifier's cross-entropy.
    """

    seed: int = 0
    passes: int = 1500
    felt_passes: int = 600
    drafts: int = 400
    taken: int = 32
    grafts: int = 10
    width: int = 4
    search_width: int = 32
    rewrites: int = 48
    crossings: int = 96
    guidance: float = 2.0
    route: Route = Route.LAYERS
    image_weight: float = 40.0
    sentiment_weight: float = 2.0

    def __post_init__(self) -> None:
        positive = ("passes", "felt_passes", "drafts", "width", "search_width")
        least = dict.fromkeys(positive, 1)
        least |= dict.fromkeys(("grafts", "rewrites", "crossings", "guidance"), 0)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise OptionError(f"{name}={getattr(self, name)}", expected=f"at least {value}")

    def writer(self, temperature: float) -> WordWriter:
        """The method that writes a caption."""
        return WordWriter(
            words=_WORDS,
            search_width=self.search_width,
            weight=self.guidance,
            route=self.route,
            temperature=temperature,
            margin=_MARGIN,
        )

    def editor(self) -> WordEdits:
        """The method that edits a caption."""
        return WordEdits(
            swaps=4,
            pairs=0,
            insertions=3,
            omissions=2,
            exchanges=False,
            weight=self.guidance,
            route=self.route,
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
        options = self.options
        found = Shortlist(problem, self.cast.lm, options.seed, callbacks)
        if basis:
            self.recolour(found, tuple(problem.encode(basis)), request)
        else:
            drafts = self.best_drafts(picture, request, options.taken)
            self.search(found, drafts, options.passes)
        best = found.best()[0]
        text = problem.decode(best).strip()
        losses = dict(zip(problem.names, found.losses[best], strict=True))
        return Finding(
            scene=number,
            request=request,
            text=text,
            agreement=agreement(graph_of_sentence(text), scene.graph, scene.truths),
            likeness=1 - losses["image"],
            fluency=losses["fluency"] / (len(best) + 1),
            verdict=self.verdict(text),
            curve=tuple(found.curve),
            seconds=time.perf_counter() - begin,
        )

    def search(self, found: Shortlist, drafts: Sequence[tuple[int, ...]], passes: int) -> None:
        """Go from drafts to the best caption.

        Args:
            found: what is found.
            drafts: captions to begin from.
            passes: forward passes it may have when this ends, about.
        """
        options, temperature = self.options, 0.0
        if drafts:
            found.add(drafts)
            self.improve(found, 0, passes)
        while found.forward_passes < passes:
            since = len(found.totals)
            left = passes - found.forward_passes
            found.write([], options.writer(temperature), options.width, left)
            self.improve(found, since, passes)
            temperature = _TEMPERATURE

    def improve(self, found: Shortlist, since: int, passes: int) -> None:
        """Go from some captions to better ones, until neither edits nor rewriting helps.

        Args:
            found: what is found.
            since: captions that were known before those that are meant.
            passes: forward passes that may be spent when this ends, about.
        """
        options, stale = self.options, 0
        edited: set[Ids] = set()
        exchanged: set[Ids] = set()
        while (left := passes - found.forward_passes) > 0 and stale < _STALE:
            best = found.best(_BEST, since)
            fresh = [ids for ids in best[:2] if ids not in edited]
            if fresh:
                edited.add(fresh[0])
                found.revise(fresh[0], options.editor(), steps=1, passes=left)
                found.combine(fresh[0])
            elif best[0] not in exchanged:
                exchanged.add(best[0])
                found.revise(best[0], _EXCHANGES, steps=1, passes=left)
            else:
                self.remake(found, best, left, crossing=stale % 2 == 1)
                stale = stale + 1 if found.best(1, since) == best[:1] else 0

    def remake(self, found: Shortlist, best: Sequence[Ids], passes: int, *, crossing: bool) -> None:
        """Make other captions of the best, more different ones than edits make."""
        options = self.options
        if crossing:
            givers = found.best_written(_GIVERS)
            found.cross(min(options.crossings, passes), best, givers)
        else:
            found.rewrite(max(1, min(options.rewrites, passes // 2)), best)

    def recolour(self, found: Shortlist, basis: tuple[int, ...], request: Request) -> None:
        """Go from a plain caption to the best with a sentiment."""
        label = self.cast.sentiment.label_id(request.sentiment.value)
        order = self.drafts.opinions[:, label].argsort(stable=True)[: self.options.grafts].tolist()
        found.add([basis])
        found.graft(basis, [self.drafts.rows[index] for index in order])
        self.improve(found, 0, self.options.felt_passes)

    def verdict(self, text: str) -> str:
        """Return the sentiment that the judge sees in a text."""
        logits = self.cast.judge.encode_texts([text]).logits
        assert logits is not None
        return self.cast.judge.labels[int(logits[0].argmax())]
