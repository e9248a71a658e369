"""Composition: what a third objective changes about prompts that two already agree on.

For each target text a prompt is optimized to be fluent and similar to it, and once more to be
judged positive as well. Reported are the classifier's positive rate and the similarity of both, and
with --plot a picture of the two Pareto fronts. Runs on the packaged demo models, or on any three:

    python tools/bench_composition.py --lm ../shared/models/gpt2-bpe-lm-18m
        --encoder ../shared/models/minilm-sentiment --classifier ../shared/models/minilm-sentiment
        --corpus ../shared/corpora/flickr8k-captions.txt
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bench import parser, publish, row


@dataclass(frozen=True)
class Setup:
    """Models, adapters, texts and weights of all runs."""

    lm: Any
    encoder: Any
    classifier: Any
    adapters: tuple[Any, Any]
    texts: list[str]
    label: str
    options: Any


def terms(setup: Setup, text: str, *, positive: bool) -> list[Any]:
    """Fluency and similarity, and the label if asked for."""
    from fuse_index.objectives import ClassifierLabel, Fluency, TextSimilarity
    from fuse_index.optimize import Term

    options = setup.options
    found = [
        Term(Fluency(weight=options.fluency), setup.lm),
        Term(TextSimilarity(texts=text), setup.encoder, setup.adapters[0]),
    ]
    if positive:
        label = ClassifierLabel(label=setup.label, weight=options.positive)
        found.append(Term(label, setup.classifier, setup.adapters[1]))
    return found


def run(setup: Setup, index: int, *, positive: bool) -> Any:
    """Optimize one prompt."""
    from fuse_index.optimize import GCG, Budget, Problem, RunOptions, optimize

    options = setup.options
    words = setup.adapters[0].bundle.table.words
    problem = Problem(setup.lm, terms(setup, setup.texts[index], positive=positive), words=words)
    drawn = np.random.default_rng([11, index]).choice(len(words), options.words)
    return optimize(
        problem,
        " ".join(words[i] for i in drawn),
        method=GCG(unit="word", predictor="mixture", search_width=32, positions=2),
        budget=Budget(forward_passes=options.budget),
        options=RunOptions(seed=index),
    )


def judge(setup: Setup, texts: list[str]) -> np.ndarray:
    """The classifier's probability of the label."""
    logits = setup.classifier.encode_texts([text.strip() for text in texts]).logits
    found: np.ndarray = logits.softmax(-1)[:, setup.classifier.label_id(setup.label)].numpy()
    return found


def measure(setup: Setup) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """Run both settings on every text."""
    rows, runs = [], []
    for positive in (False, True):
        begin = time.perf_counter()
        results = [run(setup, i, positive=positive) for i in range(len(setup.texts))]
        seconds = (time.perf_counter() - begin) / len(results)
        texts = [result.text for result in results]
        labels = setup.classifier.encode_texts([text.strip() for text in texts]).logits.argmax(-1)
        rate = float((labels == setup.classifier.label_id(setup.label)).float().mean())
        name = "fluency + similarity" + (" + positive" if positive else "")
        rows.append(
            row(
                name,
                seconds,
                "",
                None,
                positive_rate=rate,
                positive_probability=float(judge(setup, texts).mean()),
                similarity=1.0 - float(np.mean([r.losses["text"] for r in results])),
                nll_a_token=float(np.mean([r.losses["fluency"] for r in results])),
                example=texts[0].strip(),
            )
        )
        runs.append(results)
        print(f"{name}: positive {rate:.2f}", file=sys.stderr, flush=True)
    return rows, runs


def plot(setup: Setup, runs: list[list[Any]], path: Path) -> None:
    """Draw every prompt of both Pareto fronts: similarity against the label's probability."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for results, colour, name in zip(
        runs, ("#7a7a7a", "#0b6e4f"), ("two objectives", "with the label"), strict=True
    ):
        front = [point for result in results for point in result.pareto]
        similarity = [1.0 - point.losses["text"] for point in front]
        axes.scatter(
            similarity, judge(setup, [p.text for p in front]), s=6, alpha=0.25, color=colour
        )
        best = [1.0 - result.losses["text"] for result in results]
        axes.scatter(best, judge(setup, [r.text for r in results]), s=34, color=colour, label=name)
    axes.set(xlabel="similarity to the target text", ylabel=f"probability of '{setup.label}'")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def prepare(options: Any, folder: Path) -> Setup:
    """Load the models, build the adapters, draw the texts."""
    from fuse_index import Adapter, build_bundle, load_model
    from fuse_index.demo import DemoModel, Split, corpus, model_name, write_corpus

    demo = options.lm is None
    lm = load_model(options.lm or model_name(DemoModel.LM))
    classifier = load_model(options.classifier or model_name(DemoModel.SENTIMENT))
    if demo:
        encoder = load_model(model_name(DemoModel.CLIP))
        path = write_corpus(folder / "corpus.txt", scenes=400)
        lines = [sentence.text for sentence in corpus(Split.TEST, 400)]
    else:
        encoder = load_model(options.encoder, kind="encoder")
        path = Path(options.corpus)
        lines = path.read_text(encoding="utf-8").splitlines()
    adapters = tuple(
        Adapter.from_pretrained(build_bundle(lm.name, model.name, folder / name, [path]).path)
        for name, model in (("encoder", encoder), ("classifier", classifier))
    )
    lines = [line.strip() for line in lines if 6 <= len(line.split()) <= 12]
    texts = [
        lines[i] for i in np.random.default_rng(3).choice(len(lines), options.texts, replace=False)
    ]
    return Setup(lm, encoder, classifier, adapters, texts, options.label, options)


def main() -> int:
    """Run the benchmark."""
    arguments = parser(__doc__)
    for name in ("lm", "encoder", "classifier", "corpus"):
        arguments.add_argument(f"--{name}", help="see above; by default the packaged demo")
    arguments.add_argument("--label", default="positive")
    arguments.add_argument("--texts", type=int, default=20)
    arguments.add_argument("--words", type=int, default=9, help="words of a prompt")
    arguments.add_argument("--budget", type=int, default=1500, help="forward passes of a run")
    arguments.add_argument("--fluency", type=float, default=0.03, help="weight of fluency")
    arguments.add_argument("--positive", type=float, default=0.1, help="weight of the label")
    arguments.add_argument("--plot", type=Path, help="picture of the Pareto fronts")
    options = arguments.parse_args()
    given = [getattr(options, n) is not None for n in ("lm", "encoder", "classifier", "corpus")]
    if any(given) and not all(given):
        arguments.error("--lm, --encoder, --classifier and --corpus go together")
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(options, Path(folder))
        rows, runs = measure(setup)
        if options.plot:
            plot(setup, runs, options.plot)
    two, three = rows
    publish(
        "bench_composition",
        rows,
        options.json,
        ("transformers",),
        texts=len(setup.texts),
        budget=options.budget,
        positive_rate_rises_by_points=100 * (three["positive_rate"] - two["positive_rate"]),
        similarity_falls_by_percent=100 * (1 - three["similarity"] / two["similarity"]),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
