#!/usr/bin/env python3
"""Benchmark of the word index: the kind that ``auto`` takes against a flat FAISS index.

Two cases: 100,000 words of width 768, a joint index over three models (384 + 256 + 128), and
1,000,000 words of width 384, one model. Each is asked single queries and batches of 64 for the best
100 words by inner product; recall is against the exact answer.

words      Where ../shared has the models: the words of two corpora with their real tokens, then
           made-up words of 2 to 4 tokens drawn by their frequency in the real ones. Token
           embeddings are the models' own; a word is the mean of its tokens.
queries    Negative gradients of the models' own losses at random texts. The index is tuned on some
           and measured here on others.
otherwise  Zipf-distributed tokens with embeddings in random directions, and random queries; the
           result says so.

ours       WordIndex.search of the kind that auto took; scores are exact whatever the kind.
baseline   the same call of an index of kind flat (faiss.IndexFlatIP), in turn with ours.

With --device cuda: 64 queries against 1,000,000 random words of width 1024 in bfloat16, exactly;
the baseline is torch.topk over the scores of one float32 product.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import _bench

SHARED = _bench.ROOT.parent / "shared"
CASES = {"joint": (100_000, (384, 256, 128)), "single": (1_000_000, (384,))}
VOCABULARIES = {384: 30_522, 256: 50_257, 128: 340}
TOP, BATCH, ASKED, BLOCK = 100, 64, 128, 16
LENGTHS, SHARES = (2, 3, 4), (0.45, 0.35, 0.2)


def main() -> None:
    """Run the cases, each in a process of its own, or one of them as a worker."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--words", type=int, help="instead of the case's number of words")
    parser.add_argument("--repeats", type=int, default=64, help="single queries that are timed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.words, options.repeats)))
        return
    if options.device == "cuda":
        _bench.publish("index", [on_gpu(options.words or 1_000_000)], options.json)
        return
    rows: list[_bench.Row] = []
    for case in options.cases:
        print(f"{case} ...", file=sys.stderr)
        arguments = ["--worker", case, "--repeats", str(options.repeats)]
        arguments += ["--words", str(options.words)] if options.words else []
        rows += _bench.run_worker(__file__, arguments)["rows"]
    _bench.publish("index", rows, options.json, ("faiss-cpu",), recall_at=TOP)


def measure(case: str, words: int | None, repeats: int) -> dict[str, Any]:
    """Build both indexes and ask them in turn."""
    import torch

    from fuse_index.index import IndexOptions, Kind, WordIndex
    from fuse_index.index.files import index_files

    n, widths = CASES[case]
    n = words or n
    names, counts, sides, queries, sort = make_input(n, widths)
    tuning, asked = queries[:-ASKED], queries[-ASKED:]
    imports = _bench.peak_rss()
    start = time.perf_counter()
    ours = WordIndex.build(names, counts, sides, IndexOptions(top_k=TOP), queries=tuning)
    built = time.perf_counter() - start
    peak = _bench.peak_rss()
    flat = WordIndex.build(names, counts, sides, IndexOptions(Kind.FLAT, top_k=TOP))
    truth = torch.cat([flat.search(part, TOP)[1] for part in torch.split(asked, BATCH)])
    found = torch.cat([ours.search(part, TOP)[1] for part in torch.split(asked, BATCH)])
    recall = float((found >= truth[:, -1:] - 1e-5 * truth[:, -1:].abs()).float().mean())
    files = index_files(ours, "target")
    vectors = 4 * n * ours.width
    figures = {
        "kind": ours.report["kind"],
        "candidates": ours.report["candidates"],
        "reduced_to": ours.report["reduced_to"],
        f"recall@{TOP}": recall,
        "build_seconds": built,
        "disk_mb": sum(memoryview(data).nbytes for data in files.values()) / 1e6,
        "vectors_mb": vectors / 1e6,
        "memory_of_vectors": ours.report["bytes"] / vectors,
        "peak_gb": peak / 1e9,
        "peak_before_building_gb": imports / 1e9,
        "words_and_queries": sort,
        "seconds_and_recall_tried": {
            f"{trial['kind']}{trial['reduced_to'] or ''}": [trial["seconds"], trial["recall"]]
            for trial in (ours.report, *ours.report["tried"])
        },
    }
    name = f"{n:,} words, width {ours.width}"
    single = in_turn(ours, flat, [asked[i % ASKED][None] for i in range(repeats)])
    batch = in_turn(ours, flat, [asked[i * BATCH % ASKED :][:BATCH] for i in range(5)])
    return {
        "rows": [
            _bench.row(f"{name}, one query", single[0], "flat", single[1], **figures),
            _bench.row(f"{name}, {BATCH} queries", batch[0], "flat", batch[1]),
        ]
    }


def in_turn(ours: Any, flat: Any, queries: list[Any]) -> tuple[float, float]:
    """Return the median seconds of both indexes, asked a block of queries each in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        for index, into in zip((ours, flat), seconds, strict=True):
            index.search(block[-1], TOP)  # warm-up: the other index has filled the cache
            for query in block:
                into.extend(_bench.times(lambda i=index, q=query: i.search(q, TOP), 1, warmup=0))
    return _bench.median(seconds[0]), _bench.median(seconds[1])


def make_input(n: int, widths: tuple[int, ...]) -> tuple[Any, Any, Any, Any, str]:
    """Return words, counts, models, queries, and what they are."""
    import numpy as np
    import torch

    from fuse_index.index import Side

    real = real_input(widths) if (SHARED / "models").is_dir() else None
    sides, queries = [], []
    rng = np.random.default_rng(0)
    for number, width in enumerate(widths):
        if real is None:
            generator = torch.Generator().manual_seed(number)
            table = torch.randn(VOCABULARIES[width], width, generator=generator)
            shares = 1.0 / (np.arange(len(table)) + 10.0)
            tokens = made_up(rng, n, np.arange(0), np.zeros(1, np.int64), shares)
            queries.append(torch.randn(2 * ASKED + ASKED, width, generator=generator))
        else:
            known, table, drawn = real[number]
            shares = np.bincount(known.values, minlength=len(table)) + 0.3
            tokens = made_up(rng, n, known.values, known.offsets, shares)
            length = table.norm(dim=1).mean()
            queries.append(drawn / (drawn.norm(dim=1, keepdim=True) * length))
        sides.append(Side(f"model{number}", tokens, table))
    names = tuple(f"word{i}" for i in range(n))
    sort = "made up, random" if real is None else "of real models, real gradients"
    return names, np.ones(n, np.int64), sides, torch.cat(queries, 1), sort


def made_up(rng: Any, n: int, values: Any, offsets: Any, shares: Any) -> Any:
    """Return ``n`` words' tokens: the known ones first, then 2 to 4 tokens drawn by frequency."""
    import numpy as np

    from fuse_index.words.ragged import Ragged, offsets_of

    known = min(n, len(offsets) - 1)
    lengths = rng.choice(LENGTHS, p=SHARES, size=n)
    lengths[:known] = np.diff(offsets)[:known]
    all_offsets = offsets_of(lengths)
    tokens = rng.choice(len(shares), p=shares / shares.sum(), size=int(all_offsets[-1]))
    tokens[: offsets[known]] = values[: offsets[known]]
    return Ragged(all_offsets, tokens.astype(np.int64))


def real_input(widths: tuple[int, ...]) -> list[tuple[Any, Any, Any]]:
    """Return known words' tokens, embeddings and gradient queries of the real models."""
    import numpy as np

    from fuse_index.build.queries import sample_queries
    from fuse_index.demo.packaged import DemoModel, model_name
    from fuse_index.models import load_model
    from fuse_index.words.corpus.words import CorpusOptions, count_words
    from fuse_index.words.ragged import Ragged
    from fuse_index.words.table import build_word_table

    paths = {
        384: str(SHARED / "models/minilm-sentiment"),
        256: str(SHARED / "models/gpt2-bpe-lm-18m"),
        128: model_name(DemoModel.SENTIMENT),
    }
    models = {width: load_model(paths[width], device="cpu") for width in {384, 256, *widths}}
    corpora = [SHARED / "corpora/flickr8k-captions.txt", SHARED / "corpora/wikitext-2-valid.txt"]
    counts = count_words(corpora, CorpusOptions())
    table, _ = build_word_table(counts, models[256].words, models[384].words)
    known = {256: table.source, 384: table.target}
    # The demo model knows a few hundred words; all others would be its one unknown token.
    rng = np.random.default_rng(1)
    drawn = rng.integers(10, models[128].vocabulary_size, 2 * len(table)) if 128 in models else None
    if drawn is not None:
        known[128] = Ragged(np.arange(0, len(drawn) + 1, 2), drawn.astype(np.int64))
    return [
        (
            known[width],
            models[width].table().float(),
            sample_queries(
                models[width], known[width], table.counts, samples=3 * ASKED, seed=len(paths)
            ),
        )
        for width in widths
    ]


def on_gpu(n: int) -> _bench.Row:
    """Measure the exact search of a GPU and check it against a plain top-k."""
    import torch

    from fuse_index.index import Metric
    from fuse_index.index.dense import DenseSearch

    generator = torch.Generator("cuda").manual_seed(0)
    shape, kind = (n, 1024), torch.bfloat16
    matrix = torch.randn(shape, generator=generator, device="cuda", dtype=kind)
    queries = torch.randn(BATCH, 1024, generator=generator, device="cuda")
    search = DenseSearch.from_matrix(matrix)
    scores, ids = search.search(queries, TOP, Metric.INNER_PRODUCT)
    wide = matrix.float()
    rounded = queries.to(kind).float()
    torch.backends.cuda.matmul.allow_tf32 = False
    truth = (rounded @ wide.t()).topk(TOP, dim=1)
    wait = torch.cuda.synchronize
    ours = _bench.times(
        lambda: search.search(queries, TOP, Metric.INNER_PRODUCT), 50, warmup=5, synchronize=wait
    )
    plain = _bench.times(
        lambda: (rounded @ wide.t()).topk(TOP, dim=1), 10, warmup=2, synchronize=wait
    )
    same = (ids[:, :, None] == truth.indices[:, None, :]).any(2).float().mean()
    return _bench.row(
        f"{BATCH} queries, {n:,} words, width 1024, bfloat16",
        _bench.median(ours),
        "float32 product and torch.topk",
        _bench.median(plain),
        same_words=float(same),
        largest_difference=float((scores - truth.values).abs().max()),
        memory_gb=search.bytes / 1e9,
    )


if __name__ == "__main__":
    main()
