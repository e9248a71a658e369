"""Text inversion by predictor, at equal forward passes.

The source is a causal model's tokenizer, the target a text encoder; for each target text a prompt
of random words is optimized until its embedding is that of the text. The methods differ in what a
candidate replaces (a word of the bundle, or a token) and in what ranks the candidates. The row
``bare`` gives neither method nor search, and says what was chosen. A gradient counts three forward
passes. Runs on the packaged demo models, or on any pair, e.g. the two models of ../shared:

    python tools/bench_inversion.py --source ../shared/models/gpt2-bpe-lm-18m
        --target ../shared/models/minilm-sentiment --corpus ../shared/corpora/flickr8k-captions.txt
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bench import parser, publish, row

RANDOM = "random words"
BARE = "bare"


def methods(width: int) -> dict[str, Any]:
    """Every method by name.

    Args:
        width: candidates of a step where they are drawn.
    """
    from fuse_index.optimize import GCG, Beam, Choice, RandomSearch

    drawn = {"search_width": width, "draw": "uniform", "positions": 0, "memory": 0}
    words = {"unit": "word", **drawn}
    two = {"unit": "word", "search_width": width // 2, "positions": 2}
    return {
        RANDOM: RandomSearch(unit="word", search_width=width),
        BARE: None,  # before the rows that keep states, which would decide for it
        "adapter": GCG(predictor="adapter", **words),
        "embedding": GCG(predictor="embedding", **words),
        "mixture": GCG(predictor="mixture", **words),
        "embedding, best of 2 positions, corrected": GCG(predictor="embedding", **two),
        "mixture, best of 2 positions, corrected": GCG(predictor="mixture", **two),
        "adapter, 12 best of 4 positions, corrected": GCG(
            unit="word", predictor="adapter", search_width=12, positions=4
        ),
        "layers, 16 best of 2 positions": GCG(
            unit="word", predictor="layers", search_width=16, positions=2, memory=0
        ),
        "layers, 24 best of 3 positions, corrected": GCG(
            unit="word", predictor="layers", search_width=24, positions=3
        ),
        "tokens: random": RandomSearch(search_width=width),
        "tokens: adapter": GCG(predictor="adapter", **drawn),
        "tokens: embedding": GCG(predictor="embedding", **drawn),
        "tokens: embedding, 32 best of 2 positions, corrected": GCG(
            predictor="embedding", search_width=32, positions=2
        ),
        "tokens: layers, 24 best of 3 positions, corrected": GCG(
            predictor="layers", search_width=24, positions=3
        ),
        "tokens: adapter, 128 best of 4 positions, corrected, beam of 4": Choice(
            GCG(predictor="adapter"), Beam(width=4), ""
        ),
    }


@dataclass(frozen=True)
class Setup:
    """Models, texts and sizes of all runs."""

    source: Any
    target: Any
    adapter: Any
    texts: list[str]
    words: tuple[str, ...]
    prompt_words: int
    budget: int


def run(setup: Setup, method: Any, index: int) -> Any:
    """Optimize one prompt."""
    from fuse_index.objectives import TextSimilarity
    from fuse_index.optimize import Budget, Problem, RunOptions, Term, optimize

    term = Term(TextSimilarity(texts=setup.texts[index]), setup.target, setup.adapter)
    problem = Problem(setup.source, [term], words=setup.words)
    drawn = np.random.default_rng([7, index]).choice(len(setup.words), setup.prompt_words)
    return optimize(
        problem,
        " ".join(setup.words[i] for i in drawn),
        method=method,
        budget=Budget(forward_passes=setup.budget),
        options=RunOptions(seed=index),
    )


def passes_to(result: Any, loss: float) -> float:
    """Forward passes until the best loss is at most ``loss``; infinite if it never is."""
    reached = [p.forward_passes for p in result.trajectory if p.best <= loss]
    return float(min(reached, default=math.inf))


def measure(setup: Setup, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Run every method on every text, and compare with the random one text by text."""
    results: dict[str, list[Any]] = {}
    seconds: dict[str, float] = {}
    for name, method in chosen.items():
        begin = time.perf_counter()
        results[name] = [run(setup, method, i) for i in range(len(setup.texts))]
        seconds[name] = (time.perf_counter() - begin) / len(setup.texts)
        final = np.array([r.total for r in results[name]])
        chose = f" ({results[name][0].chosen})" if method is None else ""
        print(f"{name}: {final.mean():.3f}{chose}", file=sys.stderr, flush=True)
    goals = [r.total for r in results[RANDOM]]
    mean_goal = float(np.mean(goals))
    return [
        row(
            name,
            seconds[name],
            RANDOM,
            seconds[RANDOM],
            final_loss=float(np.mean([r.total for r in own])),
            standard_error=float(np.std([r.total for r in own], ddof=1) / len(own) ** 0.5),
            loss_at_a_third=float(np.mean([_at(r, setup.budget / 3) for r in own])),
            passes_to_randoms_final_loss=float(
                np.median([passes_to(r, g) for r, g in zip(own, goals, strict=True)])
            ),
            passes_of_the_mean_curve=_mean_passes(own, mean_goal, setup.budget),
            example=own[0].text.strip(),
            **({"chosen": own[0].chosen} if name == BARE else {}),
        )
        for name, own in results.items()
    ]


