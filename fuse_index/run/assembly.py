"""From a run file to what a run needs: models loaded once, adapters, the problem."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fuse_index.common.folders import list_files, tell_passed_over
from fuse_index.common.progress import Progress, silent, stage
from fuse_index.errors import ImageError
from fuse_index.models import load_model
from fuse_index.objectives import ImageSimilarity, Objective
from fuse_index.optimize import (
    Choice,
    MethodOptions,
    Predictor,
    Probe,
    Problem,
    Result,
    Term,
    choose,
    optimize,
)
from fuse_index.optimize.optimize import saved_choice
from fuse_index.predict.states import states_cost
from fuse_index.predict.units import Unit
from fuse_index.run.adapters import AdapterStore
from fuse_index.run.config import StartDraw
from fuse_index.run.retrieval import SentenceCorpus
from fuse_index.run.start import initial_prompts

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.optimize import Budget
    from fuse_index.optimize.optimize import Callback
    from fuse_index.run.config import ModelConfig, RunConfig, SearchConfig

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files of a folder that are taken for images."""
_NESTED_REMEDY = "name {}/**/*.png and the like, or --nested, to read folders in it"


class ModelPool:
    """Models by what was asked for, each loaded once.

    Args:
        offline: whether the Hub is never asked.
        progress: called while one is loaded.
    """

    def __init__(self, *, offline: bool = False, progress: Progress | None = None) -> None:
        self._offline = offline
        self._progress = progress or silent
        self._loaded: dict[ModelConfig, Model] = {}

    def load(self, config: ModelConfig) -> Model:
        """Return a model.

        Raises:
            ModelError: it does not exist, lacks something, or is not of that kind.
        """
        key = replace(config, adapter=None)
        if key not in self._loaded:
            self._progress(f"loading {config.model}", 0, None)
            self._loaded[key] = load_model(
                config.model,
                kind=config.kind,
                device=config.device,
                dtype=None if config.dtype is None else getattr(torch, config.dtype.value),
                bos=config.bos,
                local_files_only=self._offline,
            )
        return self._loaded[key]


@dataclass(frozen=True, eq=False)
class Assembly:
    """A run that is ready to begin.

    Attributes:
        problem: source, objectives, filters.
        initial: prompts to begin from, as source ids.
        config: the run file.
        method: how candidates are proposed; with the reason where it was chosen.
        probe: the draft of probe sampling, or None.
    """

    problem: Problem
    initial: Sequence[tuple[int, ...]]
    config: RunConfig
    method: MethodOptions | Choice
    probe: Probe | None = None

    def run(self, callbacks: Sequence[Callback] = (), **checkpoint: Any) -> Result:
        """Optimize; arguments and errors are those of :func:`fuse_index.optimize.optimize`."""
        config = self.config
        return optimize(
            self.problem,
            self.initial,
            method=self.method,
            search=config.search,
            budget=config.budget,
            options=config.options,
            probe=self.probe,
            callbacks=callbacks,
            **checkpoint,
        )


