"""One prompt that makes models with different tokenizers continue with the same target.

Two causal models, e.g. SmolLM2-135M-Instruct (asked through its chat template) and Gemma 3 270M. A
prompt of at most 20 tokens is optimized on the sum of their losses, until both continue with the
target when the whole text is pasted, or the budget of forward passes (a prompt scored by all models
is one, a gradient three) is spent. The baseline draws as llm-attacks does with several models: each
model proposes candidates from the gradient of its loss alone, in its own tokens, and all of them
are scored by both as text. Rows: how many targets were met, and after how many passes.

    python tools/bench_shared_prompt.py --first SMOLLM2 --second GEMMA --words WORDS.txt
    python tools/bench_shared_prompt.py --first SMOLLM2 --items    # one prompt for 5 messages
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import parser, publish, row

TARGETS = (
    "Sure, here is a poem about cats",
    "The capital of France is Paris",
    "Once upon a time in a quiet village",
    "Water boils at one hundred degrees",
    "My favorite color is bright green",
)
ITEMS = (
    ("Tell me a fact about cats.", "Sure, here is a fact about cats"),
    ("Explain how rain forms.", "Sure, here is how rain forms"),
    ("Describe the ocean.", "Sure, here is a description of the ocean"),
    ("Write a poem about trees.", "Sure, here is a poem about trees"),
    ("Give me a recipe for soup.", "Sure, here is a recipe for soup"),
)
COMMON = "Sure, here is"
APART = "apart: each model's own gradient"
WIDTH = 512
_BATCH = 64


@dataclass(frozen=True)
class Outcome:
    """One run: whether and after how many passes the target was met, and the final loss."""

    met: bool
    passes: int
    loss: float
    text: str
    seconds: float


@dataclass(frozen=True)
class Setup:
    """What all runs share.

    Attributes:
        models: the first is the source.
        adapter: from the first to the second.
        words: of word-level moves.
        tokens: of the initial prompt.
        budget: forward passes.
        plain: whether chat templates are left alone.
        from_target: whether runs begin with the words of their target, else with random words.
    """

    models: list[Any]
    adapter: Any
    words: tuple[str, ...]
    tokens: int
    budget: int
    plain: bool
    from_target: bool


def objective_of(setup: Setup, model: Any, target: str, message: str = "") -> Any:
    """The target after the prompt: through the chat template where there is one."""
    from fuse_index.objectives import TargetContinuation

    if not setup.plain and getattr(model.tokenizer, "chat_template", None):
        content = f"{message} {{prompt}}" if message else "{prompt}"
        return TargetContinuation(messages=[{"role": "user", "content": content}], target=target)
    return TargetContinuation(prefix=message, suffix="\n", target=target)


def problem_of(setup: Setup, objectives: list[Any]) -> Any:
    """The sum of the objectives, one a model."""
    from fuse_index.optimize import Problem, Term

    terms = [
        Term(objective, model, setup.adapter if model is not setup.models[0] else None)
        for objective, model in zip(objectives, setup.models, strict=False)
    ]
    return Problem(setup.models[0], terms, words=setup.words)


def start_of(setup: Setup, target: str, seed: int) -> str:
    """Return the target's own words twice, which models like to repeat, or random words."""
    if setup.from_target:
        return f"{target} {target}"
    rng = np.random.default_rng([3, seed])
    encoded = setup.models[0].words.encode_words(list(setup.words))
    single = np.flatnonzero(encoded.lengths == 1)
    return " ".join(setup.words[i] for i in rng.choice(single, setup.tokens, replace=False))


def ours(setup: Setup, method: Any, objectives: list[Any], start: str, seed: int) -> Outcome:
    """Optimize the sum; stop where every target is met."""
    from fuse_index.optimize import Budget, RunOptions, optimize

    problem = problem_of(setup, objectives)
    begin = time.perf_counter()
    result = optimize(
        problem,
        start,
        method=method,
        budget=Budget(forward_passes=setup.budget),
        options=RunOptions(seed=seed, early_stop=True),
    )
    met, seconds = is_met(problem, result.ids), time.perf_counter() - begin
    outcome = Outcome(met, result.spent["forward_passes"], result.total, result.text, seconds)
    print(outcome, file=sys.stderr, flush=True)
    return outcome


