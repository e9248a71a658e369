"""CUDA side of the operators: checks, output allocation, launch.

float64 and anything the kernels do not cover goes to the reference, which is itself a composition
of CUDA calls. The fast path never waits for the device and can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from fuse_index.ops import _library, _native
from fuse_index.ops._checks import Layout

# DType in csrc/kernels/args.h.
_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# Measured on one H200 (docs/kernels.md): terms of one sum, that is faces times inner width, up to
# which the kernel is faster than the composition, and most multiply-adds it was faster with.
T_PRODUCT_CROSSOVER = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
T_PRODUCT_MOST = 1 << 28


class Variant(Enum):
    """Kernels of the pull-back (``PullBackVariant`` in csrc/kernels/args.h).

    ``THIN`` is for few words and tubes of at most 48, the last two for many words on Hopper, 64 or
    128 of them a block; elsewhere, and where the data is not aligned, they fall back to the others.
    """

    AUTO = 0
    FEW = 1
    MANY = 2
    THIN = 3
    BULK64 = 4
    BULK128 = 5


def _ready(value: Tensor) -> Tensor:
    """Contiguous, without a lazy negation, so that its pointer means what it says."""
    return value.resolve_neg().contiguous()


def launch_pull_back(
    target_grad: Tensor,
    faces: Tensor,
    layout: Layout,
    source_rows: int,
    *,
    variant: Variant = Variant.AUTO,
    split: int = 0,
) -> Tensor:
    """Launch the kernel on checked arguments.

    Args:
        target_grad: ``(Q, d_tgt)`` on a CUDA device.
        faces: ``(F, d_src, d_tgt)``.
        layout: see :class:`Layout`.
        source_rows: P.
        variant: block shape; the benchmark times each.
        split: parts of one sum, each a block's (1, 2, 4 or 8); 0 lets the launcher choose.

    Returns:
        ``(P, d_src)``.
    """
    native = _native.cuda_module()
    assert native is not None
    target_grad, faces = _ready(target_grad), _ready(faces)
    indices = [value.contiguous() for value in layout]
    out = target_grad.new_empty((source_rows, faces.shape[1]))
    args = native.PullBackArgs(
        target_grad.data_ptr(),
        faces.data_ptr(),
        out.data_ptr(),
        *(value.data_ptr() for value in indices),
        indices[1].shape[0],
        indices[0].shape[0] - 1,
        *(faces.shape[0], source_rows, target_grad.shape[0], faces.shape[1], faces.shape[2]),
    )
    choice = (_CODES[target_grad.dtype], target_grad.device.index, variant.value, split)
    needed = native.pull_back_bytes(args, *choice)
    workspace = target_grad.new_empty(needed, dtype=torch.uint8) if needed else None
    stream = torch.cuda.current_stream(target_grad.device).cuda_stream
    native.pull_back(args, *choice, workspace.data_ptr() if workspace is not None else 0, stream)
    return out


def pull_back(target_grad: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    """``fuse_index::pull_back`` on CUDA."""
    *index_tensors, source_rows = rest
    layout = Layout(*index_tensors)
    _library.check_pull_back(target_grad, faces, layout)
    native = _native.cuda_module() if target_grad.dtype in _CODES else None
    if native is None or layout.face_offsets.shape[0] - 1 > native.max_groups:
        return _library.pull_back_torch(target_grad, faces, *rest)
    return launch_pull_back(target_grad, faces, layout, source_rows)


def launch_t_product(a: Tensor, b: Tensor) -> Tensor:
    """Launch the kernel on checked arguments: ``(*, k, n1, n2)``, ``(*, k, n2, n3)``."""
    native = _native.cuda_module()
    assert native is not None
    a, b = _ready(a), _ready(b)
    *lead, tube, n1, n2 = a.shape
    n3 = b.shape[-1]
    out = a.new_empty((*lead, tube, n1, n3))
    native.t_product(
        *(a.data_ptr(), b.data_ptr(), out.data_ptr()),
        *(math.prod(lead), tube, n1, n2, n3),
        _CODES[a.dtype],
        a.device.index,
        torch.cuda.current_stream(a.device).cuda_stream,
    )
    return out


def t_product(a: Tensor, b: Tensor) -> Tensor:
    """``fuse_index::t_product`` on CUDA: one product, the kernel or the composition."""
    _library.check_t_product(a, b)
    tube, _, inner = a.shape[-3:]
    if tube == 1:  # the library's product accumulates in float32 and rounds once
        return torch.matmul(a, b)
    small = (
        tube * inner <= T_PRODUCT_CROSSOVER.get(a.dtype, 0)
        and a.numel() * b.shape[-1] * tube <= T_PRODUCT_MOST
    )
    if small and _native.cuda_module() is not None:
        return launch_t_product(a, b)
    return _library.t_product_torch(a, b)


def register() -> None:
    """Register the CUDA kernels of the operators that have one."""
    _library.LIBRARY.impl("pull_back", pull_back, "CUDA")
    _library.LIBRARY.impl("t_product", t_product, "CUDA")