def assemble(
    config: RunConfig,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Assembly:
    """Load models, find or build adapters, and put the problem together.

    Args:
        config: the run file.
        offline: whether the Hub is never asked.
        progress: called while models are loaded and adapters built.
        checkpoint: file of a run that goes on, if it is there: without a method in the file, that
            of the checkpoint is taken.

    Raises:
        FuseIndexError: a model, an adapter, an image or a text is unusable; the message says which.
    """
    objectives = [with_images(item.objective) for item in config.objectives]
    pool = ModelPool(offline=offline, progress=progress)
    models = {name: pool.load(item) for name, item in config.models.items()}
    source = models[config.source]
    store = AdapterStore(source, config.adapters, progress)
    pairs = [
        (objective, models[item.model], config.models[item.model].adapter)
        for item, objective in zip(config.objectives, objectives, strict=True)
    ]

    def problem_with(adapted: bool) -> Problem:
        terms = [
            Term(objective, model, store.get(model, given) if adapted or given else None)
            for objective, model, given in pairs
        ]
        return make_problem(source, terms, config, store)

    saved = saved_choice(checkpoint)
    problem, method = with_method(config, problem_with, saved or choose)
    prepare_states(problem, method, progress)
    corpus = start_corpus(config, problem, progress)
    initial = initial_prompts(problem, config.initial, config.options.seed, corpus=corpus)
    return Assembly(problem, initial, config, method, _probe(config, models))


def with_method(
    config: SearchConfig,
    problem_with: Callable[[bool], Problem],
    chooser: Choice | Callable[[Problem, Budget], Choice],
) -> tuple[Problem, MethodOptions | Choice]:
    """Return the problem and its method, with adapters only where the method needs them.

    Args:
        config: has the method, or None to choose one.
        problem_with: makes the problem, with all adapters or only with given bundles.
        chooser: chooses a method, or is the choice.
    """
    method = config.method
    if method is not None:
        return problem_with(needs_adapters(method)), method
    if isinstance(chooser, Choice):
        return problem_with(needs_adapters(chooser.method)), chooser
    problem = problem_with(False)
    choice = chooser(problem, config.budget)
    ranking = choice.method.ranking
    if ranking == (Unit.WORD, Predictor.EMBEDDING):
        problem = problem_with(True)  # the corrected mixture needs them
        choice = chooser(problem, config.budget)
    return problem, choice


def _probe(config: RunConfig, models: Mapping[str, Model]) -> Probe | None:
    """The draft, which needs no adapters."""
    draft = config.probe
    if draft is None:
        return None
    terms = [Term(with_images(item.objective), models[item.model]) for item in draft.objectives]
    return Probe(tuple(terms), draft.share, draft.reduction)


def make_problem(
    source: Model, terms: Sequence[Term], config: SearchConfig, store: AdapterStore
) -> Problem:
    """Put a problem together; word-level moves get the words that adapters are built from.

    Raises:
        FuseIndexError: models, objectives and adapters do not fit.
    """
    bundles = any(term.adapter is not None and term.adapter.bundle for term in terms)
    words = None if bundles else store.words().words
    return Problem(source, terms, tokens=config.tokens, words=words)


def prepare_states(
    problem: Problem, method: MethodOptions | Choice, progress: Progress | None = None
) -> None:
    """Compute the hidden states that a method needs beforehand, while progress can be shown.

    Raises:
        ModelError: a model's layers cannot be told apart.
        VocabularyError: the filters leave no word.
    """
    options = method.method if isinstance(method, Choice) else method
    if options.ranking is None or options.ranking[1] is not Predictor.LAYERS:
        return
    units = problem.units(options.ranking[0])
    counted = [x.objective.differentiable and bool(x.objective.weight) for x in problem.losses]
    for target in dict.fromkeys(compress(problem.targets, counted)):
        model, rows = target.model, units.run_for(target)
        size, passes = states_cost(model, len(rows))
        cost = f"{size / 1e6:,.0f} MB, {passes:,} short passes"
        label = f"states of {len(rows):,} {units.unit.value}s in {model.name} ({cost})"
        units.prepare(target, stage(progress, label))


def retrieves(config: SearchConfig) -> bool:
    """Whether runs begin from retrieved sentences."""
    return not config.initial.texts and config.initial.draw is StartDraw.RETRIEVAL


def start_corpus(
    config: SearchConfig, problem: Problem, progress: Progress | None = None
) -> SentenceCorpus | None:
    """Read the sentences that runs begin from, and compute their features; None without retrieval.

    Raises:
        CorpusError: there is no corpus, or no sentence in it.
        OptionError: no objective compares the prompt with images or texts.
    """
    start, texts = config.initial, config.adapters
    if not retrieves(config):
        return None
    corpus = SentenceCorpus(start.corpus or texts.corpus or texts.texts, progress)
    corpus.prepare(problem)
    return corpus


def needs_adapters(method: MethodOptions) -> bool:
    """Whether a method needs adapters to models with other tokens."""
    return method.ranking is not None and method.ranking[1].needs_adapters


def with_images(objective: Objective) -> Objective:
    """Replace folders among an objective's images by the images in them.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    if not isinstance(objective, ImageSimilarity):
        return objective
    images = tuple(find_images(objective.images))
    if objective.items is None:
        return replace(objective, images=images)
    parts = zip(objective.items, objective.parts, strict=True)
    items = [
        {**item, "images": tuple(find_images(part.images))} if "images" in item else item
        for item, part in parts
        if isinstance(part, ImageSimilarity)
    ]
    return replace(objective, images=images, items=tuple(items))


def find_images(images: Iterable[Any], *, nested: bool = False) -> list[Any]:
    """Return images, folders and patterns among them replaced by the images there, sorted by path.

    Args:
        images: paths, patterns (``photos/**/*.jpg``) and opened images; of a folder the files with
            :data:`SUFFIXES` by the rule of :mod:`fuse_index.common.folders`.
        nested: whether folders in folders are entered.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    found: list[Any] = []
    for image in images:
        if not isinstance(image, (str, Path)) or Path(image).is_file():
            found.append(image)
        elif Path(image).is_dir():
            found += _images_in(Path(image), nested)
        elif Path(image).exists():
            found.append(image)  # refused where it is opened
        elif files := sorted(p for p in glob(str(image), recursive=True) if Path(p).is_file()):
            found += files
        else:
            raise ImageError(
                f"image {str(image)!r} does not exist",
                expected="an image file, or a folder of images",
                remedy="check the path",
            )
    return found


def _images_in(folder: Path, nested: bool) -> list[str]:
    try:
        found = list_files(folder, nested=nested, suffixes=SUFFIXES)
    except OSError as error:
        raise ImageError(f"folder {str(folder)!r} cannot be listed: {error.strerror}") from error
    remedy = _NESTED_REMEDY.format(folder) if found.folders else ""
    if not found.files:
        rest = f" ({found})" if found.passed_over else ""
        raise ImageError(
            f"folder {str(folder)!r} holds no image{rest}",
            expected="files " + ", ".join(SUFFIXES),
            remedy=remedy,
        )
    tell_passed_over(folder, found, remedy)
    return [str(path) for path in found.files]
