"""Who does the work of a streamed build, shard by shard: this process, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fuse_index.adapter.fit.stream import Problem
from fuse_index.build.fitstore import Shard, State, sum_here
from fuse_index.words.corpus.counting import Engine, count_shard
from fuse_index.words.corpus.reading import Source
from fuse_index.words.corpus.stored import StoredWords, write_part
from fuse_index.words.corpus.words import WordCounts
from fuse_index.words.table import TableOptions, tabulate
from fuse_index.words.tokenizers.tokenization import WordTokenizer

Report = Callable[[int], None]
Words = StoredWords | WordCounts


@dataclass(frozen=True)
class Tabulator:
    """What turns words into parts of a table.

    Attributes:
        source: the source's tokenizer.
        target: the target's tokenizer.
        options: which words enter the table.
    """

    source: WordTokenizer
    target: WordTokenizer
    options: TableOptions

    def write(self, words: WordCounts, path: Path, report: Report) -> None:
        """Write the part of a table that belongs to a shard of words."""
        table, left_out = tabulate(words, self.source, self.target, self.options, report)
        write_part(path, table, left_out)


class Executor(Protocol):
    """Does shards. What it yields or writes is the same whoever does it."""

    def count(
        self,
        jobs: Sequence[tuple[Source, Path]],
        encoding: str,
        engine: Engine,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Count shards of the corpus into files, see ``count_shard``; ``done`` after each."""

    def tabulate(
        self,
        jobs: Sequence[tuple[tuple[int, int], Path]],
        words: Words,
        tabulator: Tabulator,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Make parts of the word table, given as ranges of words and files; ``done`` after each."""

    def fitting(
        self, source: Tensor, target: Tensor
    ) -> AbstractContextManager[
        Callable[[Problem, torch.dtype, bool, list[Shard]], Iterator[State]]
    ]:
        """Prepare for sums over words with these embeddings."""


class Here:
    """Does everything in this process."""

    def count(
        self,
        jobs: Sequence[tuple[Source, Path]],
        encoding: str,
        engine: Engine,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Count one shard after the other."""
        for shard, path in jobs:
            count_shard(shard, encoding, path, engine, report)
            done()

    def tabulate(
        self,
        jobs: Sequence[tuple[tuple[int, int], Path]],
        words: Words,
        tabulator: Tabulator,
        report: Report,
        done: Callable[[], None],
    ) -> None:
        """Make one part after the other."""
        for (start, stop), path in jobs:
            tabulator.write(words.part(start, stop), path, report)
            done()

    def fitting(self, source: Tensor, target: Tensor) -> AbstractContextManager[Any]:
        """Sum here."""
        return nullcontext(sum_here)
