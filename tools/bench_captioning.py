"""Captions of the demo's test scenes by every method, at one budget of forward passes.

The truth about the scenes is known, so captions are scored by the exact scene-graph F1 (SPICE's
idea without its parser), BLEU-4, ROUGE-L and CIDEr against sentences of the grammar, CLIP's cosine,
the language model's perplexity, and, where a sentiment is asked for, by a second classifier.

A sentence that the language model writes counts one forward pass, each prompt scored one, the
gradient of a prompt two. Every method minimizes the same loss. Those that revise begin from the
best of a few sentences that the language model writes, which count too.

    python tools/bench_captioning.py --scenes 20
    python tools/bench_captioning.py --workers 16 --found captions.jsonl   # goes on if interrupted
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _bench
import torch

from fuse_index.demo import Scene, Split, draw, graph_of_sentence, make_scene, make_sentences
from fuse_index.demo.captioning import GuideOptions, Request, SceneCaptioner
from fuse_index.demo.cast import assemble_cast
from fuse_index.demo.grammar import FULL
from fuse_index.demo.shortlist import Shortlist
from fuse_index.demo.writing import write_sentences
from fuse_index.evaluate.captions import PURE_METRICS, CaptionOptions, score_captions
from fuse_index.evaluate.graphs import score_graphs
from fuse_index.evaluate.interval import Score, mean_score, paired_bootstrap
from fuse_index.optimize import GCG, AutoDAN, Beam, Greedy, RandomSearch, Route, WordSwaps

REFERENCES = 5
BEGINNINGS = 24
"""Sentences written for a method that revises."""
GROWN = 16
"""Tokens of a caption that is written from left to right."""


@dataclass(frozen=True)
class Job:
    """One caption to find."""

    captioner: SceneCaptioner
    found: Shortlist
    passes: int
    seed: int

    @property
    def left(self) -> int:
        """Forward passes that are left."""
        return self.passes - self.found.forward_passes

    def write(self, count: int) -> None:
        """Let the language model write sentences of its own, and score them."""
        generator = torch.Generator().manual_seed(self.seed)
        self.found.spent.predicted += count
        rows = write_sentences(self.captioner.cast.lm, [()] * count, generator)
        self.found.add(row for row in rows if row is not None)

    def revise(self, method: Any, search: Any = None) -> None:
        """Spend what is left on one method."""
        if self.left > 0:
            best = self.found.best()[0]
            self.found.revise(best, method, passes=self.left, search=search)


def sampled(job: Job) -> None:
    """Nothing but sentences of the language model."""
    job.write(job.passes // 2)


def revised(method: Callable[[int], Any], search: Any = None) -> Callable[[Job], None]:
    """A method that takes the length of the best beginning, on that beginning."""

    def run(job: Job) -> None:
        job.write(BEGINNINGS)
        job.revise(method(len(job.found.best()[0])), search)

    return run


def grown(guidance: float) -> Callable[[Job], None]:
    """From left to right, with a beam."""

    def run(job: Job) -> None:
        start = tuple(job.found.problem.encode("a"))
        job.found.add([start])
        width = max(4, job.passes // GROWN - 12)
        method = AutoDAN(length=GROWN, search_width=width, weight=guidance, iterations=1)
        job.found.revise(start, method, passes=job.left, search=Beam(width=4))

    return run


def swept(guidance: float) -> Callable[[Job], None]:
    """The best beginning gone over again and again."""

    def method(length: int) -> AutoDAN:
        options = {"length": length, "search_width": 12, "iterations": 1, "sweeps": 100}
        return AutoDAN(weight=guidance, **options)

    return revised(method)


def all_moves(guidance: float, route: Route = Route.WORD) -> Callable[[Job], None]:
    """What the demo does: drafts, writing, edits and rewriting in turn."""

    def run(job: Job) -> None:
        options = replace(job.captioner.options, guidance=guidance, route=route)
        captioner = SceneCaptioner(job.captioner.cast, options)
        job.write(job.passes // 8)
        captioner.improve(job.found, 0, job.passes)
        captioner.search(job.found, [], job.passes)

    return run


def swaps(guide: str) -> Callable[[Job], None]:
    """Swaps of whole words, the best predicted first."""
    method = WordSwaps(search_width=32, guide=guide, draw="best", places=2)
    return revised(lambda length: method, Beam(width=2))


METHODS: dict[str, Callable[[Job], None]] = {
    "no guidance: LM sampling ranked by the loss": sampled,
    "random proposals": revised(lambda length: RandomSearch(search_width=32), Greedy()),
    "Gibbs sampling by the LM, ranked (adapter off)": swept(0.0),
    "FUSE: AutoDAN, revision": swept(2.0),
    "adapter off: AutoDAN with beam": grown(0.0),
    "FUSE: AutoDAN with beam": grown(2.0),
    "FUSE: GCG": revised(lambda length: GCG(search_width=32, draw="best"), Greedy()),
    "random words": revised(
        lambda length: WordSwaps(search_width=32, guide="random"), Beam(width=2)
    ),
    "words: word space": swaps("word"),
    **{f"words: {guide}": swaps(guide) for guide in ("adapter", "mixture", "layers")},
    "all moves, adapter off": all_moves(0.0),
    "all moves, FUSE: adapter": all_moves(2.0, Route.ADAPTER),
    "all moves, FUSE: word space": all_moves(2.0),
    "all moves, FUSE: layers": all_moves(2.0, Route.LAYERS),
}
FELT = ("all moves, FUSE: word space",)
"""Methods that are asked for sentiments too."""
SHOWN = ("graph F1", "BLEU-4", "ROUGE-L", "CIDEr", "CLIP", "perplexity", "sentiment")


@dataclass(frozen=True)
class Found:
    """A caption and its measures."""

    text: str
    clip: float
    fluency: float
    kept: float
    passes: int
    seconds: float


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = _bench.parser(__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--passes", type=int, default=600, help="forward passes a caption")
    parser.add_argument("--methods", default="", help="parts of names, separated by commas")
    parser.add_argument("--plain", action="store_true", help="ask for no sentiments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--found", type=Path, help="JSON lines of captions, kept and read again")
    parser.add_argument("--plot", type=Path, help="a PNG of F1 with its intervals")
    arguments = parser.parse_args(argv)
    parts = [part for part in arguments.methods.split(",") if part]
    names = [name for name in METHODS if not parts or any(part in name for part in parts)]
    scenes = [make_scene(Split.TEST, index) for index in range(arguments.scenes)]
    rows, scores = [], {}
    for name, request, found in captions_of(names, arguments):
        case = name if request is Request.PLAIN else f"{name} ({request.value})"
        scores[case] = score(found, scenes)
        rows.append(as_row(case, found, scores[case]))
        print(f"{case}: F1 {scores[case]['graph F1'].value:.3f}", file=sys.stderr, flush=True)
    differences = compare(scores)
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    if arguments.plot:
        plot(scores, arguments.plot)
    if arguments.json:
        extra = {"differences": differences, "passes": arguments.passes, "load_at_end": load}
        _bench.publish("captioning", rows, True, ("transformers", "pycocoevalcap"), **extra)
    else:
        print(markdown(scores, rows, differences, arguments, load))


def captions_of(names: list[str], arguments: Any) -> Iterator[tuple[str, Request, list[Found]]]:
    """Find the captions of every method and request, or read those that were found before."""
    path: Path | None = arguments.found
    known: dict[tuple[Any, ...], Found] = {}
    if path and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            *key, found = json.loads(line)
            known[tuple(key)] = Found(**found)
    make = partial(caption, passes=arguments.passes, seed=arguments.seed)
    with ExitStack() as stack:
        output = stack.enter_context(path.open("a", encoding="utf-8")) if path else None
        spread: Callable[..., Iterator[Found]] = map
        if arguments.workers > 1:
            pool = get_context("spawn").Pool(arguments.workers, _one_thread)
            spread = stack.enter_context(pool).imap
        for name in names:
            felt = name in FELT and not arguments.plain
            for request in Request if felt else (Request.PLAIN,):
                keys = [
                    (name, request.value, scene, arguments.passes, arguments.seed)
                    for scene in range(arguments.scenes)
                ]
                missing = [key for key in keys if key not in known]
                for key, found in zip(missing, spread(make, missing), strict=True):
                    known[key] = found
                    if output:
                        print(json.dumps([*key, asdict(found)]), file=output, flush=True)
                yield name, request, [known[key] for key in keys]


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def captioner_of(seed: int) -> SceneCaptioner:
    """The models, loaded once a process."""
    return SceneCaptioner(assemble_cast(), GuideOptions(seed=seed))


def caption(key: tuple[Any, ...], *, passes: int, seed: int) -> Found:
    """Find one caption and measure it."""
    name, request, number = key[0], Request(key[1]), key[2]
    begin = time.perf_counter()
    captioner = captioner_of(seed)
    problem = captioner.problem(draw(make_scene(Split.TEST, number)), request)
    found = Shortlist(problem, captioner.cast.lm, seed)
    METHODS[name](Job(captioner, found, passes, seed))
    best = found.best()[0]
    losses = dict(zip(problem.names, found.losses[best], strict=True))
    text = problem.decode(best).strip()
    return Found(
        text=text,
        clip=1 - losses["image"],
        fluency=losses["fluency"] / (len(best) + 1),
        kept=float(captioner.verdict(text) == request.sentiment.value),
        passes=found.forward_passes,
        seconds=time.perf_counter() - begin,
    )


def score(found: list[Found], scenes: list[Scene]) -> dict[str, Score]:
    """All metrics of one method."""
    said = [graph_of_sentence(item.text).facts() for item in found]
    scores = dict(score_graphs(said, [s.graph.facts() for s in scenes], [s.truths for s in scenes]))
    references = [
        [s.text for s in make_sentences(scene, REFERENCES, options=FULL)] for scene in scenes
    ]
    texts = [item.text for item in found]
    scores |= score_captions(texts, references, CaptionOptions(PURE_METRICS)).scores
    scores["CLIP"] = mean_score("CLIP", [item.clip for item in found])
    scores["perplexity"] = mean_score("perplexity", [math.exp(item.fluency) for item in found])
    scores["sentiment"] = mean_score("sentiment", [item.kept for item in found])
    return scores


def as_row(case: str, found: list[Found], scores: dict[str, Score]) -> _bench.Row:
    """One row of the JSON: means with intervals, forward passes, captions."""
    figures: dict[str, Any] = {}
    for name in SHOWN:
        if name not in scores:  # the package that computes it is not installed
            continue
        interval = scores[name].interval()
        ends = None if interval is None else [interval.low, interval.high]
        figures[name] = {"mean": scores[name].value, "interval": ends}
    passes = sum(item.passes for item in found) / len(found)
    seconds = _bench.median([item.seconds for item in found])
    captions = [item.text for item in found]
    return _bench.row(case, seconds, "", None, forward_passes=passes, captions=captions, **figures)


GUIDES = ("adapter", "word space", "layers")
PAIRS = (
    ("FUSE: AutoDAN, revision", "random proposals"),
    ("FUSE: AutoDAN, revision", "Gibbs sampling by the LM, ranked (adapter off)"),
    ("FUSE: AutoDAN with beam", "adapter off: AutoDAN with beam"),
    ("FUSE: GCG", "random proposals"),
    *((f"words: {guide}", "random words") for guide in GUIDES),
    ("words: layers", "words: word space"),
    ("all moves, FUSE: word space", "random proposals"),
    *((f"all moves, FUSE: {g}", "all moves, adapter off") for g in GUIDES),
    ("all moves, FUSE: word space", "all moves, FUSE: adapter"),
    ("all moves, FUSE: layers", "all moves, FUSE: word space"),
)
"""First against second, on the same scenes."""


def compare(scores: dict[str, dict[str, Score]]) -> list[dict[str, Any]]:
    """Paired differences of F1 and of CLIP's cosine with their intervals."""
    found = []
    for first, second in PAIRS:
        for metric in ("graph F1", "CLIP"):
            if first in scores and second in scores:
                difference = paired_bootstrap(scores[first][metric], scores[second][metric])
                ends = [difference.interval.low, difference.interval.high]
                found.append(
                    {
                        "first": first,
                        "second": second,
                        "metric": metric,
                        "difference": difference.value,
                        "interval": ends,
                        "p": difference.p_value,
                    }
                )
    return found


