"""From a corpus and two models to a bundle on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fuse_index.adapter.fit.fit import Fit, fit_adapter
from fuse_index.build.execute import Executor, Here, Tabulator, Words
from fuse_index.build.indexing import IndexModel, make_index
from fuse_index.build.memory import Ceiling
from fuse_index.build.options import BuildOptions, Resources, Stage
from fuse_index.build.streaming import Streaming
from fuse_index.build.work import Work, make_plan
from fuse_index.bundle import (
    BundleContents,
    Manifest,
    ModelIdentity,
    check_output,
    embed_groups,
    write_bundle,
)
from fuse_index.errors import CorpusError, OptionError
from fuse_index.index import IndexOptions, WordIndex, save_index
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.words.corpus.reading import Source, find_sources
from fuse_index.words.corpus.stored import StoredTable
from fuse_index.words.corpus.words import read_word_list
from fuse_index.words.table import WordTable

logger = logging.getLogger(__name__)

_TELL_SECONDS = 30.0
_LISTED_BYTES = 20  # of memory for a byte of a list of words
_INDEX_WORD_BYTES = 250  # of a word, its count and its tokens as Python objects

Progress = Callable[[Stage, int, int | None], None]
"""Called with the stage, how much of it is done, and how much there is (``None``: unknown)."""


@dataclass(frozen=True)
class BuildResult:
    """What :func:`build_bundle` did.

    Attributes:
        path: the bundle.
        manifest: what it says of itself.
        counted: distinct words that were counted and passed the corpus options.
        seconds: time by stage, in the order of the stages.
        notes: what the user should know: unused table rows, groups that use the fallback.
    """

    path: Path
    manifest: Manifest
    counted: int
    seconds: dict[Stage, float]
    notes: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """Time of all stages together, without the imports before them."""
        return sum(self.seconds.values())


@dataclass
class _Run:
    """Times the stages and passes progress on."""

    progress: Progress | None
    seconds: dict[Stage, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[Callable[[int, int | None], None]]:
        start = time.perf_counter()
        logger.info("%s", stage.value)

        told = start

        def report(done: int, total: int | None) -> None:
            nonlocal told
            now = time.perf_counter()
            if done and now - told > _TELL_SECONDS:  # for those who watch a log, not a terminal
                told = now
                logger.info("%s: %s", stage.value, pace(done, total, now - start, stage.unit))
            if self.progress is not None:
                self.progress(stage, done, total)

        report(0, None)
        yield report
        self.seconds[stage] = time.perf_counter() - start


def pace(done: int, total: int | None, seconds: float, unit: str) -> str:
    """Say how far a stage is, at what rate, and how long it will take yet."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{done:,} {unit}, {rate:,.0f} a second"
    left = int((total - done) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return f"{done:,} of {total:,} {unit}, {rate:,.0f} a second, {clock} left"


def build_bundle(
    source: str,
    target: str,
    output: str | os.PathLike[str],
    corpus: Sequence[str | Path] = (),
    *,
    word_list: str | Path | None = None,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    local_files_only: bool = False,
    progress: Progress | None = None,
    resources: Resources | None = None,
) -> BuildResult:
    """Build an adapter bundle.

    The corpus and its words may be larger than the memory: what is larger than one shard is done
    shard by shard, and kept until the bundle is there.

    Args:
        source: the model whose tokens are optimized: Hub id, directory, or ``open_clip:`` name.
        target: the model whose loss is differentiated.
        output: the folder to make.
        corpus: text, gzip and Parquet files, folders, patterns and fsspec URLs of them, or ``"-"``
            for standard input.
        word_list: a file of words, one a line, instead of a corpus.
        options: see :class:`BuildOptions`.
        overwrite: whether an existing bundle at ``output`` may be replaced.
        local_files_only: never ask the Hub.
        progress: see :data:`Progress`.
        resources: see :class:`Resources`.

    Returns:
        The bundle's manifest, its path, and how long every stage took.

    Raises:
        CorpusError: there is no text, or it cannot be read; the message names the shard.
        OptionError: ``resume`` with other options than before, or too little memory is allowed.
        ClusterError: a Ray cluster does not answer, or its workers keep dying.
        ModelError: a model cannot be loaded or its table is not usable.
        VocabularyError: no word can be tokenized by both models.
        StorageError: the bundle cannot be written; nothing is left behind.
    """
    options, resources = options or BuildOptions(), resources or Resources()
    output = check_output(output, overwrite)
    sources = _sources(corpus, word_list, resume=resources.resume)
    index = None if options.index is None else asdict(options.index)
    plan = make_plan(
        {"source": source, "target": target},
        {**options.to_dict(), "index": index, "index_model": options.index_model},
        sources,
    )
    run = _Run(progress)
    work = Work(output, plan, folder=resources.work_dir, resume=resources.resume)
    with work, _executor(resources) as executor:
        streaming = Streaming(work, Ceiling(resources.max_memory), executor)
        with run.stage(Stage.COUNT) as report:
            if word_list is not None:
                size = sources[0].size or 0
                streaming.ceiling.require(_LISTED_BYTES * size, "a list of words, read at once")
                words: Words = read_word_list(word_list, options.corpus)
            else:
                words = streaming.count(sources, options.corpus, report)
        with run.stage(Stage.LOAD) as report:
            models = _load(work, (source, target), local_files_only, report)
        contents, table = _contents(streaming, run, words, models, options)
        if options.index is not None:
            with run.stage(Stage.INDEX) as report:
                settings = IndexSettings(options.index, options.index_model, local_files_only)
                built = _index(streaming.ceiling, table, models, settings, report)
                folder = work.folder("index", empty=True)
                contents = _with_index(contents, built, options.index_model.value, folder)
        with run.stage(Stage.WRITE) as report:
            manifest = write_bundle(output, contents, overwrite, report)
    return BuildResult(output, manifest, len(words), run.seconds, _notes(models, manifest))


def _sources(
    corpus: Sequence[str | Path], word_list: str | Path | None, *, resume: bool
) -> list[Source]:
    if word_list is not None and corpus:
        raise CorpusError("both a corpus and a word list", expected="one of the two")
    if word_list is None and not corpus:
        raise CorpusError(
            "no corpus",
            expected="at least one text file, folder, URL or '-' for standard input",
            remedy="name it with --corpus, or a list of words with --words",
        )
    sources = find_sources(corpus if word_list is None else [word_list])
    for source in sources:
        if resume and not source.again:
            raise OptionError(
                f"--resume with {source.name}",
                expected="a corpus that can be read again",
                remedy="put the text into a file",
            )
    return sources


def _executor(resources: Resources) -> AbstractContextManager[Executor]:
    if resources.ray is None:
        return nullcontext(Here())
    from fuse_index.build.rays import Cluster  # noqa: PLC0415 - an extra

    return Cluster(resources.ray)


def _load(
    work: Work, names: tuple[str, str], local_files_only: bool, report: Callable[[int, int], None]
) -> tuple[Embeddings, Embeddings]:
    loaded = []
    for number, (side, name) in enumerate(zip(("source", "target"), names, strict=True)):
        loaded.append(load_embeddings(name, local_files_only=local_files_only))
        work.record(f"{side}-model", loaded[-1].identity.to_json())
        report(number + 1, 2)
    return loaded[0], loaded[1]


def _contents(
    streaming: Streaming,
    run: _Run,
    words: Words,
    models: tuple[Embeddings, Embeddings],
    options: BuildOptions,
) -> tuple[BundleContents, WordTable | StoredTable]:
    """Make the word table and the adapters, and put them together."""
    source, target = models
    with run.stage(Stage.TOKENIZE) as report:
        tabulator = Tabulator(source.words, target.words, options.table)
        table, left_out = streaming.tabulate(words, tabulator, report)
    identity = _same(source.identity, target.identity)
    fit: Fit | None = None
    with run.stage(Stage.FIT) as report:
        tables = source.table, target.table
        if identity:
            pass
        elif isinstance(table, StoredTable):
            fit = streaming.fit(table, tables, options.fit, report)
        else:
            fit = fit_adapter(table, *tables, options.fit, report)
    contents = BundleContents(
        source=source.identity,
        target=target.identity,
        table=table,
        adapters=fit.adapters if fit else {},
        corpus_sha256=words.sha256(),
        options=options.to_dict() | ({"ridges": fit.ridges} if fit else {}),
        left_out=left_out,
        fallbacks=fit.fallbacks if fit else {},
        quality=fit.quality.to_dict() if fit else {},
        identity=identity,
    )
    if options.groups:
        tensors = embed_groups(table, contents.group_names, *tables)
        contents = replace(contents, groups=tensors)
    return contents, table


@dataclass(frozen=True)
class IndexSettings:
    """The word index that a build makes."""

    options: IndexOptions
    model: IndexModel
    local_files_only: bool


def _index(
    ceiling: Ceiling,
    table: WordTable | StoredTable,
    models: tuple[Embeddings, Embeddings],
    settings: IndexSettings,
    report: Callable[[int, int | None], None],
) -> WordIndex:
    """Build a word index, which holds all words in memory."""
    chosen = {
        side: model
        for side, model in zip(("source", "target"), models, strict=True)
        if side in settings.model.sides
    }
    width = sum(model.table.shape[1] for model in chosen.values())
    ceiling.require(len(table) * (width * 4 + _INDEX_WORD_BYTES), Stage.INDEX.value)
    return make_index(
        table.load() if isinstance(table, StoredTable) else table,
        chosen,
        settings.options,
        local_files_only=settings.local_files_only,
        progress=report,
    )


def _with_index(
    contents: BundleContents, index: WordIndex, name: str, folder: Path
) -> BundleContents:
    """Put an index's files where the writer finds them, and what it is into the manifest."""
    save_index(index, folder, name)
    files = {path.name: path for path in sorted(folder.iterdir())}
    return replace(contents, index_files=files, indexes={name: index.report})


def _same(source: ModelIdentity, target: ModelIdentity) -> bool:
    """Whether both are one model, so that the adapter is the identity, exactly."""
    return not source.differences(target)


def _notes(models: Sequence[Embeddings], manifest: Manifest) -> tuple[str, ...]:
    notes = []
    for model in models:
        if model.unused_rows:
            notes.append(
                f"{model.name}: the table has {model.unused_rows} rows more than there are tokens; "
                f"the first {len(model.table)} are used"
            )
    if manifest.identity:
        notes.append("source and target are the same model: the adapter is the identity")
    served = [group for group in manifest.fallbacks if group not in manifest.group_names]
    if served:
        notes.append(f"served by the fallback adapter, having too few words: {', '.join(served)}")
    return tuple(notes)
