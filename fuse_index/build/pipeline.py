"""From a corpus and two models to a bundle on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fuse_index.adapter.fit import fit_adapter
from fuse_index.artifact import (
    BundleContents,
    Manifest,
    ModelIdentity,
    check_output,
    embed_groups,
    write_bundle,
)
from fuse_index.build.indexing import make_index
from fuse_index.build.options import BuildOptions, Stage
from fuse_index.errors import CorpusError
from fuse_index.index import WordIndex, save_index
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.words.corpus import WordCounts, count_words, read_word_list
from fuse_index.words.table import build_word_table

logger = logging.getLogger(__name__)

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

        def report(done: int, total: int | None) -> None:
            if self.progress is not None:
                self.progress(stage, done, total)

        report(0, None)
        yield report
        self.seconds[stage] = time.perf_counter() - start


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
) -> BuildResult:
    """Build an adapter bundle.

    Args:
        source: the model whose tokens are optimized: Hub id, directory, or ``open_clip:`` name.
        target: the model whose loss is differentiated.
        output: the folder to make.
        corpus: text files, gzip files, folders, or ``"-"`` for standard input.
        word_list: a file of words, one a line, instead of a corpus.
        options: see :class:`BuildOptions`.
        overwrite: whether an existing bundle at ``output`` may be replaced.
        local_files_only: never ask the Hub.
        progress: see :data:`Progress`.

    Returns:
        The bundle's manifest, its path, and how long every stage took.

    Raises:
        CorpusError: there is no text, or it cannot be read.
        ModelError: a model cannot be loaded or its table is not usable.
        VocabularyError: no word can be tokenized by both models.
        StorageError: the bundle cannot be written; nothing is left behind.
    """
    options = options or BuildOptions()
    output = check_output(output, overwrite)
    run = _Run(progress)
    with run.stage(Stage.COUNT) as report:
        counts = _count(corpus, word_list, options, report)
    with run.stage(Stage.LOAD) as report:
        source_model = load_embeddings(source, local_files_only=local_files_only)
        report(1, 2)
        target_model = load_embeddings(target, local_files_only=local_files_only)
    with run.stage(Stage.TOKENIZE) as report:
        table, left_out = build_word_table(
            counts, source_model.words, target_model.words, options.table, report
        )
    identity = _same(source_model.identity, target_model.identity)
    with run.stage(Stage.FIT) as report:
        tables = source_model.table, target_model.table
        fit = None if identity else fit_adapter(table, *tables, options.fit, report)
    contents = BundleContents(
        source=source_model.identity,
        target=target_model.identity,
        table=table,
        adapters=fit.adapters if fit else {},
        corpus_sha256=counts.sha256(),
        options=options.to_dict() | ({"ridges": fit.ridges} if fit else {}),
        left_out=left_out,
        fallbacks=fit.fallbacks if fit else {},
        quality=fit.quality.to_dict() if fit else {},
        identity=identity,
    )
    if options.groups:
        tensors = embed_groups(table, contents.group_names, source_model.table, target_model.table)
        contents = replace(contents, groups=tensors)
    with TemporaryDirectory() as folder:
        if options.index is not None:
            with run.stage(Stage.INDEX) as report:
                models = {"source": source_model, "target": target_model}
                chosen = {side: models[side] for side in options.index_model.sides}
                index = make_index(
                    table,
                    chosen,
                    options.index,
                    local_files_only=local_files_only,
                    progress=report,
                )
                contents = _with_index(contents, index, options.index_model.value, Path(folder))
        with run.stage(Stage.WRITE) as report:
            manifest = write_bundle(output, contents, overwrite, report)
    notes = _notes((source_model, target_model), manifest)
    return BuildResult(output, manifest, len(counts), run.seconds, notes)


def _with_index(
    contents: BundleContents, index: WordIndex, name: str, folder: Path
) -> BundleContents:
    """Put an index's files where the writer finds them, and what it is into the manifest."""
    save_index(index, folder, name)
    files = {path.name: path for path in sorted(folder.iterdir())}
    return replace(contents, index_files=files, indexes={name: index.report})


def _count(
    corpus: Sequence[str | Path],
    word_list: str | Path | None,
    options: BuildOptions,
    report: Callable[[int, int | None], None],
) -> WordCounts:
    if word_list is not None and corpus:
        raise CorpusError("both a corpus and a word list", expected="one of the two")
    if word_list is not None:
        return read_word_list(word_list, options.corpus)
    if not corpus:
        raise CorpusError(
            "no corpus",
            expected="at least one text file, folder or '-' for standard input",
            remedy="name it with --corpus, or a list of words with --words",
        )
    return count_words(corpus, options.corpus, report)


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