def markdown(
    scores: dict[str, dict[str, Score]],
    rows: list[_bench.Row],
    differences: list[dict[str, Any]],
    arguments: Any,
    load: float | None,
) -> str:
    """The tables of the documentation."""
    lines = [
        f"{arguments.scenes} test scenes, {arguments.passes} forward passes a caption, "
        f"load {load}; mean and 95 % bootstrap interval.",
        "",
        "| method | " + " | ".join(SHOWN) + " | passes | s a caption |",
        "| --- |" + " --- |" * (len(SHOWN) + 2),
    ]
    for row in rows:
        cells = [_cell(scores[row["case"]].get(name), name) for name in SHOWN]
        cells += [f"{row['forward_passes']:.0f}", f"{row['seconds']:.1f}"]
        lines.append(f"| {row['case']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| first | second | metric | first less second | p |",
        "| --- | --- | --- | --- | --- |",
    ]
    for item in differences:
        low, high = item["interval"]
        lines.append(
            f"| {item['first']} | {item['second']} | {item['metric']} | "
            f"{item['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {item['p']:.3f} |"
        )
    return "\n".join(lines)


def _cell(score: Score | None, name: str) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    interval = score.interval()
    digits = 1 if name == "perplexity" else 2
    if interval is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def plot(scores: dict[str, dict[str, Score]], path: Path) -> None:
    """Draw F1 of the plain task with its intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in METHODS if name in scores][::-1]
    values = [scores[name]["graph F1"] for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(names) + 1))
    for at, value in enumerate(values):
        interval = value.interval()
        assert interval is not None
        colour = "#3a9d5d" if "FUSE" in names[at] or "words: " in names[at] else "#888888"
        axes.plot([interval.low, interval.high], [at, at], color=colour, linewidth=2)
        axes.plot([value.value], [at], "o", color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("scene-graph F1, mean and 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
