"""The time and memory of a GCG step on large language models with random weights.

Llama-3.1-8B's configuration in bfloat16 (or a smaller one), a message of 100 tokens, a prompt of
20, a target of 20, 512 candidates. One model: beside nanoGCG 0.3.0 on the same network, in one run,
with the same options. Two models with different tokenizers: the step, and the share of it that is
neither model's passes, measured with a synchronization around every part. Memory is the most that
CUDA had allocated. The tokenizers are folders, or the packaged demo models'.

    python tools/bench_size.py --tokenizer A --tokenizer B       # the second for the second model
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from _bench import median, parser, publish, row
from bench_step import Parts

# Layers, width, width inside, heads, heads of keys and values, rows of the embedding table.
SIZES = {
    "8b": (32, 4096, 14336, 32, 8, 128256),
    "1.5b": (28, 1536, 8960, 12, 2, 151936),
    "135m": (30, 576, 1536, 9, 3, 49152),
    "tiny": (2, 64, 128, 4, 2, 1024),
}


@dataclass(frozen=True)
class Task:
    """What a step is asked for.

    Attributes:
        message: text before the prompt.
        start: ids of the initial prompt, in the tokens of the first model.
        target: text that is to follow.
        candidates: of a step.
    """

    message: str
    start: tuple[int, ...]
    target: str
    candidates: int


def load_tokenizers(folders: list[str], count: int) -> list[Any]:
    """Load the tokenizers in folders, and the packaged ones where there are too few."""
    import transformers

    from fuse_index.demo import DemoModel, model_name

    packaged = [model_name(model) for model in (DemoModel.LM, DemoModel.SENTIMENT, DemoModel.LM)]
    names = [*folders, *packaged[len(folders) :]][:count]
    found = [transformers.AutoTokenizer.from_pretrained(name) for name in names]
    for tokenizer in found:
        tokenizer.chat_template = None  # all read message and prompt as plain text
    return found


def make_model(size: str, tokenizer: Any, device: str, seed: int) -> Any:
    """Make a network with random weights on the device, as people hold one in memory."""
    import transformers

    layers, width, inside, heads, shared, rows = SIZES[size]
    config = transformers.LlamaConfig(
        vocab_size=max(rows, len(tokenizer)),
        hidden_size=width,
        intermediate_size=inside,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def text_of(words: Any, allowed: torch.Tensor, tokens: int, seed: int) -> tuple[int, ...]:
    """Draw whole-word tokens whose text is cut into them again."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(1000):
        drawn = allowed[torch.randint(len(allowed), (tokens,), generator=generator)].tolist()
        if list(words.encode_text(words.decode(drawn))) == drawn:
            return tuple(drawn)
    raise SystemExit("bench_size: no text of random words survives this tokenizer")


def make_task(model: Any, options: Any) -> Task:
    """Draw message, prompt and target in the tokens of the first model."""
    from fuse_index.optimize import TokenFilter

    whole = torch.from_numpy(TokenFilter(words_only=True).allowed(model)).nonzero()[:, 0]
    lengths = (options.message, options.prompt, options.target)
    drawn = [text_of(model.words, whole, n, seed) for seed, n in enumerate(lengths)]
    message, target = (model.words.decode(list(ids)) for ids in (drawn[0], drawn[2]))
    return Task(message, drawn[1], target, options.candidates)


def make_run(models: list[Any], task: Task) -> Any:
    """Our GCG with the options of nanoGCG, on one model or the sum of several."""
    from fuse_index.objectives import TargetContinuation
    from fuse_index.optimize import GCG, Greedy, Problem, Run, RunOptions, Term

    objective = TargetContinuation(prefix=task.message, target=task.target)
    terms = [Term(objective, model, adapter_of(models[0], model)) for model in models]
    problem = Problem(models[0], terms)
    method = GCG(search_width=task.candidates, top_k=256, draw="uniform", positions=0, memory=0)
    return Run(
        problem, [task.start], method=method, search=Greedy(keep_current=True), options=RunOptions()
    )


def adapter_of(source: Any, target: Any) -> Any:
    """An adapter of random numbers; None between models of the same tokens."""
    from fuse_index import Adapter

    if source.words.fingerprint == target.words.fingerprint:
        return None
    generator = torch.Generator().manual_seed(0)
    faces = {
        f"{p}x{q}": 0.03 * torch.randn(max(p, q), source.width, target.width, generator=generator)
        for p in range(1, 4)
        for q in range(1, 4)
    }
    faces["fallback"] = 0.03 * torch.randn(1, source.width, target.width, generator=generator)
    return Adapter(faces)


