"""Captions of the demo's test scenes by every method, at one budget of forward passes.

The truth about the scenes is known, so captions are scored by the exact scene-graph F1 (SPICE's
idea without its parser), BLEU-4, ROUGE-L and CIDEr against sentences of the grammar, CLIP's cosine,
the language model's perplexity, and, where a sentiment is wanted, by a second classifier.

A sentence that the language model writes counts one forward pass, each prompt scored one, the
gradient of a prompt three. Every method minimizes the loss of ``fuse-index caption``, and the rows
``all moves`` are what that verb does. Methods that revise begin from the best of a few sentences
that the language model writes, which count too.

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
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _bench
import _scores
import torch

from fuse_index import demo, load_model
from fuse_index import optimize as fo
from fuse_index.demo import DemoModel, Scene, Split, make_scene, model_name
from fuse_index.demo.captioning import Request
from fuse_index.demo.cast import LONGEST_WORD
from fuse_index.evaluate.captions import PURE_METRICS, CaptionOptions, score_captions
from fuse_index.evaluate.graphs import score_graphs
from fuse_index.evaluate.interval import Score, mean_score
from fuse_index.optimize import GCG, AutoDAN, Beam, Greedy, Moves, RandomSearch, Result
from fuse_index.run import Captioner, initial_prompts, read_captions

REFERENCES = 5
BEGINNINGS = 24
"""Sentences written for a method that revises."""
RETRIEVAL = "retrieval"
TRAINING_SCENES = 2000
"""Scenes of the sentences that are retrieved, four of each."""
GROWN = 16
"""Tokens of a caption that is written from left to right."""
Runs = tuple[Result, ...]
"""Runs for one caption, one after another."""


@dataclass(frozen=True)
class Job:
    """One caption to find."""

    request: Request
    picture: Any
    passes: int
    seed: int

    def run(self, initial: Any, method: Any, search: Any = None, **budget: int) -> Result:
        """Spend a part of the passes on one method."""
        problem = captioner_of("gcg", self.request, self.passes, self.seed).problem(self.picture)
        given = {"method": method, "search": search, "budget": fo.Budget(**budget)}
        return fo.optimize(problem, initial, **given, options=fo.RunOptions(seed=self.seed))

    def write(self, count: int) -> Result:
        """Let the language model write sentences, and score them."""
        return self.run("a", Moves(drafts=count, weight=0.0), steps=1)


def sampled(job: Job) -> Runs:
    """Nothing but sentences of the language model."""
    return (job.write(job.passes // 2),)


def revised(method: Callable[[int], Any], search: Any = None) -> Callable[[Job], Runs]:
    """A method that takes the length of the best beginning, on that beginning."""

    def run(job: Job) -> Runs:
        first = job.write(min(BEGINNINGS, job.passes // 4))
        left, ids = job.passes - first.spent["forward_passes"], first.ids
        return first, job.run([ids], method(len(ids)), search, forward_passes=left)

    return run


def grown(weight: float) -> Callable[[Job], Runs]:
    """From left to right, with a beam."""

    def run(job: Job) -> Runs:
        width = max(4, job.passes // GROWN - 12)
        method = AutoDAN(length=GROWN, search_width=width, weight=weight, iterations=1)
        return (job.run("a", method, Beam(width=4), forward_passes=job.passes),)

    return run


def swept(weight: float) -> Callable[[Job], Runs]:
    """The best beginning revised from left to right, again and again."""
    options = {"search_width": 12, "iterations": 1, "sweeps": 100, "weight": weight}
    return revised(lambda length: AutoDAN(length=length, **options))


def swaps(predictor: str) -> Callable[[Job], Runs]:
    """Replacements of whole words, the best predicted first."""
    method = GCG(unit="word", predictor=predictor, search_width=32, positions=2, memory=0)
    return revised(lambda length: method, Beam(width=2))


def retrieved(job: Job) -> Runs:
    """Nothing but the training sentence that CLIP finds most similar."""
    captioner = captioner_of("gcg", job.request, job.passes, job.seed, RETRIEVAL)
    problem = captioner.problem(job.picture)
    initial = initial_prompts(problem, captioner.config.initial, job.seed, corpus=captioner.corpus)
    return (job.run(initial[:1], GCG(), forward_passes=1),)


def all_moves(draw: str = "model", **options: Any) -> Callable[[Job], Runs]:
    """What ``fuse-index caption`` does, from beginnings of the language model or the corpus."""

    def run(job: Job) -> Runs:
        method = json.dumps({"type": "moves", **options})
        captioner = captioner_of(method, job.request, job.passes, job.seed, draw)
        return (captioner.caption(job.picture).result,)

    return run


PREDICTORS = ("embedding", "adapter", "mixture", "layers")
MOVED = ("embedding", "adapter", "layers")
METHODS: dict[str, Callable[[Job], Runs]] = {
    "no guidance: LM sampling ranked by the loss": sampled,
    "random tokens": revised(lambda length: RandomSearch(search_width=32), Greedy()),
    "Gibbs sampling by the LM, ranked (weight 0)": swept(0.0),
    "AutoDAN, revision": swept(2.0),
    "AutoDAN with beam, weight 0": grown(0.0),
    "AutoDAN with beam": grown(2.0),
    "GCG": revised(lambda length: GCG(search_width=32, positions=0, memory=0), Greedy()),
    "random words": revised(lambda n: RandomSearch(unit="word", search_width=32), Beam(width=2)),
    **{f"words: {predictor}": swaps(predictor) for predictor in PREDICTORS},
    "retrieval of training sentences": retrieved,
    "all moves: off": all_moves(weight=0.0),
    **{f"all moves: {predictor}": all_moves(predictor=predictor) for predictor in MOVED},
    "all moves: layers, from retrieval": all_moves(RETRIEVAL, predictor="layers", drafts=0),
}
FELT = ("all moves: layers",)
"""Methods that caption with sentiments too."""
UNGUIDED = ("no guidance", "retrieval of", "random", "weight 0", "all moves: off")
"""Parts of names of methods that take no gradient; they are grey in the picture."""
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
    parser.add_argument("--passes", type=int, default=1500, help="forward passes a caption")
    parser.add_argument("--methods", default="", help="parts of names, separated by commas")
    parser.add_argument("--plain", action="store_true", help="ask for no sentiments")
    parser.add_argument("--felt", action="store_true", help="ask every method for sentiments")
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
    differences = _scores.differences(PAIRS, scores, ("graph F1", "CLIP"))
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
            felt = (name in FELT or arguments.felt) and not arguments.plain
            for request in Request if felt else (Request.PLAIN,):
                key = (name, request.value)
                rest = (arguments.passes, arguments.seed)
                keys = [(*key, scene, *rest) for scene in range(arguments.scenes)]
                missing = [key for key in keys if key not in known]
                for key, found in zip(missing, spread(make, missing), strict=True):
                    known[key] = found
                    if output:
                        print(json.dumps([*key, asdict(found)]), file=output, flush=True)
                yield name, request, [known[key] for key in keys]


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _folder() -> TemporaryDirectory[str]:
    """Holds the words and the adapters of this process, until it ends."""
    folder = TemporaryDirectory(prefix="bench-captioning-")
    demo.write_vocabulary(Path(folder.name) / "words.txt")
    demo.write_corpus(Path(folder.name) / "sentences.txt", TRAINING_SCENES)
    return folder


@cache
def captioner_of(
    method: str, request: Request, passes: int, seed: int, draw: str = "model"
) -> Captioner:
    """The captioner of a method, as JSON or its name alone; models are loaded once a process."""
    folder = _folder().name
    value = {
        "lm": model_name(DemoModel.LM),
        "clip": model_name(DemoModel.CLIP),
        "method": json.loads(method) if method[:1] == "{" else method,
        "budget": {"forward_passes": passes},
        "options": {"seed": seed},
        "initial": {"draw": draw, "corpus": f"{folder}/sentences.txt"},
        "adapters": {"words": f"{folder}/words.txt", "max_tokens": LONGEST_WORD, "cache": folder},
    }
    # a plain caption is one without feeling
    sentiment = model_name(DemoModel.SENTIMENT)
    value["classifier"] = {"model": sentiment, "label": request.sentiment.value, "weight": 2.0}
    return Captioner(read_captions(value))


@cache
def judge() -> Any:
    """A classifier that takes no part in any search."""
    return load_model(model_name(DemoModel.JUDGE))


def caption(key: tuple[Any, ...], *, passes: int, seed: int) -> Found:
    """Find one caption and measure it."""
    name, request, number = key[0], Request(key[1]), key[2]
    picture = demo.draw(make_scene(Split.TEST, number))
    captioner_of("gcg", request, passes, seed)  # loading is not timed
    begin = time.perf_counter()
    runs = METHODS[name](Job(request, picture, passes, seed))
    seconds = time.perf_counter() - begin
    result, text = runs[-1], runs[-1].text.strip()
    logits = judge().encode_texts([text]).logits[0]
    return Found(
        text=text,
        clip=1 - result.losses["image"],
        fluency=result.losses["fluency"] / (len(result.ids) + 1),
        kept=float(judge().labels[int(logits.argmax())] == request.sentiment.value),
        passes=sum(run.spent["forward_passes"] for run in runs),
        seconds=seconds,
    )


def score(found: list[Found], scenes: list[Scene]) -> dict[str, Score]:
    """All metrics of one method."""
    said = [demo.graph_of_sentence(item.text).facts() for item in found]
    scores = dict(score_graphs(said, [s.graph.facts() for s in scenes], [s.truths for s in scenes]))
    make = partial(demo.make_sentences, count=REFERENCES, options=demo.FULL)
    references = [[s.text for s in make(scene)] for scene in scenes]
    texts = [item.text for item in found]
    scores |= score_captions(texts, references, CaptionOptions(PURE_METRICS)).scores
    scores["CLIP"] = mean_score("CLIP", [item.clip for item in found])
    scores["perplexity"] = mean_score("perplexity", [math.exp(item.fluency) for item in found])
    scores["sentiment"] = mean_score("sentiment", [item.kept for item in found])
    return scores


def as_row(case: str, found: list[Found], scores: dict[str, Score]) -> _bench.Row:
    """One row of the JSON: means with intervals, forward passes, captions."""
    figures = _scores.figures(scores, SHOWN)
    passes = sum(item.passes for item in found) / len(found)
    seconds = _bench.median([item.seconds for item in found])
    captions = [item.text for item in found]
    return _bench.row(case, seconds, "", None, forward_passes=passes, captions=captions, **figures)


PAIRS = (
    ("AutoDAN, revision", "random tokens"),
    ("AutoDAN, revision", "Gibbs sampling by the LM, ranked (weight 0)"),
    ("AutoDAN with beam", "AutoDAN with beam, weight 0"),
    ("GCG", "random tokens"),
    *((f"words: {predictor}", "random words") for predictor in PREDICTORS),
    ("words: layers", "words: embedding"),
    ("all moves: layers", "random tokens"),
    *((f"all moves: {predictor}", "all moves: off") for predictor in MOVED),
    ("all moves: embedding", "all moves: adapter"),
    ("all moves: layers", "all moves: embedding"),
    ("all moves: layers", "retrieval of training sentences"),
    ("all moves: layers, from retrieval", "retrieval of training sentences"),
    ("all moves: layers, from retrieval", "all moves: layers"),
)
"""First against second, on the same scenes."""


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
        own = scores[row["case"]]
        cells = [_scores.cell(own.get(name), 1 if name == "perplexity" else 2) for name in SHOWN]
        cells += [f"{row['forward_passes']:.0f}", f"{row['seconds']:.1f}"]
        lines.append(f"| {row['case']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_scores.difference_lines(differences)])


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
        colour = "#888888" if any(part in names[at] for part in UNGUIDED) else "#3a9d5d"
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
