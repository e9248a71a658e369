"""The stages of a build whose words do not fit into the memory: shards, kept as they are done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.fit import Fit, fit_groups
from fuse_index.adapter.fit.options import FitOptions
from fuse_index.adapter.fit.stored import StoredStream, store_groups
from fuse_index.build.execute import Executor, Here, Tabulator, Words
from fuse_index.build.fitstore import FileFitStore
from fuse_index.build.memory import Ceiling, give_back_large_blocks
from fuse_index.build.work import Work
from fuse_index.words import table as word_table
from fuse_index.words.corpus.counting import (
    SMALL_BYTES,
    Engine,
    can_stream,
    has_engine,
    merge_counts,
)
from fuse_index.words.corpus.reading import Source
from fuse_index.words.corpus.shards import split_sources
from fuse_index.words.corpus.stored import StoredTable, StoredWords, read_part
from fuse_index.words.corpus.words import CorpusOptions, count_words
from fuse_index.words.table import WordTable, build_word_table, finish_table

logger = logging.getLogger(__name__)

Report = Callable[[int, "int | None"], None]


@dataclass
class Streaming:
    """A build in shards.

    Attributes:
        work: its folder.
        ceiling: of its memory.
        executor: who does the shards.
    """

    work: Work
    ceiling: Ceiling
    executor: Executor

    def count(
        self,
        sources: Sequence[Source],
        options: CorpusOptions,
        report: Report,
    ) -> Words:
        """Count the words of a corpus: in memory if it is small, else shard by shard on the disk.

        Raises:
            CorpusError: a shard cannot be read; the message names it.
            OptionError: the memory allowed is too little.
            StorageError: the disk is full.
        """
        sizes = [source.size for source in sources]
        total = None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)
        if not self._out_of_core(total, options.encoding):
            return count_words(list(sources), options, report)
        folder = self.work.root / "words"
        if StoredWords.exists(folder):
            report(total or 0, total)
            return StoredWords(folder)
        engine = Engine(self.work.folder("engine"), self.ceiling.engine())
        counts = self.work.folder("counts")
        shards = split_sources(sources, options.encoding)
        paths = [counts / f"{number:06d}.parquet" for number in range(len(shards))]
        jobs = [job for job in zip(shards, paths, strict=True) if not job[1].exists()]
        add = _adder(report, total)
        add(
            sum(shard.size or 0 for shard, path in zip(shards, paths, strict=True) if path.exists())
        )
        self.executor.count(jobs, options.encoding, engine, add, self.work.checkpoint)
        names = ", ".join(source.name for source in sources[:3])
        names += ", ..." if len(sources) > 3 else ""
        words = merge_counts(paths, options, folder, engine, names)
        self.work.checkpoint()
        for path in paths:
            path.unlink()
        return words

    def _out_of_core(self, total: int | None, encoding: str) -> bool:
        if not isinstance(self.executor, Here):
            return True
        if total is not None and total <= SMALL_BYTES:
            return False
        if has_engine() and can_stream(encoding):
            return True
        logger.warning(
            "the words are counted in memory: %s",
            f"{encoding} text cannot be counted on the disk"
            if has_engine()
            else "pip install 'fuse-index[scale]' to count them on the disk",
        )
        return False

    def tabulate(
        self, words: Words, tabulator: Tabulator, report: Report
    ) -> tuple[WordTable | StoredTable, dict[str, int]]:
        """Make the word table: in memory if it is one shard, else in parts on the disk.

        Returns:
            The table, and how many words were left out by reason.

        Raises:
            VocabularyError: no word is left.
        """
        total, size = len(words), word_table.SHARD_WORDS
        if total <= size and isinstance(self.executor, Here):
            both = tabulator.source, tabulator.target
            return build_word_table(words.part(0, total), *both, tabulator.options, report)
        give_back_large_blocks()
        folder = self.work.folder("table")
        ranges = [(start, min(start + size, total)) for start in range(0, total, size)]
        paths = [StoredTable.path(folder, number) for number in range(len(ranges))]
        jobs = [job for job in zip(ranges, paths, strict=True) if not job[1].exists()]
        add = _adder(report, 2 * total)
        add(2 * total - 2 * sum(stop - start for (start, stop), _ in jobs))
        self.executor.tabulate(jobs, words, tabulator, add, self.work.checkpoint)
        left_out: dict[str, int] = {}
        for path in paths:
            for reason, count in read_part(path)[1].items():
                left_out[reason] = left_out.get(reason, 0) + count
        table = StoredTable(folder, len(paths))
        return table, finish_table(total, len(table), left_out)

    def fit(
        self,
        table: StoredTable,
        embeddings: tuple[Tensor, Tensor],
        options: FitOptions,
        report: Report,
    ) -> Fit:
        """Fit the adapters of a stored table; see ``fit_adapter``."""
        source, target = embeddings
        groups = store_groups(table, options, self.work.folder("groups"))
        with (
            self.executor.fitting(source, target) as sums,
            Workers(source.device) as workers,
        ):
            store = FileFitStore(self.work.folder("fit"), sums, self.work.checkpoint)
            stream = StoredStream(source, target, workers=workers, chunk_words=options.chunk_words)
            return fit_groups(stream, groups, options, report, store)


def _adder(report: Report, total: int | None) -> Callable[[int], None]:
    """Turn "done since last time" into (done, total)."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return add