def _at(result: Any, passes: float) -> float:
    """The best loss after so many forward passes."""
    points = [p.best for p in result.trajectory if p.forward_passes <= passes]
    return points[-1] if points else result.trajectory[0].best


def _mean_passes(results: list[Any], loss: float, budget: int) -> float | None:
    """Forward passes until the mean of all runs is at most ``loss``."""
    for passes in range(0, budget + 1, 8):
        if np.mean([_at(r, passes) for r in results]) <= loss:
            return float(passes)
    return None


def prepare(options: Any, folder: Path) -> Setup:
    """Load the pair, build its adapter, draw the texts."""
    from fuse_index import Adapter, build_bundle, load_model
    from fuse_index.demo import DemoModel, Split, corpus, model_name, write_corpus

    demo = options.source is None
    source = load_model(options.source or model_name(DemoModel.LM))
    target = (
        load_model(model_name(DemoModel.CLIP))
        if demo
        else load_model(options.target, kind="encoder")
    )
    if demo:
        path = write_corpus(folder / "corpus.txt", scenes=400)
        lines = [sentence.text for sentence in corpus(Split.TEST, 200)]
    else:
        path = Path(options.corpus)
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    bundle = build_bundle(source.name, target.name, folder / "bundle", [path]).path
    adapter = Adapter.from_pretrained(bundle)
    rng = np.random.default_rng(options.seed)
    lines = [line for line in lines if 6 <= len(line.split()) <= 14]
    texts = [lines[i] for i in rng.choice(len(lines), options.texts, replace=False)]
    words = adapter.bundle.table.words
    return Setup(source, target, adapter, texts, words, options.words, options.budget)


def main() -> int:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--source", help="a causal model; by default the packaged one")
    arguments.add_argument("--target", help="a model used as sentence encoder")
    arguments.add_argument("--corpus", help="texts, one a line: words and targets")
    arguments.add_argument("--texts", type=int, default=12, help="target texts")
    arguments.add_argument("--words", type=int, default=8, help="words of a prompt")
    arguments.add_argument("--budget", type=int, default=1980, help="forward passes of a run")
    arguments.add_argument("--width", type=int, default=64, help="candidates of a step, drawn")
    arguments.add_argument("--seed", type=int, default=0, help="decides the target texts")
    arguments.add_argument("--only", action="append", help="methods to run, beside random")
    options = arguments.parse_args()
    if (options.source is None) != (options.corpus is None):
        arguments.error("--source, --target and --corpus go together")
    chosen = methods(options.width)
    if options.only:
        chosen = {k: v for k, v in chosen.items() if k == RANDOM or k in options.only}
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(options, Path(folder))
        rows = measure(setup, chosen)
    publish(
        "bench_inversion",
        rows,
        options.json,
        ("transformers",),
        source=setup.source.name,
        target=setup.target.name,
        budget=setup.budget,
        texts=len(setup.texts),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
