"""The time of an optimization step by part, and what is not a model's forward or backward pass.

GPT-2-medium and CLIP ViT-B/32 in their real sizes with random weights, a prompt of 16 tokens, 512
candidates, fluency and likeness to an image. The tokenizers are the packaged demo models', or those
in the folders given. Parts are measured with a synchronization around each, so they do not overlap;
the median step of a plain run stands beside them. The baseline does it as the authors' prototype
does by its description: candidates pass through text, each word's gradient goes through its adapter
by FFT on the CPU, one word after another, and nothing is shared between candidates. On a GPU
the step is measured with CUDA graphs and without.

With ``--sweep`` or ``--nanogcg`` other things are measured, on causal models with random weights:
the cost of a step against the prompt's length, the candidates and the models (``--plot FILE``
draws it), and a step beside nanoGCG's at three sizes.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _bench_sweep
import torch
from _bench import median, parser, publish, row

MODEL_PARTS = ("forward: language model", "forward: CLIP", "backward", "prefix")
PASSES = ("replayed: language model", "replayed: CLIP")
"""Forward and backward passes with the losses around them, which are recorded together."""


_WARMUP = 30
"""Steps after which the shapes of batches have come often enough to be recorded."""


@dataclass
class Parts:
    """Exclusive wall time by part, synchronized at every border."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=lambda: ["everything else"])
    _since: float = 0.0

    def _switch(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        part = self._stack[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what happens inside for a part."""
        self._switch()
        self._stack.append(part)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def begin(self) -> None:
        """Forget everything and start the clock."""
        self.seconds.clear()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._since = time.perf_counter()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count every call of a function or method for a part."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)


def make_models(options: Any, folder: Path) -> tuple[Any, Any]:
    """Write both models with random weights, and load them as anyone would."""
    import transformers

    from fuse_index import load_model
    from fuse_index.demo import DemoModel, model_name

    torch.manual_seed(0)
    tokenizers = {
        "lm": options.lm_tokenizer or model_name(DemoModel.LM),
        "clip": options.clip_tokenizer or model_name(DemoModel.SENTIMENT),
    }
    large = not options.small
    lm = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=1024 if large else 64, n_layer=24 if large else 2, n_head=16 if large else 4
        )
    )
    clip = transformers.CLIPModel(
        transformers.CLIPConfig()
        if large
        else transformers.CLIPConfig(
            text_config={"num_hidden_layers": 2}, vision_config={"num_hidden_layers": 1}
        )
    )
    paths = {}
    for name, model in (("lm", lm), ("clip", clip)):
        paths[name] = folder / name
        model.save_pretrained(paths[name])
        transformers.AutoTokenizer.from_pretrained(tokenizers[name]).save_pretrained(paths[name])
    processor = transformers.CLIPImageProcessor()
    processor.save_pretrained(paths["clip"])
    dtype = getattr(torch, options.dtype)
    loaded = [load_model(str(path), device=options.device, dtype=dtype) for path in paths.values()]
    return loaded[0], loaded[1]


def make_problem(lm: Any, clip: Any) -> Any:
    """Fluency and likeness to an image, with an adapter of random numbers."""
    from PIL import Image

    from fuse_index import Adapter
    from fuse_index.objectives import Fluency, ImageSimilarity
    from fuse_index.optimize import Problem, Term

    generator = torch.Generator().manual_seed(0)
    faces = {
        f"{p}x{q}": 0.03 * torch.randn(max(p, q), lm.width, clip.width, generator=generator)
        for p in range(1, 5)
        for q in range(1, 5)
    }
    faces["fallback"] = 0.03 * torch.randn(1, lm.width, clip.width, generator=generator)
    adapter = Adapter(faces)
    image = Image.new("RGB", (224, 224), (40, 90, 160))
    fluent = Fluency(prefix="An image of", weight=1.0)
    return Problem(
        lm,
        [Term(fluent, lm), Term(ImageSimilarity(images=image, weight=22.0), clip, adapter)],
    )


def start_ids(problem: Any, tokens: int) -> tuple[int, ...]:
    """A prompt of so many tokens that survives being read as text."""
    from fuse_index.words.ragged import Ragged

    generator = torch.Generator().manual_seed(1)
    from fuse_index.optimize import TokenFilter

    whole = torch.from_numpy(TokenFilter(words_only=True).allowed(problem.source)).nonzero()[:, 0]
    while True:
        drawn = whole[torch.randint(0, len(whole), (tokens,), generator=generator)].tolist()
        if problem.words.survives(Ragged.from_lists([drawn]))[0]:
            return tuple(drawn)


def make_run(problem: Any, options: Any, batch: int | None, *, graphs: bool) -> Any:
    """A run that is ready for its first step."""
    from fuse_index.optimize import GCG, Greedy, Run, RunOptions

    return Run(
        problem,
        [start_ids(problem, options.tokens)],
        method=GCG(
            search_width=options.candidates, top_k=256, draw="uniform", positions=0, memory=0
        ),
        search=Greedy(keep_current=False),
        options=RunOptions(batch_size=batch, cuda_graphs=graphs),
    )


def instrument(run: Any, parts: Parts, lm: Any, clip: Any) -> None:
    """Wrap everything that has a name of its own."""
    from fuse_index.predict import gradients
    from fuse_index.predict.target import Target

    if run.options.cuda_graphs:  # inside a recording nothing can be told apart
        for loss, part in zip(run.problem.losses, PASSES, strict=True):
            parts.wrap(loss.graphs, "run", part)
    else:
        parts.wrap(lm, "forward", MODEL_PARTS[0])
        parts.wrap(lm, "prefill", MODEL_PARTS[3])
        parts.wrap(clip, "forward", MODEL_PARTS[1])
        parts.wrap(gradients.torch.autograd, "grad", MODEL_PARTS[2])
        for loss in run.problem.losses:
            parts.wrap(loss, "compute", "losses around the models")
    parts.wrap(Target, "read", "retokenization")
    for loss in run.problem.losses:
        parts.wrap(loss, "batch", "batches")
    adapter = run.problem.targets[1].adapter
    parts.wrap(adapter, "pull_back", "pull-back")
    parts.wrap(adapter, "layout", "pull-back")
    parts.wrap(run.method, "propose", "gradient sums, ranking, drawing")
    parts.wrap(run, "_filtered", "filters")
    parts.wrap(run.search, "update", "choosing")
    parts.wrap(run.record, "keep", "Pareto front")
    parts.wrap(run.record, "promising", "Pareto front")
    parts.wrap(run.check, "prepare", "full-prompt check of what is kept")


def timed_steps(run: Any, device: torch.device, steps: int, warmup: int = _WARMUP) -> list[float]:
    """Wall seconds of every step."""
    seconds = []
    for step in range(steps + warmup):
        begin = time.perf_counter()
        run.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if step >= warmup:
            seconds.append(time.perf_counter() - begin)
    return seconds


class Prototype:
    """A step as the authors' description has it: through text, word by word, on the CPU."""

    def __init__(self, problem: Any, options: Any) -> None:
        self.problem = problem
        self.options = options
        self.lm, self.clip = problem.losses
        adapter = problem.targets[1].adapter
        self.groups = adapter.group_names
        self.adapter = {name: adapter[name].float().cpu() for name in self.groups}
        self.generator = torch.Generator().manual_seed(0)
        self.allowed = torch.from_numpy(problem.allowed).to(problem.source.device)

    def step(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Propose, decode, encode again, score; return the best."""
        from fuse_index.optimize.methods.gcg import sample_ranks

        scores = self.gradient(ids).masked_fill(~self.allowed, float("inf"))
        top = (-scores).topk(256, dim=1).indices.cpu()
        count = self.options.candidates
        drawn = sample_ranks(top, count, 1, self.generator)
        rows = torch.tensor(ids).repeat(count, 1).scatter_(1, *drawn)
        source, target = self.lm.model.words, self.clip.model.words
        texts = [source.decode(row) for row in rows.tolist()]
        again = [source.encode_text(text) for text in texts]
        translated = [target.encode_text(text) for text in texts]
        total = torch.zeros(len(rows))
        for loss, contents in ((self.lm, again), (self.clip, translated)):
            with torch.no_grad():
                batch = loss.batch(contents)
                table = loss.model.table().clone()
                embeds = loss.model.embed(batch.ids)
                del table
                loss_values = loss(embeds, batch)
            total += loss.objective.weight * loss_values.cpu()
        best = int(total.argmin())
        return tuple(again[best]) if len(again[best]) == len(ids) else ids

    def gradient(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Token scores, with the target's gradient taken back word by word by FFT on the CPU."""
        from fuse_index.predict.loss_gradients import embedding_gradient, one_hot_gradient
        from fuse_index.words.ragged import Ragged

        target = self.problem.targets[1]
        read = target.read(Ragged.from_lists([ids]))
        _, tokens = one_hot_gradient(self.lm, [list(ids)])
        _, packed = embedding_gradient(self.clip, read.contents)
        words, packed = read.words, packed.float().cpu()
        out = torch.zeros(len(ids), self.lm.model.width)
        chosen = target.adapter.group_of(words.source_counts, words.target_counts)
        for word, group in enumerate(chosen):
            faces = self.adapter[self.groups[group]]
            first, last = words.source_word_offsets[word : word + 2]
            begin, end = words.target_word_offsets[word : word + 2]
            size = max(len(faces), last - first, end - begin)
            padded = torch.zeros(size, faces.shape[2])
            padded[: end - begin] = packed[begin:end]
            own = torch.fft.rfft(padded[: len(faces)], dim=0)[:, None]
            adjoint = torch.fft.rfft(faces, dim=0).conj().transpose(1, 2)
            spectrum = own @ adjoint
            back = torch.fft.irfft(spectrum[:, 0], n=len(faces), dim=0)
            out[first:last] += back[: last - first]
        table = self.problem.source.table().float()
        weights = [loss.objective.weight for loss in (self.lm, self.clip)]
        return weights[0] * tokens[0] + weights[1] * (out.to(table.device) @ table.T)


def prototype_steps(problem: Any, options: Any, steps: int) -> list[float]:
    """Wall seconds of every step of the baseline."""
    prototype = Prototype(problem, options)
    ids = start_ids(problem, options.tokens)
    seconds = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        ids = prototype.step(ids)
        if problem.source.device.type == "cuda":
            torch.cuda.synchronize()
        if step:
            seconds.append(time.perf_counter() - begin)
    return seconds


def measure_parts(
    run: Any, lm: Any, clip: Any, device: torch.device, options: Any
) -> dict[str, float]:
    """Seconds of a step by part."""
    from fuse_index.predict.target import Target

    timed_steps(run, device, 1, warmup=_WARMUP)
    parts = Parts(device)
    originals = [(lm, "forward"), (lm, "prefill"), (clip, "forward"), (torch.autograd, "grad")]
    originals += [(Target, "read"), (run.problem.targets[1].adapter, "pull_back")]
    originals += [(run.problem.targets[1].adapter, "layout")]
    for loss in run.problem.losses:
        originals += [(loss, "batch"), (loss, "compute"), (loss.graphs, "run")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in originals]
    instrument(run, parts, lm, clip)
    parts.begin()
    for _ in range(options.steps):
        run.step()
        with parts.within("everything else"):
            pass
    for owner, name, function in kept:
        setattr(owner, name, function)
    return {part: seconds / options.steps for part, seconds in parts.seconds.items()}


def report(
    options: Any,
    way: tuple[int | None, bool],
    plain: list[float],
    theirs: list[float],
    parts: dict[str, float],
) -> list[dict[str, Any]]:
    """Rows of one batch size, with graphs or without: the step, and its parts."""
    batch, graphs = way
    total = sum(parts.values())
    models = sum(parts.get(part, 0.0) for part in MODEL_PARTS + PASSES)
    title = f"{options.tokens} tokens, {options.candidates} candidates, {options.dtype}"
    title += "" if batch is None else f", batches of {batch}"
    title += ", CUDA graphs" if graphs else ""
    step = row(
        f"step: {title}",
        median(plain),
        "through text, word by word",
        median(theirs),
        synchronized_step=total,
        not_the_models=1.0 - models / total,
    )
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return [step] + [
        row(f"part: {part}", seconds, "", None, share=seconds / total) for part, seconds in ordered
    ]


def main() -> int:
    """Run the benchmark."""
    arguments = parser(__doc__)
    cuda = torch.cuda.is_available()
    arguments.add_argument("--device", default="cuda" if cuda else "cpu")
    arguments.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    arguments.add_argument("--lm-tokenizer", help="folder of a causal model's tokenizer")
    arguments.add_argument("--clip-tokenizer", help="folder of CLIP's tokenizer")
    arguments.add_argument("--candidates", type=int, default=512 if cuda else 64)
    arguments.add_argument(
        "--batch", type=int, action="append", help="prompts of one forward pass; repeatable"
    )
    arguments.add_argument("--tokens", type=int, default=16, help="tokens of the prompt")
    arguments.add_argument("--steps", type=int, default=20 if cuda else 3)
    arguments.add_argument("--small", action="store_true", help="tiny models, to try it out")
    _bench_sweep.add_arguments(arguments)
    options = arguments.parse_args()
    device = torch.device(options.device)
    if options.sweep or options.nanogcg:
        return _bench_sweep.main(options)
    with tempfile.TemporaryDirectory() as folder:
        lm, clip = make_models(options, Path(folder))
        problem = make_problem(lm, clip)
        theirs = prototype_steps(problem, options, max(2, options.steps // 4))
        rows = []
        ways = [False, True] if device.type == "cuda" else [False]
        for batch, graphs in itertools.product(options.batch or [None], ways):
            run = make_run(problem, options, batch, graphs=graphs)
            parts = measure_parts(run, lm, clip, device, options)
            # after the parts, so that the allocator knows the sizes
            run = make_run(problem, options, batch, graphs=graphs)
            plain = timed_steps(run, device, options.steps)
            rows += report(options, (batch, graphs), plain, theirs, parts)
    publish("bench_step", rows, options.json, ("transformers",), device=str(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