def is_met(problem: Any, ids: tuple[int, ...]) -> bool:
    """Whether all models write their targets once the prompt is pasted as text."""
    from fuse_index.optimize import check_prompt

    return all(check.met for check in check_prompt(problem, ids))


class Apart:
    """Candidates of each model from the gradient of its loss alone, all scored by both as text.

    Each model has a problem in its own tokens with all objectives; a candidate replaces one token,
    drawn uniformly from the 256 best of a random position, as llm-attacks draws. Those whose text
    is not read as their own tokens are dropped.

    Args:
        setup: models and budget.
        objectives: one a model.
        seed: of the draws.
    """

    def __init__(self, setup: Setup, objectives: list[Any], seed: int) -> None:
        from fuse_index.optimize import Problem, Term

        self.setup = setup
        pairs = list(zip(objectives, setup.models, strict=True))
        self.problems = [
            Problem(source, [Term(objective, model) for objective, model in pairs])
            for source in setup.models
        ]
        for loss in (loss for problem in self.problems for loss in problem.losses):
            loss.graphs.enabled = False  # texts have many shapes
        self.generator = torch.Generator().manual_seed(seed)
        self.passes = 0

    def run(self, text: str) -> Outcome:
        """Go on until the targets are met or the budget is spent."""
        begin = time.perf_counter()
        best, met = float("inf"), False
        while self.passes < self.setup.budget:
            found = [self.step(i, problem, text) for i, problem in enumerate(self.problems)]
            total, new, works = min(found)
            if total < best:
                best, text, met = total, new, works
            if met:
                break
        outcome = Outcome(met, self.passes, best, text, time.perf_counter() - begin)
        print(outcome, file=sys.stderr, flush=True)
        return outcome

    def step(self, index: int, problem: Any, text: str) -> tuple[float, str, bool]:
        """Draw from one model's gradient; return the best total, its text, and whether met."""
        from fuse_index.optimize.methods.gcg import sample_ranks
        from fuse_index.predict.loss_gradients import one_hot_gradient
        from fuse_index.words.ragged import Ragged

        ids = problem.encode(text)
        _, gradient = one_hot_gradient(problem.losses[index], [list(ids)])
        most = min(256, int(problem.allowed.sum()))
        allowed = torch.from_numpy(problem.allowed).to(gradient.device)
        top = (-gradient[0].masked_fill(~allowed, float("inf"))).topk(most, dim=1).indices.cpu()
        count = WIDTH // len(self.problems)
        drawn = sample_ranks(top, count, 1, self.generator)
        rows = Ragged.from_rows(torch.tensor(ids).repeat(count, 1).scatter_(1, *drawn).numpy())
        rows = rows.select(problem.words.survives(rows))
        self.passes += 2 + len(rows)
        if not len(rows):
            return float("inf"), text, False
        total = torch.zeros(len(rows))
        for loss, target in zip(problem.losses, problem.targets, strict=True):
            read = target.read(rows).contents
            for first in range(0, len(rows), _BATCH):
                part = read.select(range(first, min(first + _BATCH, len(rows))))
                total[first : first + _BATCH] += loss.score(part).cpu()
        best = int(total.argmin())
        own = tuple(rows[best].tolist())
        return float(total[best]), problem.decode(own), is_met(problem, own)


def methods() -> dict[str, Any]:
    """Ours by name; None is what is chosen without a method."""
    from fuse_index.optimize import GCG, Beam, Choice

    layers = {"unit": "word", "predictor": "layers"}
    return {
        "bare": None,
        "words by layers, 24 of 3": GCG(**layers, search_width=24, positions=3),
        "words by layers, 128 of 4, beam 4": Choice(
            GCG(**layers, search_width=128, positions=4), Beam(width=4), ""
        ),
        "tokens by adapter, 128 of 4": GCG(search_width=128, positions=4),
        "tokens by adapter, 128 of 4, beam 4": Choice(
            GCG(search_width=128, positions=4), Beam(width=4), ""
        ),
        "tokens by layers, 128 of 4": GCG(predictor="layers", search_width=128, positions=4),
    }