def timed(step: Callable[[], Any], steps: int, warmup: int, device: str) -> tuple[float, float]:
    """Return the median seconds of a step, and the most memory allocated, in bytes."""
    cuda = device.startswith("cuda")
    seconds = []
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for index in range(steps + warmup):
        begin = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if index >= warmup:
            seconds.append(time.perf_counter() - begin)
    return median(seconds), float(torch.cuda.max_memory_allocated()) if cuda else float("nan")


def nanogcg_steps(network: Any, tokenizer: Any, task: Task, prompt: str, steps: int) -> float:
    """Return the median seconds of a step of nanoGCG, timed at its candidates' losses."""
    import nanogcg.gcg as module

    clock: list[float] = []
    inner = module.GCG.compute_token_gradient

    def timing(self: Any, ids: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock.append(time.perf_counter())
        return inner(self, ids)

    config = module.GCGConfig(
        num_steps=steps + 2,
        optim_str_init=prompt,
        search_width=task.candidates,
        topk=256,
        seed=0,
        use_prefix_cache=False,
        verbosity="ERROR",
    )
    module.GCG.compute_token_gradient = timing
    try:
        module.GCG(network, tokenizer, config).run(task.message, task.target)
    finally:
        module.GCG.compute_token_gradient = inner
    return median([after - before for before, after in pairwise(clock[1:])])


def beside_nanogcg(network: Any, model: Any, task: Task, options: Any, size: str) -> dict[str, Any]:
    """One model: a step of ours and of nanoGCG, and the memory of both."""
    run = make_run([model], task)
    own, memory = timed(run.step, options.steps, options.warmup, options.device)
    del run
    prompt = model.words.decode(list(task.start))
    theirs: float | None = None
    their_memory = float("nan")
    try:
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        theirs = nanogcg_steps(network, model.tokenizer, task, prompt, options.steps)
        if options.device.startswith("cuda"):
            their_memory = float(torch.cuda.max_memory_allocated())
    except ImportError as error:
        print(f"{error}: pip install --no-deps nanogcg==0.3.0 tqdm scipy", file=sys.stderr)
    return row(
        f"{size}, {task.candidates} candidates",
        own,
        "nanoGCG 0.3.0",
        theirs,
        memory_gb=memory / 1e9,
        their_memory_gb=their_memory / 1e9,
        share_of_their_time=None if theirs is None else own / theirs,
    )


def synchronized(run: Any, steps: int, device: str) -> tuple[float, float]:
    """Return the seconds of a step with a synchronization around the passes, and those of them."""
    parts = Parts(torch.device(device))
    for loss in run.problem.losses:
        parts.wrap(loss.graphs, "run", "passes")
    parts.begin()
    for _ in range(steps):
        run.step()
        with parts.within("everything else"):
            pass
    return sum(parts.seconds.values()) / steps, parts.seconds.get("passes", 0.0) / steps


def two_models(models: list[Any], task: Task, options: Any) -> dict[str, Any]:
    """Two models: a step, and what of it is neither model's passes."""
    run = make_run(models, task)
    plain, memory = timed(run.step, options.steps, options.warmup, options.device)
    total, passes = synchronized(run, options.steps, options.device)
    return row(
        f"two of {options.size}, different tokenizers, {options.candidates} candidates",
        plain,
        "",
        None,
        synchronized_step=total,
        neither_models=1.0 - passes / total,
        memory_gb=memory / 1e9,
    )


def main() -> int:
    """Run the benchmark."""
    from fuse_index import wrap_model

    arguments = parser(__doc__)
    cuda = torch.cuda.is_available()
    arguments.add_argument("--size", choices=SIZES, default="8b" if cuda else "tiny")
    arguments.add_argument("--device", default="cuda" if cuda else "cpu")
    arguments.add_argument("--tokenizer", action="append", default=[], help="folder; repeatable")
    arguments.add_argument("--message", type=int, default=100, help="tokens before the prompt")
    arguments.add_argument("--prompt", type=int, default=20, help="tokens of the prompt")
    arguments.add_argument("--target", type=int, default=20, help="tokens of the target")
    arguments.add_argument("--candidates", type=int, default=512)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--warmup", type=int, default=6, help="steps before the clock")
    options = arguments.parse_args()
    tokenizers = load_tokenizers(options.tokenizer, 2)
    network = make_model(options.size, tokenizers[0], options.device, 0)
    first = wrap_model(network, tokenizers[0], name=f"{options.size}, first")
    task = make_task(first, options)
    rows = [beside_nanogcg(network, first, task, options, options.size)]
    print(rows[0], file=sys.stderr, flush=True)
    second = make_model(options.size, tokenizers[1], options.device, 1)
    models = [first, wrap_model(second, tokenizers[1], name=f"{options.size}, second")]
    rows.append(two_models(models, task, options))
    publish("bench_size", rows, options.json, ("transformers", "nanogcg"), device=options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
