"""Captions of images: prompts that are fluent to a language model and similar to CLIP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fuse_index.common.options import Number, options
from fuse_index.common.progress import Progress
from fuse_index.errors import FuseIndexError, OptionError, StorageError
from fuse_index.models.kinds import ModelKind
from fuse_index.objectives import (
    ClassifierLabel,
    Fluency,
    ImageSimilarity,
    Objective,
    TextSimilarity,
    TokenReduction,
)
from fuse_index.objectives.features import LabelName
from fuse_index.optimize import (
    Budget,
    Choice,
    Problem,
    Stop,
    Term,
    choose_moves,
)
from fuse_index.optimize.optimize import optimize, saved_choice
from fuse_index.optimize.together import Together
from fuse_index.run.adapters import AdapterStore
from fuse_index.run.assembly import (
    ModelPool,
    make_problem,
    prepare_states,
    retrieves,
    start_corpus,
    with_method,
)
from fuse_index.run.captioned import Caption, FailedImage
from fuse_index.run.config import (
    Initial,
    Limits,
    ModelConfig,
    SearchConfig,
    StartConfig,
    StartDraw,
    read_config,
)
from fuse_index.run.fields import Section
from fuse_index.run.start import initial_prompts

if TYPE_CHECKING:
    from fuse_index.adapter.adapter import Adapter
    from fuse_index.common.progress import Progress
    from fuse_index.models.base import Model
    from fuse_index.optimize.optimize import Callback

IMAGE_WEIGHT = 40.0
"""Weight of ``1 - cosine`` against the log-likelihood of a caption, which captioned best."""
TOGETHER = 64
"""Images whose captions are searched at once on GPUs."""
_IMAGE = 1
"""The term of the image."""
TYPICAL_TOKENS = 12
"""Tokens of a caption: for one of that length, its log-likelihood counts as that of a mean token.
A sum over the tokens, since a mean falls with every likely phrase that says nothing."""


@options(kw_only=True)
class RoleConfig(ModelConfig):
    """A model of a captioning run and what it counts.

    Attributes:
        weight: factor of its loss in the sum.
        prefix: text before the caption for this model, as it stands.
        suffix: text after the caption for this model, as it stands.
    """

    weight: Number = 1.0
    prefix: str = ""
    suffix: str = ""


@options(kw_only=True)
class LanguageRole(RoleConfig):
    """The language model, whose tokens captions consist of.

    Attributes:
        reduction: sum, mean or length, over the tokens of a caption.
        include_end: whether a caption is to be a whole sentence; by default where the model begins
            its texts with a token.
    """

    weight: Number = 1 / TYPICAL_TOKENS
    reduction: TokenReduction = TokenReduction.SUM
    include_end: bool | None = None


@options(kw_only=True)
class ClipRole(RoleConfig):
    """CLIP, which compares the caption with the image."""

    weight: Number = IMAGE_WEIGHT


@options(kw_only=True)
class ClassifierRole(RoleConfig):
    """A classifier with the label that captions are to get.

    Attributes:
        label: name of the label, or its index; a name comes before an index.
    """

    label: LabelName | None = None


ROLES: dict[str, type[RoleConfig]] = {
    "lm": LanguageRole,
    "clip": ClipRole,
    "classifier": ClassifierRole,
}
"""Sections of a captioning file for its models."""


@options(kw_only=True)
class CaptionConfig(SearchConfig):
    """What captions are asked for.

    Attributes:
        lm: the causal language model whose tokens captions are made of.
        clip: the model that compares them with the image.
        classifier: the model whose label they are to get, or None.
    """

    lm: Annotated[LanguageRole, Section("model")]
    clip: Annotated[ClipRole, Section("model")]
    classifier: Annotated[ClassifierRole, Section("model")] | None = None
    initial: Initial = field(default_factory=lambda: StartConfig(draw=StartDraw.MODEL))
    budget: Limits = field(default_factory=lambda: Budget(forward_passes=1500))

    def __post_init__(self) -> None:
        if self.classifier is not None and self.classifier.label is None:
            raise OptionError(
                "a classifier without a label", expected="a label", remedy="add --label NAME"
            )


def read_captions(value: Mapping[str, Any]) -> CaptionConfig:
    """Build what captions are asked for from what a file says.

    Raises:
        OptionError: a name is unknown, or a value is of another type or outside its range.
    """
    for name in ("lm", "clip"):
        if value.get(name) is None:
            raise OptionError(f"no {name}", expected=f"a model, under {name!r} or by --{name}")
    return read_config(CaptionConfig, value)


class Captioner:
    """Writes captions; models and adapters are loaded once.

    Args:
        config: models, weights, and how captions are looked for.
        offline: whether the Hub is never asked.
        progress: called while models are loaded and adapters built.
        checkpoint: file of a caption that goes on, if it is there: without a method in the
            configuration, that of the checkpoint is taken.

    Attributes:
        corpus: the sentences that captions begin from, None where none are retrieved.

    Raises:
        FuseIndexError: a model or an adapter is unusable; the message says which.
    """

    def __init__(
        self,
        config: CaptionConfig,
        *,
        offline: bool = False,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config
        pool = ModelPool(offline=offline, progress=progress)
        self.lm = pool.load(_as(config.lm, ModelKind.CAUSAL))
        self.clip = pool.load(_as(config.clip, ModelKind.CLIP))
        self._store = AdapterStore(self.lm, config.adapters, progress)
        role = config.classifier
        self.classifier = None if role is None else pool.load(_as(role, ModelKind.CLASSIFIER))
        # the images come later; any objective has the same words
        anything = TextSimilarity(texts="a", **_around(config.clip))
        problem, self.method = with_method(
            config,
            lambda adapted: self._problem_with(anything, adapted),
            saved_choice(checkpoint) or partial(choose_moves, drafts=not retrieves(config)),
        )
        prepare_states(problem, self.method, progress)
        options = self.method.method if isinstance(self.method, Choice) else self.method
        if options.ranking is not None:
            problem.units(options.ranking[0])  # once for all images
        self._problem = problem
        self._passes: Together | None = None
        self.corpus = start_corpus(config, problem, progress)

    def _problem_with(self, likeness: Objective, adapted: bool) -> Problem:
        """The problem, with all adapters or only with given bundles."""
        config = self.config
        end = bool(self.lm.frame.head) if config.lm.include_end is None else config.lm.include_end
        fluency = Fluency(reduction=config.lm.reduction, include_end=end, **_around(config.lm))
        terms = [
            Term(fluency, self.lm),
            Term(likeness, self.clip, self._adapter(self.clip, config.clip, adapted)),
        ]
        role = config.classifier
        if role is not None:
            assert role.label is not None
            assert self.classifier is not None
            objective = ClassifierLabel(label=role.label, **_around(role))
            objective.prepare(self.classifier)  # refuse an unknown label before any adapter
            adapter = self._adapter(self.classifier, role, adapted)
            terms.append(Term(objective, self.classifier, adapter))
        return make_problem(self.lm, terms, config, self._store)

    def problem(self, image: Any) -> Problem:
        """Return the problem whose solution is the caption of an image.

        Args:
            image: a path or PIL image.

        Raises:
            ImageError: it is no image.
        """
        similarity = ImageSimilarity(images=image, **_around(self.config.clip))
        problem = self._problem.with_objective(_IMAGE, similarity)
        problem.runner = self._passes or problem.runner
        return problem

    def _adapter(self, model: Model, role: RoleConfig, adapted: bool) -> Adapter | None:
        return self._store.get(model, role.adapter) if adapted or role.adapter else None

    def caption(
        self,
        image: Any,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
    ) -> Caption:
        """Search the caption of one image; every image begins from the same seed.

        Args:
            image: a path or PIL image.
            callbacks: called after every step.
            checkpoint: file for the state of the run; if it is there, the run goes on.
            checkpoint_every: steps between two checkpoints.

        Raises:
            FuseIndexError: as :func:`fuse_index.optimize.optimize` does.
            ImageError: it is no image.
        """
        config, problem = self.config, self.problem(image)
        seed = config.options.seed
        result = optimize(
            problem,
            initial_prompts(problem, config.initial, seed, corpus=self.corpus),
            method=self.method,
            search=config.search,
            budget=config.budget,
            options=config.options,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            callbacks=callbacks,
        )
        return Caption(str(image), result)

    def caption_all(
        self,
        images: Sequence[Any],
        caption: Callable[[Any], Caption] | None = None,
        *,
        together: int | None = None,
    ) -> Iterator[Caption | FailedImage]:
        """Search the captions of images, several at once; one that fails stops no other.

        On GPUs the candidates of images that are optimized together make one batch, each distinct
        one scored once by every model; the captions are those of one image after another up to
        rounding. On a CPU, where that gains nothing, each image's candidates stay a batch of their
        own, and all numbers are the same bit for bit. What images begin with alike, such as drafts,
        is computed once in either case.

        Args:
            images: paths or PIL images.
            caption: searches one of them; by default :meth:`caption`.
            together: how many at once; by default 64 on GPUs, 1 on a CPU.

        Yields:
            The caption or the failure of every image, in order; up to the one whose run an
            interrupt ended.

        Raises:
            StorageError: a file of a run cannot be written.
        """
        caption = caption or self.caption
        devices = {loss.model.device.type for loss in self._problem.losses}
        merge = devices == {"cuda"}
        size = together or (TOGETHER if merge else 1)
        for begin in range(0, len(images), size):
            group = images[begin : begin + size]
            stopped, fatal = False, None
            for image, found in zip(group, self._group(group, caption, merge), strict=True):
                if isinstance(found, FuseIndexError) and not isinstance(found, StorageError):
                    yield FailedImage(str(image), found)
                elif isinstance(found, BaseException):
                    fatal = fatal or found
                else:
                    yield found
                    stopped |= found.result.stop is Stop.INTERRUPTED
            if fatal is not None:
                raise fatal
            if stopped:
                return

    def _group(
        self, images: Sequence[Any], caption: Callable[[Any], Caption], merge: bool
    ) -> list[Caption | BaseException]:
        """Caption images at once; returns a caption or an error for each."""
        if len(images) == 1:
            try:
                return [caption(images[0])]
            except FuseIndexError as error:
                return [error]
        self._passes = Together(self._problem.losses, self._problem.shared_memo, merge=merge)
        try:
            return self._passes.run([partial(caption, image) for image in images])
        finally:
            self._passes = None


def _as(role: RoleConfig, kind: ModelKind) -> ModelConfig:
    """The model of a role, of the kind that the role needs."""
    values = {item.name: getattr(role, item.name) for item in fields(ModelConfig)}
    return ModelConfig(**{**values, "kind": role.kind or kind})


def _around(role: RoleConfig) -> dict[str, Any]:
    return {"weight": role.weight, "prefix": role.prefix, "suffix": role.suffix}
