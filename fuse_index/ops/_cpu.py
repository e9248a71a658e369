"""CPU side of the pull-back: the vectorized kernel for small batches, else the reference.

Few words make thin matrices: reading the faces is the cost, and the kernel reads each once, in
its storage type. Many words make the batched products of the reference the faster way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuse_index.ops import _library, _native
from fuse_index.ops._checks import Layout, check_values

# DType in csrc/cpu/pull_back.h.
_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# Words a group, on average, up to which the kernel runs (docs/kernels.md).
CROSSOVER = 32


def _run_kernel(native: Any, grad: Tensor, faces: Tensor, layout: Layout, rows: int) -> Tensor:
    """Run the kernel on checked, contiguous arguments; it accumulates in float32."""
    index = [value.contiguous() for value in layout]
    out = grad.new_zeros((rows, faces.shape[1]), dtype=torch.float32)
    native.cpu_pull_back(
        *(value.data_ptr() for value in (grad, faces, out, *index)),
        *(layout.word_groups.shape[0], layout.face_offsets.shape[0] - 1, *faces.shape[1:]),
        _CODES[grad.dtype],
        torch.get_num_threads(),
    )
    return out.to(grad.dtype)


def pull_back(target_grad: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    """``fuse_index::pull_back`` on the CPU."""
    *index_tensors, rows = rest
    layout = Layout(*index_tensors)
    native = _native.module() if target_grad.dtype in _CODES else None
    few = layout.word_groups.shape[0] <= CROSSOVER * max(1, layout.face_offsets.shape[0] - 1)
    if native is None or not few or target_grad.numel() == 0 or faces.numel() == 0:
        return _library.pull_back_torch(target_grad, faces, *rest)
    _library.check_pull_back(target_grad, faces, layout)
    check_values("pull_back", layout, faces.shape[0], rows, target_grad.shape[0])
    grad, dense = target_grad.resolve_neg().contiguous(), faces.resolve_neg().contiguous()
    return _run_kernel(native, grad, dense, layout, rows)


def register() -> None:
    """Register the CPU kernel."""
    _library.LIBRARY.impl("pull_back", pull_back, "CPU")