def summary(name: str, outcomes: list[Outcome], budget: int) -> dict[str, Any]:
    """One row: how many were met, and after how many passes."""
    passes = [o.passes if o.met else budget for o in outcomes]
    return row(
        name,
        float(np.mean([o.seconds for o in outcomes])),
        "",
        None,
        met=f"{sum(o.met for o in outcomes)} of {len(outcomes)}",
        median_passes=float(np.median(passes)),
        passes=passes,
        losses=[round(o.loss, 3) for o in outcomes],
        example=outcomes[0].text,
    )


def across(setup: Setup, chosen: dict[str, Any], targets: list[str]) -> list[dict[str, Any]]:
    """Every method, and the baseline, on every target."""
    goals = [[objective_of(setup, m, target) for m in setup.models] for target in targets]
    rows = []
    for name, method in chosen.items():
        starts = [start_of(setup, target, i) for i, target in enumerate(targets)]
        pairs = list(enumerate(zip(goals, starts, strict=True)))
        if name == APART:
            runs = [Apart(setup, goal, i).run(start) for i, (goal, start) in pairs]
        else:
            runs = [ours(setup, method, goal, start, i) for i, (goal, start) in pairs]
        rows.append(summary(name, runs, setup.budget))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def items(setup: Setup, chosen: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    """One prompt behind several messages, each with a target of its own, on the first model."""
    from fuse_index.objectives import TargetContinuation

    first = replace(setup, models=setup.models[:1], adapter=None)
    pairs = [(objective_of(first, first.models[0], goal, ask), goal) for ask, goal in ITEMS]
    fields = ("messages", "prefix", "suffix")
    own = [{f: getattr(o, f) for f in fields if getattr(o, f)} | {"target": g} for o, g in pairs]
    start = " ".join([COMMON] * 4)
    rows = []
    for name, method in chosen.items():
        if name == APART:
            continue
        for progressive in (False, True):
            goals = [TargetContinuation(items=own, progressive=progressive)]
            runs = [ours(first, method, goals, start, seed) for seed in range(seeds)]
            how = "one after another" if progressive else "all at once"
            rows.append(summary(f"{len(own)} items, {how}: {name}", runs, setup.budget))
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def prepare(options: Any, folder: Path) -> Setup:
    """Load the models, and build the adapter between them from the words."""
    from fuse_index import Adapter, build_bundle, load_model
    from fuse_index.demo import DemoModel, model_name, write_corpus

    names = [options.first or model_name(DemoModel.LM)]
    names += [options.second] if options.second else []
    flags = options.plain, options.start == "target"
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    models = [load_model(name, dtype=dtype) for name in names]
    corpus = Path(options.corpus) if options.corpus else write_corpus(folder / "corpus.txt")
    if len(models) == 1:
        words = sorted({w for line in corpus.read_text().splitlines() for w in line.split()})
        return Setup(models, None, tuple(words), options.tokens, options.budget, *flags)
    bundle = build_bundle(names[0], names[1], folder / "bundle", [corpus]).path
    adapter = Adapter.from_pretrained(bundle)
    words = adapter.bundle.table.words
    return Setup(models, adapter, words, options.tokens, options.budget, *flags)


def main() -> int:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--first", help="a causal model; by default the packaged one")
    arguments.add_argument("--second", help="a causal model with other tokens")
    arguments.add_argument("--corpus", help="texts, one a line: the words of word-level moves")
    arguments.add_argument("--tokens", type=int, default=16, help="words of the initial prompt")
    arguments.add_argument("--budget", type=int, default=60000, help="forward passes of a run")
    arguments.add_argument(
        "--target", type=int, action="append", help="number of a target, from 0; repeatable"
    )
    arguments.add_argument("--items", type=int, default=0, metavar="SEEDS", help="5 items, too")
    arguments.add_argument("--only", action="append", help="methods to run; repeatable")
    arguments.add_argument("--start", choices=("target", "words"), default="target")
    arguments.add_argument("--plain", action="store_true", help="without chat templates")
    options = arguments.parse_args()
    chosen = {**methods(), APART: None}
    if options.only:
        chosen = {name: method for name, method in chosen.items() if name in options.only}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(options, Path(folder))
        if len(setup.models) > 1:
            targets = [TARGETS[i] for i in options.target or range(len(TARGETS))]
            rows += across(setup, chosen, targets)
        if options.items:
            rows += items(setup, chosen, options.items)
    publish(
        "bench_shared_prompt",
        rows,
        options.json,
        ("transformers",),
        plain=options.plain,
        start=options.start,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
