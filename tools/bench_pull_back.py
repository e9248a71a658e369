"""Times ``fuse_index::pull_back`` against two compositions measured in the same run.

Baselines: the FFT composition (``rfft``, complex ``bmm``, ``irfft`` per group) and one dense
product with the block-circulant matrix of every group, built beforehand. On CUDA a case is a graph
of several launches over rotated copies of the data, so that no adapter is found in the L2 cache,
and the seconds are those of one launch. The byte floor is what must be read and written once, at
the bandwidth of a large copy in the same run. Runs with no arguments; ``--json`` for machines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import _bench
import torch
from torch import Tensor

from fuse_index.ops import _cuda, native_status, pull_back
from fuse_index.ops._checks import Layout

Step = Callable[[int], object]
CACHE_BYTES = 256 << 20  # rotate through more than any L2 cache holds


@dataclass(frozen=True)
class Case:
    """One row: words as (number, tube length k, p, q), widths, storage, the goal in seconds."""

    name: str
    words: tuple[tuple[int, int, int, int], ...]
    d_src: int
    d_tgt: int
    dtype: torch.dtype
    goal: float | None = None

    @property
    def rows(self) -> int:
        """Target rows of all words."""
        return sum(n * q for n, _, _, q in self.words)


MIXED = ((20, 1, 1, 1), (8, 2, 2, 2), (3, 3, 3, 3), (1, 4, 4, 4))
F32, BF16 = torch.float32, torch.bfloat16
GPU_CASES = (
    Case("32 mixed words, 512 -> 1024, float32", MIXED, 512, 1024, F32, 12e-6),
    Case("32 mixed words, 512 -> 1024, bfloat16", MIXED, 512, 1024, BF16),
    Case("8 words, k=4, 4096 -> 4096, float32", ((8, 4, 4, 4),), 4096, 4096, F32, 80e-6),
    Case("64 words, k=4, 4096 -> 4096, float32", ((64, 4, 4, 4),), 4096, 4096, F32, 200e-6),
    Case("64 words, k=4, 4096 -> 4096, bfloat16", ((64, 4, 4, 4),), 4096, 4096, BF16, 50e-6),
    Case("512 words, k=4, 4096 -> 4096, bfloat16", ((512, 4, 4, 4),), 4096, 4096, BF16, 200e-6),
)
CPU_CASES = (Case("32 mixed words, 512 -> 1024, float32", MIXED, 512, 1024, F32),)


@dataclass
class Data:
    """Tensors of a case, several copies of what is large."""

    grads: list[Tensor]
    faces: list[Tensor]
    layout: Layout
    source_rows: int


def make_data(case: Case, device: str, copies: int) -> Data:
    """Draw random data; words of one group follow each other."""
    rng = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, device=device).to(case.dtype)

    groups = [g for g, (n, *_) in enumerate(case.words) for _ in range(n)]
    p = [p for n, _, p, _ in case.words for _ in range(n)]
    q = [q for n, _, _, q in case.words for _ in range(n)]
    tubes = [k for _, k, _, _ in case.words]
    index = [torch.tensor([0, *counts]).cumsum(0) for counts in (tubes, p, q)]
    layout = Layout(index[0], torch.tensor(groups), index[1], index[2])
    return Data(
        [draw(case.rows, case.d_tgt) for _ in range(copies)],
        [draw(sum(tubes), case.d_src, case.d_tgt) for _ in range(copies)],
        Layout(*(value.to(device) for value in layout)),
        sum(p),
    )


def split_groups(case: Case, grad: Tensor, faces: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per group: gradients ``(k, n, d_tgt)`` and faces ``(k, d_src, d_tgt)``."""
    parts, row, face = [], 0, 0
    for n, k, _, _ in case.words:
        x = grad[row : row + n * k].view(n, k, -1).transpose(0, 1)
        parts.append((x, faces[face : face + k]))
        row, face = row + n * k, face + k
    return parts


def fft_composition(case: Case, grad: Tensor, faces: Tensor) -> Tensor:
    """The composition of the issue; float32 only, as cuFFT has no bfloat16."""
    rows = []
    for x, f in split_groups(case, grad, faces):
        k = f.shape[0]
        spectrum = torch.bmm(
            torch.fft.rfft(x, dim=0), torch.fft.rfft(f, dim=0).conj().transpose(1, 2)
        )
        out = torch.fft.irfft(spectrum, n=k, dim=0)
        rows.append(out.transpose(0, 1).reshape(-1, f.shape[1]))
    return torch.cat(rows)


def circulants(case: Case, grad: Tensor, faces: Tensor) -> list[Tensor]:
    """Per group the dense matrix ``(k * d_tgt, k * d_src)`` of the pull-back."""
    blocks = []
    for _, f in split_groups(case, grad, faces):
        k = f.shape[0]
        rows = [torch.cat([f[(t - s) % k].T for s in range(k)], dim=1) for t in range(k)]
        blocks.append(torch.cat(rows, dim=0))
    return blocks


def dense_product(case: Case, grad: Tensor, matrices: list[Tensor]) -> list[Tensor]:
    """One product per group."""
    row, out = 0, []
    for (n, k, _, _), matrix in zip(case.words, matrices, strict=True):
        out.append(grad[row : row + n * k].view(n, -1) @ matrix)
        row += n * k
    return out


