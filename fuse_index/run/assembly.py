"""From a run file to what a run needs: models loaded once, adapters, the problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fuse_index.common.progress import Progress, silent, stage
from fuse_index.errors import ImageError
from fuse_index.models import load_model
from fuse_index.objectives import ImageSimilarity, Objective
from fuse_index.optimize import (
    METHODS,
    SEARCHES,
    MethodOptions,
    Probe,
    Problem,
    Result,
    SearchOptions,
    Term,
    optimize,
)
from fuse_index.run.adapters import AdapterStore
from fuse_index.run.start import initial_prompts

if TYPE_CHECKING:
    from fuse_index.models.base import Model
    from fuse_index.optimize.optimize import Callback
    from fuse_index.run.config import ModelConfig, RunConfig, SearchConfig

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files of a folder that are taken for images."""


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
        method: that of the run file, or the one chosen.
        search: likewise.
        probe: the draft of probe sampling, or None.
    """

    problem: Problem
    initial: Sequence[tuple[int, ...]]
    config: RunConfig
    method: MethodOptions
    search: SearchOptions
    probe: Probe | None = None

    def run(self, callbacks: Sequence[Callback] = (), **checkpoint: Any) -> Result:
        """Optimize; arguments and errors are those of :func:`fuse_index.optimize.optimize`."""
        config = self.config
        return optimize(
            self.problem,
            self.initial,
            method=self.method,
            search=self.search,
            budget=config.budget,
            options=config.options,
            probe=self.probe,
            callbacks=callbacks,
            **checkpoint,
        )


def assemble(
    config: RunConfig, *, offline: bool = False, progress: Progress | None = None
) -> Assembly:
    """Load models, find or build adapters, and put the problem together.

    Args:
        config: the run file.
        offline: whether the Hub is never asked.
        progress: called while models are loaded and adapters built.

    Raises:
        FuseIndexError: a model, an adapter, an image or a text is unusable; the message says which.
    """
    method, search = chosen(config)
    objectives = [with_images(item.objective) for item in config.objectives]
    pool = ModelPool(offline=offline, progress=progress)
    models = {name: pool.load(item) for name, item in config.models.items()}
    source = models[config.source]
    store = AdapterStore(source, config.adapters, progress)
    gradient = needs_gradient(method)
    terms = []
    for item, objective in zip(config.objectives, objectives, strict=True):
        model, given = models[item.model], config.models[item.model].adapter
        adapter = store.get(model, given) if gradient or given is not None else None
        terms.append(Term(objective, model, adapter))
    problem = make_problem(source, terms, config, store)
    prepare_words(problem, method, progress)
    prefix = source_prefix(terms, source)
    initial = initial_prompts(problem, config.initial, config.options.seed, prefix)
    return Assembly(problem, initial, config, method, search, _probe(config, models))


def chosen(config: SearchConfig) -> tuple[MethodOptions, SearchOptions]:
    """Return the method and search of a run, those left open chosen."""
    return config.method or METHODS["gcg"](), config.search or SEARCHES["greedy"]()


def _probe(config: RunConfig, models: Mapping[str, Model]) -> Probe | None:
    """The draft, which needs no adapters."""
    draft = config.probe
    if draft is None:
        return None
    terms = [Term(with_images(item.objective), models[item.model]) for item in draft.objectives]
    return Probe(terms, draft.share, draft.reduction)


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


def prepare_words(problem: Problem, method: Any, progress: Progress | None = None) -> None:
    """Make what a method looks words up in beforehand, while progress can be shown.

    Raises:
        ModelError: a model's layers cannot be told apart.
        VocabularyError: the filters leave no word.
    """
    if not method.needs_layers:
        return
    for term in problem.terms:
        if not term.objective.differentiable or not term.objective.weight:
            continue
        report = stage(progress, f"words in the layers of {term.model.name}")
        problem.lexicon.layers_of(term.model, report)


def needs_gradient(method: Any) -> bool:
    """Whether a method needs adapters, as its options say."""
    return bool(method.needs_adapters)


def source_prefix(terms: Iterable[Term], source: Model) -> str:
    """Return the first prefix that an objective has for the source."""
    found = (term.objective.prefix for term in terms if term.model is source)
    return next((prefix for prefix in found if prefix), "")


def with_images(objective: Objective) -> Objective:
    """Replace folders among an objective's images by the images in them.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    if not isinstance(objective, ImageSimilarity):
        return objective
    return replace(objective, images=tuple(find_images(objective.images)))


def find_images(images: Iterable[Any]) -> list[Any]:
    """Return images, folders among them replaced by the images in them, sorted by name.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    found: list[Any] = []
    for image in images:
        if not isinstance(image, (str, Path)) or Path(image).is_file():
            found.append(image)
            continue
        path = Path(image)
        if not path.is_dir():
            raise ImageError(
                f"image {str(path)!r} does not exist",
                expected="an image file, or a folder of images",
                remedy="check the path",
            )
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        if not inside:
            raise ImageError(
                f"folder {str(path)!r} holds no image", expected="files " + ", ".join(SUFFIXES)
            )
        found += [str(p) for p in inside]
    return found
