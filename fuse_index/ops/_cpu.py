"""CPU side of the pull-back: the vectorized kernel for small batches, else the reference.

Few words make thin matrices: reading the faces is the cost, and the kernel reads each once, in
its storage type. Many words make the batched products of the reference the faster way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuse_index.ops import _library, _native, _reference
from fuse_index.ops._checks import Layout, check_values

# DType in csrc/cpu/pull_back.h.
_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# Words a group, on average, up to which the kernel runs (docs/kernels.md).
CROSSOVER = 32


def _padded(rows: Tensor, tube: int) -> Tensor:
    """Fold and pad the rows of words to the tube, face first: ``(m, q, d) -> (k, m, d)``."""
    folded = _reference.fold(rows, tube)
    out = folded.new_zeros((tube, folded.shape[0], folded.shape[2]))
    out[: folded.shape[1]] = folded.transpose(0, 1)
    return out


def _run_kernel(native: Any, grad: Tensor, faces: Tensor, layout: Layout, rows: int) -> Tensor:
    """Gather the words of every batch, run the kernel once for all, scatter the results."""
    d_src, d_tgt = faces.shape[1:]
    face_bytes = d_src * d_tgt * faces.element_size()
    out = grad.new_zeros((rows, d_src))
    work: list[tuple[_reference.Batch, Tensor, Tensor]] = []
    records = []
    for batch in _reference.batches(layout):
        gradient = _padded(grad[batch.target_rows].float(), batch.tube)
        positions = min(batch.source_rows.shape[1], batch.tube)
        words = gradient.shape[1]
        result = gradient.new_zeros((positions, words, d_src))
        records.append(
            (
                faces.data_ptr() + batch.first_face * face_bytes,
                gradient.data_ptr(),
                result.data_ptr(),
                batch.tube,
                words,
                positions,
            )
        )
        work.append((batch, gradient, result))
    native.cpu_pull_back(records, d_src, d_tgt, _CODES[grad.dtype], torch.get_num_threads())
    for batch, _, result in work:
        spread = [s % batch.tube for s in range(batch.source_rows.shape[1])]
        out[batch.source_rows] = result[spread].transpose(0, 1).to(out.dtype)
    return out


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