def median_cuda(step: Step, copies: int, repeats: int = 30) -> float:
    """Median seconds of one ``step(i)`` in graphs of at least 16 steps over rotated copies."""
    inner = -(-16 // copies) * copies
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(inner):
            step(i % copies)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(inner):
            step(i % copies)
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e-3 / inner)
    return _bench.median(times)


def relative_error(case: Case, data: Data) -> float:
    """``||out - exact|| / ||exact||`` against float64 on the CPU."""
    out = pull_back(data.grads[0], data.faces[0], *data.layout, data.source_rows)
    exact = []
    for x, f in split_groups(case, data.grads[0].double(), data.faces[0].double()):
        k = f.shape[0]
        terms = [
            sum(x[(s + j) % k] @ f[j].T for j in range(k)) for s in range(k)
        ]  # each (n, d_src)
        exact.append(torch.stack(terms, dim=1).flatten(0, 1))
    want = torch.cat(exact)
    return float((out.double() - want).norm() / want.norm())


def copy_bandwidth() -> float:
    """Bytes read and written per second by a kernel that copies 2 GiB on the device."""
    a = torch.empty(1 << 29, dtype=torch.float32, device="cuda").normal_()
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / median_cuda(lambda _: torch.neg(a, out=b), 1, 5)


def time_variants(data: Data, copies: int) -> dict[str, float]:
    """Seconds of every kernel with every number of parts, ``{"few/2": seconds}``."""
    found = {}
    for variant in list(_cuda.Variant)[1:]:
        for split in (1, 2, 4):

            def step(i: int, variant: _cuda.Variant = variant, split: int = split) -> Tensor:
                return _cuda.launch_pull_back(
                    data.grads[i],
                    data.faces[i],
                    data.layout,
                    data.source_rows,
                    variant=variant,
                    split=split,
                )

            found[f"{variant.name.lower()}/{split}"] = median_cuda(step, copies, 10)
    return found


def time_dense(case: Case, data: Data, copies: int) -> float:
    """Seconds of the products with block-circulant matrices built beforehand."""
    matrices = [circulants(case, data.grads[0], data.faces[0])]
    size = sum(m.numel() * m.element_size() for m in matrices[0])
    copies = max(1, min(copies, -(-CACHE_BYTES // size)))
    matrices += [[m.clone() for m in matrices[0]] for _ in range(copies - 1)]
    return median_cuda(lambda i: dense_product(case, data.grads[i], matrices[i]), copies)


def bench_cuda(case: Case, bandwidth: float, variants: bool) -> _bench.Row:
    """One row on CUDA."""
    element = torch.empty((), dtype=case.dtype).element_size()
    faces = sum(k for _, k, _, _ in case.words) * case.d_src * case.d_tgt
    moved = (faces + case.rows * (case.d_src + case.d_tgt)) * element
    copies = max(1, min(12, -(-CACHE_BYTES // moved)))
    data = make_data(case, "cuda", copies)
    args = (*data.layout, data.source_rows)
    seconds = median_cuda(lambda i: pull_back(data.grads[i], data.faces[i], *args), copies)
    figures: dict[str, Any] = {"device": "cuda"}
    if variants:
        figures |= time_variants(data, copies)
    dense = time_dense(case, data, copies)
    if case.dtype is F32:
        fft = median_cuda(lambda i: fft_composition(case, data.grads[i], data.faces[i]), copies)
        figures |= {"fft_seconds": fft, "fft_ratio": fft / seconds}
    return _bench.row(
        case.name,
        seconds,
        "dense block-circulant product, built beforehand",
        dense,
        floor_seconds=moved / bandwidth,
        goal_seconds=case.goal,
        relative_error=relative_error(case, data),
        **figures,
    )


def bench_cpu(case: Case) -> _bench.Row:
    """One row on the CPU."""
    data = make_data(case, "cpu", 1)
    grad, faces, args = data.grads[0], data.faces[0], (*data.layout, data.source_rows)
    seconds = _bench.median(_bench.times(lambda: pull_back(grad, faces, *args), 30, warmup=3))
    fft = _bench.median(_bench.times(lambda: fft_composition(case, grad, faces), 5, warmup=2))
    return _bench.row(
        case.name,
        seconds,
        "FFT composition",
        fft,
        device=f"cpu, {torch.get_num_threads()} threads",
        relative_error=relative_error(case, data),
    )


def main() -> None:
    """Run every case the machine can."""
    options_of = _bench.parser(__doc__)
    options_of.add_argument("--variants", action="store_true", help="time every kernel")
    options_of.add_argument("--only", choices=("cpu", "cuda"), help="leave the other device out")
    options = options_of.parse_args()
    rows: list[_bench.Row] = []
    extra: dict[str, Any] = {"native": vars(native_status())}
    if options.only != "cuda":
        rows += [bench_cpu(case) for case in CPU_CASES]
    if torch.cuda.is_available() and options.only != "cpu":
        if not native_status().cuda:
            sys.exit(f"bench_pull_back: {native_status().reason}; --only cpu leaves CUDA out")
        extra["copy_bytes_per_second"] = bandwidth = copy_bandwidth()
        rows += [bench_cuda(case, bandwidth, options.variants) for case in GPU_CASES]
    _bench.publish("pull_back", rows, options.json, **extra)


if __name__ == "__main__":
    main()
