#!/usr/bin/env python3
"""Benchmark of counting words: ours in memory, ours on the disk, DuckDB and Polars by themselves.

The text is made from the words of a corpus, drawn by Zipf's law, with words put together from two
of them for the long tail. Every measurement runs in a process of its own on the same two cores and
ends with the words sorted by count and then by code point.

memory     fuse_index.words.corpus.words.count_words, the counter of small corpora (one thread)
ours       fuse_index.words.corpus.counting: shards counted by DuckDB into files, merged, sorted and
           written; 1 GiB of memory. Cuts at everything that str.split takes for white space.
duckdb     one query: read_csv by lines, string_split at the space alone, GROUP BY, ORDER BY
polars     scan_csv by lines, str.split at the space alone, group_by, sort; streaming engine
polars-re  the same with extract_all of what is no white space, control characters included

The baseline is the engine whose median is the lower. All results are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import _bench

CORPORA = _bench.ROOT.parent / "shared" / "corpora"
WAYS = ("ours", "duckdb", "polars", "polars-re", "memory")
THREADS = 2


def main() -> None:
    """Make the text, count it in every way, compare."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=250, help="of text")
    parser.add_argument("--vocabulary", type=int, default=1_000_000, help="words to draw from")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        default=[CORPORA / "wikitext-2-valid.txt", CORPORA / "flickr8k-captions.txt"],
    )
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.text)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        write_text(text, options)
        rows = compare(text, options)
    _bench.publish("count", rows, options.json, ("duckdb", "polars", "pyarrow"))


def compare(text: Path, options: argparse.Namespace) -> list[_bench.Row]:
    """Count in every way, in turns, and give one row each."""
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for turn in range(options.repeats):
        for way in WAYS:
            found = _bench.run_worker(__file__, ["--worker", way, "--text", str(text)])
            results[way].append(found)
            print(f"turn {turn}: {way} {found['seconds']:.2f} s", file=sys.stderr, flush=True)
    digests = {result["digest"] for runs in results.values() for result in runs}
    medians = {
        way: _bench.median([run["seconds"] for run in runs]) for way, runs in results.items()
    }
    engine = min(("duckdb", "polars"), key=lambda way: medians[way])
    size = text.stat().st_size
    return [
        _bench.row(
            f"{size / 1e6:.0f} MB, {runs[0]['words']:,} words: {way}",
            medians[way],
            engine,
            medians[engine],
            mb_per_second=size / 1e6 / medians[way],
            cpu_seconds=_bench.median([run["cpu"] for run in runs]),
            all_seconds=[run["seconds"] for run in runs],
            peak_gb=max(run["peak"] for run in runs) / 1e9,
            all_equal=len(digests) == 1,
        )
        for way, runs in results.items()
    ]


def measure(way: str, text: Path) -> dict[str, Any]:
    """Count once."""
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        work = {"ours": ours, "duckdb": duckdb, "memory": memory}.get(way)
        load_libraries(way)
        start, used = time.perf_counter(), time.process_time()
        words, counts = work(text, folder) if work else polars(text, way.endswith("re"))
        seconds, used = time.perf_counter() - start, time.process_time() - used
        return {
            "seconds": seconds,
            "cpu": used,
            "peak": _bench.peak_rss(),
            "words": len(words),
            "digest": digest(words, counts),
        }


def memory(text: Path, _folder: str) -> tuple[Any, Any]:
    """Our counter in memory."""
    from fuse_index.words.corpus.words import count_words

    found = count_words([text])
    return found.words, found.counts.tolist()


def load_libraries(way: str) -> None:
    """Import what a way needs: nobody is timed while Python reads files."""
    import importlib
    import os

    os.environ["POLARS_MAX_THREADS"] = str(THREADS)
    ours_ = (
        "fuse_index.words.corpus.counting",
        "fuse_index.words.corpus.shards",
        "duckdb",
        "pyarrow.parquet",
    )
    names = {
        "ours": ours_,
        "memory": ("fuse_index.words.corpus.words",),
        "duckdb": ("duckdb", "pyarrow"),
    }
    for name in names.get(way, ("polars",)):
        importlib.import_module(name)


