"""Operators of the t-product algebra: the only floor that touches native code and the environment.

Four operators live in the namespace ``torch.ops.fuse_index``; each has a schema, a fake, a pure
torch reference and an autograd formula, and the first and the last also have a CUDA kernel.
Without the native extension everything gives the same numbers from pure torch, only slower.
"""

from __future__ import annotations

from fuse_index.ops import _cpu, _cuda
from fuse_index.ops._api import face_grad, pull_back, push_forward, t_product
from fuse_index.ops._library import t_transpose
from fuse_index.ops._native import NativeStatus
from fuse_index.ops._native import status as native_status

_cpu.register()
_cuda.register()

__all__ = [
    "NativeStatus",
    "face_grad",
    "native_status",
    "pull_back",
    "push_forward",
    "t_product",
    "t_transpose",
]
