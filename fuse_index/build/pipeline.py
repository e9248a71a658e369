"""Builds a bundle from a corpus and two models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse_index.adapter.fit.store import FitStore
from fuse_index.build.executors import Executor, LocalExecutor
from fuse_index.build.forecast.memory import MemoryLimit, indexed_bytes, listed_bytes
from fuse_index.build.indexing import make_index
from fuse_index.build.options import BuildOptions, BuildResult, Resources, Stage, fallback_notes
from fuse_index.build.stages import Stages
from fuse_index.build.tensors import GroupTensors, fit_contents
from fuse_index.build.timing import StageTimer
from fuse_index.build.work import Work, make_plan
from fuse_index.bundle import (
    BundleContents,
    Manifest,
    check_output,
    write_bundle,
)
from fuse_index.common.progress import Progress, Tick
from fuse_index.errors import CorpusError, OptionError
from fuse_index.index import save_index
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.words.corpus.reading import TextSource, find_sources
from fuse_index.words.corpus.words import read_word_list
from fuse_index.words.stored_table import StoredTable
from fuse_index.words.table import WordTable

if TYPE_CHECKING:
    from fuse_index.models.base import Model


def build_bundle(
    source: str | Model,
    target: str | Model,
    output: str | os.PathLike[str],
    corpus: Sequence[str | Path] = (),
    *,
    word_list: str | Path | None = None,
    nested: bool = True,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    local_files_only: bool = False,
    progress: Progress | None = None,
    resources: Resources | None = None,
) -> BuildResult:
    """Build an adapter bundle.

    The corpus and its words may be larger than memory: they are processed in shards, and finished
    shards are kept until the bundle is complete.

    Args:
        source: the model whose tokens are optimized: Hub id, directory, ``open_clip:`` name, or a
            model in memory.
        target: the model whose loss is differentiated.
        output: the folder to make.
        corpus: text, gzip and Parquet files, folders, patterns and fsspec URLs of them, or ``"-"``
            for standard input.
        word_list: a file of words, one a line, instead of a corpus.
        nested: whether folders in a folder of the corpus are read too.
        options: see :class:`BuildOptions`.
        overwrite: whether an existing bundle at ``output`` may be replaced.
        local_files_only: no network.
        progress: called with (stage, units done, units in all or ``None``).
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
    sources = _sources(corpus, word_list, nested=nested, resume=resources.resume)
    index = None if options.index is None else asdict(options.index)
    plan = make_plan(
        {"source": _name_of(source), "target": _name_of(target)},
        {**options.to_dict(), "index": index, "index_model": options.index_model},
        sources,
    )
    timer = StageTimer(progress)
    work = Work(output, plan, folder=resources.work_dir, resume=resources.resume)
    with work, _executor(resources) as executor:
        stages = Stages(work, MemoryLimit(resources.max_memory), executor)
        with timer.stage(Stage.COUNT) as report:
            if word_list is not None:
                size = sources[0].size or 0
                stages.limit.require(listed_bytes(size), "a list of words, read at once")
                words = read_word_list(word_list, options.corpus)
            else:
                words = stages.count(sources, options.corpus, report)
        with timer.stage(Stage.LOAD) as report:
            models = _load(work, (source, target), local_files_only, report)
        with timer.stage(Stage.TOKENIZE) as report:
            both = models[0].words, models[1].words
            table, left_out = stages.tabulate(words, both, options.table, report)
        known = {
            "source": models[0].identity,
            "target": models[1].identity,
            "table": table,
            "corpus_sha256": words.sha256(),
            "options": options.to_dict(),
            "left_out": left_out,
        }
        with timer.stage(Stage.FIT) as report:
            contents = _fit(stages, known, models, options, report)
        if options.index is not None:
            with timer.stage(Stage.INDEX) as report:
                contents = _add_index(
                    stages,
                    contents,
                    models,
                    options,
                    local_files_only=local_files_only,
                    report=report,
                )
        with timer.stage(Stage.WRITE) as report:
            manifest = write_bundle(output, contents, overwrite, report)
    return BuildResult(output, manifest, len(words), timer.seconds, _notes(models, manifest))


def _name_of(model: str | Model) -> str:
    return model if isinstance(model, str) else model.name


def _sources(
    corpus: Sequence[str | Path], word_list: str | Path | None, *, nested: bool, resume: bool
) -> list[TextSource]:
    if word_list is not None and corpus:
        raise CorpusError("both a corpus and a word list", expected="one of the two")
    if word_list is None and not corpus:
        raise CorpusError(
            "no corpus",
            expected="at least one text file, folder, URL or '-' for standard input",
            remedy="name it with --corpus, or a list of words with --words",
        )
    sources = find_sources(corpus if word_list is None else [word_list], nested=nested)
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
        return LocalExecutor()
    from fuse_index.build.rays import RayExecutor  # noqa: PLC0415 - an extra

    return RayExecutor(resources.ray)


def _load(
    work: Work, names: tuple[str | Model, str | Model], local_files_only: bool, report: Tick
) -> tuple[Embeddings, Embeddings]:
    loaded = []
    for number, (side, name) in enumerate(zip(("source", "target"), names, strict=True)):
        loaded.append(load_embeddings(name, local_files_only=local_files_only))
        work.record(f"{side}-model", loaded[-1].identity.to_json())
        report(number + 1, 2)
    return loaded[0], loaded[1]


def _fit(
    stages: Stages,
    known: Mapping[str, Any],
    models: tuple[Embeddings, Embeddings],
    options: BuildOptions,
    report: Tick,
) -> BundleContents:
    """Make the group tensors of the words and the adapters, and put them together."""
    table, source, target = known["table"], models[0].table, models[1].table
    tensors = GroupTensors(table, source, target)
    if not models[0].identity.differences(models[1].identity):
        contents = BundleContents(**known, adapters={}, identity=True)
    else:
        store = None
        if isinstance(table, StoredTable):
            sums = stages.executor.sums(source, target)
            store = FitStore(stages.work.folder("fit"), sums, stages.work.checkpoint)
        contents = fit_contents(tensors, known, options.fit, report, store)
    if options.groups:
        contents = replace(contents, groups=tensors.by_group(contents.group_names))
    return contents


def _add_index(
    stages: Stages,
    contents: BundleContents,
    models: tuple[Embeddings, Embeddings],
    options: BuildOptions,
    *,
    local_files_only: bool,
    report: Tick,
) -> BundleContents:
    """Build a word index, which holds all words in memory, and put it into the contents."""
    assert options.index is not None
    table, name = contents.table, options.index_model.value
    sides = dict(zip(("source", "target"), models, strict=True))
    chosen = {side: sides[side] for side in options.index_model.sides}
    width = sum(model.table.shape[1] for model in chosen.values())
    stages.limit.require(indexed_bytes(len(table), width), Stage.INDEX.value)
    index = make_index(
        WordTable.concatenate(list(table.blocks())),
        chosen,
        options.index,
        local_files_only=local_files_only,
        progress=report,
    )
    folder = stages.work.folder("index", empty=True)
    save_index(index, folder, name)
    files = {path.name: path for path in sorted(folder.iterdir())}
    return replace(contents, index_files=files, indexes={name: index.report})


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
    return (*notes, *fallback_notes(manifest))