class Lazily:
    """Words on the disk, read for the comparison only."""

    def __init__(self, stored: Any, column: str) -> None:
        self._stored, self._column = stored, column

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Any:
        return iter(getattr(self._stored.part(0, len(self)), self._column))


def ours(text: Path, folder: str) -> tuple[Any, Any]:
    """Our counter on the disk."""
    from fuse_index.words.corpus.counting import Engine, count_shard, merge_counts
    from fuse_index.words.corpus.reading import find_sources
    from fuse_index.words.corpus.shards import split_sources
    from fuse_index.words.corpus.words import CorpusOptions

    engine = Engine(Path(folder), threads=THREADS)
    files = []
    for number, shard in enumerate(split_sources(find_sources([text]), "utf-8")):
        files.append(Path(folder, f"{number}.parquet"))
        count_shard(shard, "utf-8", files[-1], engine)
    stored = merge_counts(files, CorpusOptions(), Path(folder, "words"), engine, text.name)
    return Lazily(stored, "words"), Lazily(stored, "counts")


def duckdb(text: Path, folder: str) -> tuple[Any, Any]:
    """DuckDB by itself."""
    import duckdb as engine

    settings = {"threads": THREADS, "memory_limit": "1GiB", "temp_directory": f"{folder}/spill"}
    lines = (
        f"SELECT unnest(string_split(line, ' ')) AS w FROM read_csv('{text}', header=false,"
        " columns={'line': 'VARCHAR'}, delim='\\0', quote='', escape='')"
    )
    query = f"SELECT w, count(*) AS n FROM ({lines}) WHERE w <> '' GROUP BY w ORDER BY n DESC, w"
    found = engine.connect(config=settings).sql(query).to_arrow_table()
    return found.column(0).to_pylist(), found.column(1).to_pylist()


def polars(text: Path, exact: bool) -> tuple[Any, Any]:
    """Polars by itself."""
    import polars as pl

    lines = pl.scan_csv(
        text, has_header=False, new_columns=["line"], separator="\x01", quote_char=None
    )
    line = pl.col("line").str
    cut = line.extract_all(r"[^\s\x1c-\x1f]+") if exact else line.split(" ")
    words = lines.select(cut.alias("w")).explode("w").filter(pl.col("w") != "")
    counts = words.group_by("w").len().sort(["len", "w"], descending=[True, False])
    found = counts.collect(engine="streaming")
    return found["w"].to_list(), found["len"].to_list()


def digest(words: Iterable[str], counts: Iterable[int]) -> str:
    """Hash the result, outside of the time."""
    found = hashlib.sha256("\n".join(words).encode())
    found.update(",".join(map(str, counts)).encode())
    return found.hexdigest()


def write_text(path: Path, options: argparse.Namespace) -> None:
    """Write lines of twenty words, drawn by Zipf's law."""
    import numpy as np

    counted: Counter[str] = Counter()
    for corpus in options.corpus:
        counted.update(corpus.read_text(encoding="utf-8").split())
    vocabulary = [word for word, _ in counted.most_common()]
    generator = np.random.default_rng(0)
    pairs = generator.integers(min(5000, len(vocabulary)), size=(options.vocabulary, 2))
    vocabulary += [vocabulary[a] + vocabulary[b] for a, b in pairs[len(vocabulary) :].tolist()]
    words = np.array(vocabulary, object)
    weights = np.cumsum(1 / np.arange(1, len(words) + 1) ** 1.05)
    with path.open("w", encoding="utf-8") as stream:
        while stream.tell() < options.megabytes * 1_000_000:
            drawn = np.searchsorted(weights, generator.random(400_000) * weights[-1])
            chosen = words[drawn].tolist()
            lines = (" ".join(chosen[i : i + 20]) for i in range(0, len(chosen), 20))
            stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
