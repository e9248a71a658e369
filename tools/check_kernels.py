"""Launch every CUDA kernel once in every dtype and compare it with float64 on the CPU.

Small enough for NVIDIA's compute-sanitizer, whose tools slow a kernel down a hundred times:

    compute-sanitizer --tool racecheck --error-exitcode 1 python tools/check_kernels.py
    compute-sanitizer --tool memcheck --error-exitcode 1 python tools/check_kernels.py
"""

from __future__ import annotations

import argparse
import sys

import torch

from fuse_index.ops import _cuda, native_status, pull_back, t_product
from fuse_index.ops._checks import Layout

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
WORDS = [(w % 4, 1 + w % 3, w % 5) for w in range(40)] + [(3, 4, 9)] * 30
"""Group, source tokens and target tokens; group ``g`` has a tube of ``g + 1``."""
WIDTHS = (72, 200)
SPLITS = {_cuda.Variant.THIN: (0,)}
"""Parts of a sum that a kernel can be cut into; two kinds of all others."""


def make_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Layout, int]:
    """Random gradients and faces for :data:`WORDS` on the device."""
    generator = torch.Generator().manual_seed(0)
    groups, sources, targets = (torch.tensor(column) for column in zip(*WORDS, strict=True))
    ends = [torch.cat([torch.zeros(1).long(), counts.cumsum(0)]) for counts in (sources, targets)]
    layout = Layout(torch.tensor([0, 1, 3, 6, 10]).cuda(), groups.cuda(), *(e.cuda() for e in ends))
    gradient = torch.randn(int(targets.sum()), WIDTHS[1], generator=generator)
    faces = torch.randn(10, *WIDTHS, generator=generator)
    return gradient.to("cuda", dtype), faces.to("cuda", dtype), layout, int(sources.sum())


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return float((found.cpu().double() - expected).norm() / expected.norm())


def check(dtype: torch.dtype, wanted: set[str]) -> bool:
    """Launch the kernels in one dtype; True if all are right."""
    gradient, faces, layout, rows = make_case(dtype)
    on_cpu = Layout(*(value.cpu() for value in layout))
    expected = pull_back(gradient.cpu().double(), faces.cpu().double(), *on_cpu, rows)
    right = True

    def report(name: str, error: float) -> None:
        nonlocal right
        right &= error <= TOLERANCE[dtype]
        print(
            f"{name}, {str(dtype).removeprefix('torch.')}: relative error {error:.2e}", flush=True
        )

    for variant in _cuda.Variant:
        if variant is _cuda.Variant.AUTO or (wanted and variant.name.lower() not in wanted):
            continue
        for split in SPLITS.get(variant, (1, 2)):
            out = _cuda.launch_pull_back(
                gradient, faces, layout, rows, variant=variant, split=split
            )
            report(f"pull_back {variant.name} in {split or 1}", error_of(out, expected))
    if not wanted or "t_product" in wanted:
        a, b = faces[:9].reshape(3, 3, *WIDTHS), faces[1:].reshape(3, 3, *WIDTHS).mT.contiguous()
        exact = t_product(a.cpu().double(), b.cpu().double())
        report("t_product", error_of(_cuda.launch_t_product(a, b), exact))
    return right


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [v.name.lower() for v in _cuda.Variant if v is not _cuda.Variant.AUTO]
    parser.add_argument("kernels", nargs="*", help=f"of {', '.join([*names, 't_product'])}; all")
    wanted = set(parser.parse_args().kernels)
    if unknown := wanted - {*names, "t_product"}:
        parser.error(
            f"no kernel {sorted(unknown)[0]!r}; expected {', '.join([*names, 't_product'])}"
        )
    if not native_status().cuda:
        print(f"no CUDA kernels: {native_status().reason}", file=sys.stderr)
        return 2
    right = [check(dtype, wanted) for dtype in TOLERANCE]
    print("all right" if all(right) else "WRONG")
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
