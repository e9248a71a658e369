"""Compare GCG with nanoGCG 0.3.0: the same losses with the same draws, and the time of a step.

Needs nanoGCG beside this package: pip install --no-deps nanogcg==0.3.0, with tqdm and scipy.
Three parts, on one causal model (the packaged one, or --model):

* parity: one seed, the same draws, filters off: the largest difference of the losses of 20 steps;
* speed: full options at equal search width, in alternating pairs: the median time of a step;
* quality: after equal forward passes, over several seeds: the best loss of each.

nanoGCG's prefix cache fails on current transformers, so it runs with use_prefix_cache=False.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

from _bench import median, parser, publish, row

MESSAGE = "a small red circle is above a large blue square and there is a green"
START = "x x x x x x x x x x x x x x x x x x x x"
TARGET = " star below the happy yellow triangle"


@dataclass(frozen=True)
class Setup:
    """What both are asked for.

    Attributes:
        model: a causal model.
        message: text before the prompt.
        start: the initial prompt.
        target: what shall follow.
        search_width: candidates of a step.
        top_k: tokens of a position that they are drawn from.
    """

    model: Any
    message: str
    start: str
    target: str
    search_width: int
    top_k: int


@dataclass(frozen=True)
class Outcome:
    """What one run gave: the losses of its steps, seconds, and prompts scored."""

    losses: list[float]
    seconds: float
    forward_passes: int


def nanogcg(setup: Setup, steps: int, seed: int, filters: bool) -> Outcome:
    """Run nanoGCG; its candidates are counted where it has filtered them."""
    import nanogcg.gcg as module

    counted: list[int] = []
    inner = module.GCG._compute_candidates_loss_original

    def counting(self: Any, batch: int, embeds: Any) -> Any:
        counted.append(len(embeds))
        return inner(self, batch, embeds)

    config = module.GCGConfig(
        num_steps=steps,
        optim_str_init=setup.start,
        search_width=setup.search_width,
        topk=setup.top_k,
        seed=seed,
        use_prefix_cache=False,
        filter_ids=filters,
        verbosity="ERROR",
    )
    module.GCG._compute_candidates_loss_original = counting
    try:
        begin = time.perf_counter()
        optimizer = module.GCG(setup.model.module, setup.model.tokenizer, config)
        result = optimizer.run(setup.message, setup.target)
        seconds = time.perf_counter() - begin
    finally:
        module.GCG._compute_candidates_loss_original = inner
    return Outcome(result.losses, seconds, sum(counted) + 2 * steps)


def ours(
    setup: Setup,
    *,
    steps: int | None,
    seed: int,
    filters: bool,
    keep_current: bool,
    forward_passes: int | None = None,
) -> Outcome:
    """Run our GCG on the same problem, with the published options."""
    from fuse_index.objectives import TargetContinuation
    from fuse_index.optimize import GCG, Budget, Greedy, Problem, RunOptions, Term, optimize

    words = setup.model.words
    objective = TargetContinuation(target=setup.target, prefix=setup.message)
    problem = Problem(setup.model, [Term(objective, setup.model)])
    begin = time.perf_counter()
    result = optimize(
        problem,
        [words.encode_text(setup.start)],
        method=GCG(
            search_width=setup.search_width,
            top_k=setup.top_k,
            draw="uniform",
            positions=0,
            memory=0,
        ),
        search=Greedy(keep_current=keep_current),
        budget=Budget(steps=steps, forward_passes=forward_passes),
        options=RunOptions(seed=seed, check_retokenization=filters),
    )
    seconds = time.perf_counter() - begin
    losses = [point.total for point in result.trajectory[1:]]
    return Outcome(losses, seconds, result.spent["forward_passes"])


def parity(setup: Setup, steps: int, seed: int) -> dict[str, Any]:
    """Compare the losses of every step with the same draws."""
    theirs = nanogcg(setup, steps, seed, filters=False)
    own = ours(setup, steps=steps, seed=seed, filters=False, keep_current=False)
    gap = max(abs(a - b) for a, b in zip(theirs.losses, own.losses, strict=True))
    return row(
        f"parity: {steps} steps, seed {seed}, same draws",
        own.seconds,
        "nanoGCG 0.3.0",
        theirs.seconds,
        largest_loss_difference=gap,
        first_loss=own.losses[0],
        last_loss=own.losses[-1],
    )


def speed(setup: Setup, pairs: int, steps: int) -> dict[str, Any]:
    """Time a step with all options on, in alternating pairs."""
    seconds: list[tuple[float, float]] = []
    for pair in range(pairs):
        theirs = nanogcg(setup, steps, pair, filters=True)
        own = ours(setup, steps=steps, seed=pair, filters=True, keep_current=True)
        seconds.append((own.seconds / steps, theirs.seconds / steps))
    ratios = [own / theirs for own, theirs in seconds]
    return row(
        f"speed: a step, search width {setup.search_width}, median of {pairs} pairs",
        median([own for own, _ in seconds]),
        "nanoGCG 0.3.0",
        median([theirs for _, theirs in seconds]),
        share_of_their_time=median(ratios),
    )


def quality(setup: Setup, seeds: int, steps: int) -> dict[str, Any]:
    """Compare the best losses after equal forward passes."""
    pairs = []
    seconds = []
    for seed in range(seeds):
        theirs = nanogcg(setup, steps, 100 + seed, filters=True)
        own = ours(
            setup,
            steps=None,
            seed=100 + seed,
            filters=True,
            keep_current=True,
            forward_passes=theirs.forward_passes,
        )
        pairs.append((min(own.losses), min(theirs.losses)))
        seconds.append((own.seconds, theirs.seconds))
    return row(
        f"quality: {seeds} seeds, as many forward passes as {steps} steps of nanoGCG",
        median([own for own, _ in seconds]),
        "nanoGCG 0.3.0",
        median([theirs for _, theirs in seconds]),
        mean_loss=sum(own for own, _ in pairs) / seeds,
        their_mean_loss=sum(theirs for _, theirs in pairs) / seeds,
        losses=[[round(value, 4) for value in pair] for pair in pairs],
    )


def main() -> int:
    """Run the comparison."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", help="a causal model; by default the packaged one")
    arguments.add_argument("--message", default=MESSAGE, help="text before the prompt")
    arguments.add_argument("--target", default=TARGET, help="what shall follow the prompt")
    arguments.add_argument("--width", type=int, default=512, help="candidates of a step")
    arguments.add_argument("--pairs", type=int, default=5, help="pairs of timed runs")
    arguments.add_argument("--seeds", type=int, default=5, help="seeds of the quality part")
    options = arguments.parse_args()
    try:
        import nanogcg  # noqa: F401
    except ImportError as error:
        print(f"{error}: pip install --no-deps nanogcg==0.3.0 tqdm scipy", file=sys.stderr)
        return 2
    from fuse_index import load_model
    from fuse_index.demo import DemoModel, model_name

    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    logging.getLogger("nanogcg").propagate = False
    model = load_model(options.model or model_name(DemoModel.LM))
    top_k = min(256, model.vocabulary_size // 2)
    setup = Setup(model, options.message, START, options.target, options.width, top_k)
    rows = [parity(setup, 20, 0), speed(setup, options.pairs, 5), quality(setup, options.seeds, 20)]
    publish("compare_nanogcg", rows, options.json, ("transformers", "nanogcg"), model=model.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
