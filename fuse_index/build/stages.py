"""The first stages of a build: text to counted words, words to a table; shard by shard."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fuse_index.build.executors import Executor
from fuse_index.build.forecast.memory import MemoryLimit, return_large_blocks
from fuse_index.build.work import Work
from fuse_index.common.files import write_atomically
from fuse_index.common.progress import Add, Tick, adding
from fuse_index.errors import OptionError
from fuse_index.words import table as word_table
from fuse_index.words.corpus.counting import (
    SMALL_BYTES,
    Engine,
    can_stream,
    count_shard,
    has_engine,
    merge_counts,
    open_words,
)
from fuse_index.words.corpus.reading import TextSource, total_size
from fuse_index.words.corpus.shards import split_sources
from fuse_index.words.corpus.words import CorpusOptions, WordCounts, count_words
from fuse_index.words.stored_table import StoredTable, pack_part, read_left_out
from fuse_index.words.table import (
    TableOptions,
    WordTable,
    build_word_table,
    finish_table,
    tabulate,
)
from fuse_index.words.tokenizers.tokenization import WordTokenizer

logger = logging.getLogger(__name__)

_INSTALL = "pip install 'fuse-index[scale]'"


@dataclass(frozen=True)
class Stages:
    """Runs the stages and keeps the shards that are done.

    Attributes:
        work: the folder for them.
        limit: of the memory.
        executor: runs the shards.
    """

    work: Work
    limit: MemoryLimit
    executor: Executor

    def count(
        self, sources: Sequence[TextSource], options: CorpusOptions, report: Tick
    ) -> WordCounts:
        """Count the words of a corpus: in memory if it is small, else shard by shard in files.

        Raises:
            CorpusError: a shard cannot be read; the message names it.
            OptionError: the memory allowed is too little.
            StorageError: the disk is full.
        """
        total = total_size(sources)
        if not self._out_of_core(total, options.encoding):
            return self._count_in_memory(sources, options, report)
        folder = self.work.root / "words"
        if words := open_words(folder):
            report(total or 0, total)
            return words
        threads = None if self.executor.is_local else 1
        engine = Engine(self.work.folder("engine"), self.limit.engine(), threads)
        counts = self.work.folder("counts")
        shards = split_sources(sources, options.encoding)
        paths = [counts / f"{number:06d}.parquet" for number in range(len(shards))]
        self._count_shards(shards, paths, options.encoding, engine, adding(report, total))
        names = ", ".join(source.name for source in sources[:3])
        names += ", ..." if len(sources) > 3 else ""
        words = merge_counts(paths, options, folder, engine, names)
        self.work.checkpoint()
        for path in paths:
            path.unlink()
        return words

    def _count_in_memory(
        self, sources: Sequence[TextSource], options: CorpusOptions, report: Tick
    ) -> WordCounts:
        remedy = "" if has_engine() else f"{_INSTALL} to count on the disk, "

        def check(words: int) -> None:
            self.limit.require_sorted(words, lowercase=options.lowercase, remedy=remedy)

        words = count_words(list(sources), options, report, check)
        self.limit.require_tokenized(len(words))
        return words

    def _count_shards(
        self, shards: list[TextSource], paths: list[Path], encoding: str, engine: Engine, add: Add
    ) -> None:
        if not self.executor.is_local:
            for shard in shards:
                if not shard.again:
                    raise OptionError(
                        f"--ray with {shard.name}",
                        expected="a corpus that every worker can read",
                        remedy="put the text into a file or at a URL",
                    )
            shards = [
                shard if shard.path is None else replace(shard, path=shard.path.absolute())
                for shard in shards
            ]
        left = [pair for pair in zip(shards, paths, strict=True) if not pair[1].exists()]
        add(sum(s.size or 0 for s in shards) - sum(shard.size or 0 for shard, _ in left))
        jobs = [((shard,), shard.size or 0) for shard, _ in left]
        folder = engine.folder if self.executor.is_local else None
        results = self.executor.run(count_task, (encoding, engine, folder), jobs, add)
        for (_, path), data in zip(left, results, strict=True):
            write_atomically(path, data)
            self.work.checkpoint()

    def _out_of_core(self, total: int | None, encoding: str) -> bool:
        if not self.executor.is_local:
            return True
        small = total is not None and total <= SMALL_BYTES
        if small and not self.limit.prefers_engine(total or 0):
            return False
        if has_engine() and can_stream(encoding):
            return True
        if small:
            return False
        logger.warning(
            "the words are counted in memory: %s",
            f"{encoding} text cannot be counted on the disk"
            if has_engine()
            else f"{_INSTALL} to count them on the disk",
        )
        return False

    def tabulate(
        self,
        words: WordCounts,
        tokenizers: tuple[WordTokenizer, WordTokenizer],
        options: TableOptions,
        report: Tick,
    ) -> tuple[WordTable | StoredTable, dict[str, int]]:
        """Make the word table: in memory if it is one shard, else in parts in files.

        Returns:
            The table, and how many words were left out by reason.

        Raises:
            VocabularyError: no word is left.
        """
        total, size = len(words), word_table.SHARD_WORDS
        if total <= size and self.executor.is_local:
            return build_word_table(words, *tokenizers, options, report)
        return_large_blocks()
        folder = self.work.folder("table")
        ranges = [(start, min(start + size, total)) for start in range(0, total, size)]
        paths = [folder / f"part-{number:06d}.npz" for number in range(len(ranges))]
        left = [pair for pair in zip(ranges, paths, strict=True) if not pair[1].exists()]
        missing = sum(stop - start for (start, stop), _ in left)
        add = adding(report, 2 * total)
        add(2 * (total - missing))
        jobs = (((words.part(*range_),), 2 * (range_[1] - range_[0])) for range_, _ in left)
        results = self.executor.run(tabulate_task, (tokenizers, options), jobs, add)
        for (_, path), data in zip(left, results, strict=True):
            write_atomically(path, data)
            self.work.checkpoint()
        left_out: Counter[str] = Counter()
        for path in paths:
            left_out.update(read_left_out(path))
        table = StoredTable.open(paths)
        return table, finish_table(total, len(table), left_out)


def count_task(shared: tuple[str, Engine, Path | None], shard: TextSource, add: Add) -> bytes:
    """Return the file of counts of one shard; see :func:`~.counting.count_shard`.

    Args:
        shared: the encoding, the engine, and the folder to work in, ``None`` for one of the system.
        shard: the text.
        add: called with the bytes read since the last call.
    """
    encoding, engine, parent = shared
    with TemporaryDirectory(dir=parent) as folder:
        path = Path(folder, "counts.parquet")
        count_shard(shard, encoding, path, replace(engine, folder=Path(folder)), add)
        return path.read_bytes()


def tabulate_task(
    shared: tuple[tuple[WordTokenizer, WordTokenizer], TableOptions], words: WordCounts, add: Add
) -> bytes:
    """Return the file of one part of the word table; see :func:`~.stored_table.pack_part`."""
    tokenizers, options = shared
    return pack_part(*tabulate(words, *tokenizers, options, add))
