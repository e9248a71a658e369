"""Registration of the operators with ``torch.library``: schemas, fakes, kernels, autograd.

The derivatives close over themselves: the backward pass of each word operator consists of the
other two, so gradients of any order exist, for the faces too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuse_index.errors import ShapeError
from fuse_index.ops import _reference
from fuse_index.ops._checks import Layout, check_float, check_layout, check_same, check_values

_LAYOUT = "Tensor face_offsets, Tensor word_groups, Tensor source_offsets, Tensor target_offsets"
_torch_library: Any = torch.library  # its functions are untyped
LIBRARY = _torch_library.Library("fuse_index", "DEF")
LIBRARY.define(
    f"pull_back(Tensor target_grad, Tensor faces, {_LAYOUT}, SymInt source_rows) -> Tensor"
)
LIBRARY.define(
    f"push_forward(Tensor source, Tensor faces, {_LAYOUT}, SymInt target_rows) -> Tensor"
)
LIBRARY.define(f"face_grad(Tensor source, Tensor target_grad, {_LAYOUT}, SymInt n_faces) -> Tensor")
LIBRARY.define("t_product(Tensor a, Tensor b) -> Tensor")


def _check_rows(op: str, name: str, rows: Tensor, faces: Tensor, axis: int) -> None:
    """Check packed rows ``(rows, d)`` against faces ``(F, d_src, d_tgt)`` along one axis."""
    check_float(op, name, rows, 2, "(rows, width)")
    check_float(op, "faces", faces, 3, "(n_faces, d_src, d_tgt)")
    check_same(op, (name, rows), ("faces", faces))
    if rows.shape[1] != faces.shape[axis]:
        side = "d_src" if axis == 1 else "d_tgt"
        raise ShapeError(
            f"{op}: {name} has width {rows.shape[1]} but faces have {side} = {faces.shape[axis]}",
            expected="equal widths",
            remedy="are source and target swapped?",
        )


def check_pull_back(target_grad: Tensor, faces: Tensor, layout: Layout) -> None:
    """Check everything about the arguments of ``pull_back`` but the values of the layout."""
    _check_rows("pull_back", "target_grad", target_grad, faces, 2)
    check_layout("pull_back", layout, target_grad.device)


def check_push_forward(source: Tensor, faces: Tensor, layout: Layout) -> None:
    """Check everything about the arguments of ``push_forward`` but the values of the layout."""
    _check_rows("push_forward", "source", source, faces, 1)
    check_layout("push_forward", layout, source.device)


def check_face_grad(source: Tensor, target_grad: Tensor, layout: Layout) -> None:
    """Check everything about the arguments of ``face_grad`` but the values of the layout."""
    check_float("face_grad", "source", source, 2, "(rows, d_src)")
    check_float("face_grad", "target_grad", target_grad, 2, "(rows, d_tgt)")
    check_same("face_grad", ("source", source), ("target_grad", target_grad))
    check_layout("face_grad", layout, source.device)


def check_t_product(a: Tensor, b: Tensor) -> None:
    """Check the arguments of ``t_product``: ``(*, k, n1, n2)`` and ``(*, k, n2, n3)``."""
    for name, value in (("a", a), ("b", b)):
        check_float("t_product", name, value, None, "")
        if value.dim() < 3:
            raise ShapeError(
                f"t_product: {name} has shape {tuple(value.shape)}",
                expected="at least 3 dimensions (*, k, rows, columns), face first",
            )
    check_same("t_product", ("a", a), ("b", b))
    if a.shape[-3] != b.shape[-3]:
        raise ShapeError(
            f"t_product: a has {a.shape[-3]} faces but b has {b.shape[-3]}",
            expected="equal tube lengths",
        )
    if a.shape[-1] != b.shape[-2]:
        hint = "did you mean t_transpose(b)?" if a.shape[-1] == b.shape[-1] else ""
        raise ShapeError(
            f"t_product: a has {a.shape[-1]} columns but b has {b.shape[-2]} rows", remedy=hint
        )
    if a.shape[:-3] != b.shape[:-3]:
        raise ShapeError(
            f"t_product: a has leading shape {tuple(a.shape[:-3])} but b {tuple(b.shape[:-3])}",
            expected="equal leading dimensions",
            remedy="expand the smaller one",
        )


def _unpack(rest: tuple[Any, ...]) -> tuple[Layout, int]:
    """Split the trailing arguments of a word operator into the layout and the number of rows."""
    *layout, rows = rest
    return Layout(*layout), rows


def pull_back_torch(target_grad: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    """Checked reference of ``fuse_index::pull_back``."""
    layout, rows = _unpack(rest)
    check_pull_back(target_grad, faces, layout)
    check_values("pull_back", layout, faces.shape[0], rows, target_grad.shape[0])
    return _reference.pull_back(target_grad, faces, layout, rows)


def push_forward_torch(source: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    """Checked reference of ``fuse_index::push_forward``."""
    layout, rows = _unpack(rest)
    check_push_forward(source, faces, layout)
    check_values("push_forward", layout, faces.shape[0], source.shape[0], rows)
    return _reference.push_forward(source, faces, layout, rows)


def face_grad_torch(source: Tensor, target_grad: Tensor, *rest: Any) -> Tensor:
    """Checked reference of ``fuse_index::face_grad``."""
    layout, n_faces = _unpack(rest)
    check_face_grad(source, target_grad, layout)
    check_values("face_grad", layout, n_faces, source.shape[0], target_grad.shape[0])
    return _reference.face_grad(source, target_grad, layout, n_faces)


def t_product_torch(a: Tensor, b: Tensor) -> Tensor:
    """Checked reference of ``fuse_index::t_product``."""
    check_t_product(a, b)
    return _reference.t_product(a, b)


def _pull_back_fake(target_grad: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    layout, rows = _unpack(rest)
    check_pull_back(target_grad, faces, layout)
    return target_grad.new_empty((rows, faces.shape[1]))


def _push_forward_fake(source: Tensor, faces: Tensor, *rest: Any) -> Tensor:
    layout, rows = _unpack(rest)
    check_push_forward(source, faces, layout)
    return source.new_empty((rows, faces.shape[2]))


def _face_grad_fake(source: Tensor, target_grad: Tensor, *rest: Any) -> Tensor:
    layout, n_faces = _unpack(rest)
    check_face_grad(source, target_grad, layout)
    return source.new_empty((n_faces, source.shape[1], target_grad.shape[1]))


def _t_product_fake(a: Tensor, b: Tensor) -> Tensor:
    check_t_product(a, b)
    return a.new_empty((*a.shape[:-1], b.shape[-1]))


def t_transpose(x: Tensor) -> Tensor:
    """Transpose every face, keep face 0, reverse the others: ``(*, k, a, b) -> (*, k, b, a)``."""
    reversed_faces = torch.cat([x[..., :1, :, :], x[..., 1:, :, :].flip(-3)], dim=-3)
    return reversed_faces.transpose(-2, -1)


def _save_tensors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep both data tensors and, for the word operators, the layout."""
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def _pull_back_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    g, faces, *layout = ctx.saved_tensors
    ops = torch.ops.fuse_index
    need_g, need_faces = ctx.needs_input_grad[:2]
    d_g = ops.push_forward(grad, faces, *layout, g.shape[0]) if need_g else None
    d_faces = ops.face_grad(grad, g, *layout, faces.shape[0]) if need_faces else None
    return d_g, d_faces, None, None, None, None, None


def _push_forward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, faces, *layout = ctx.saved_tensors
    ops = torch.ops.fuse_index
    need_x, need_faces = ctx.needs_input_grad[:2]
    d_x = ops.pull_back(grad, faces, *layout, x.shape[0]) if need_x else None
    d_faces = ops.face_grad(x, grad, *layout, faces.shape[0]) if need_faces else None
    return d_x, d_faces, None, None, None, None, None


def _face_grad_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, g, *layout = ctx.saved_tensors
    ops = torch.ops.fuse_index
    need_x, need_g = ctx.needs_input_grad[:2]
    d_x = ops.pull_back(g, grad, *layout, x.shape[0]) if need_x else None
    d_g = ops.push_forward(x, grad, *layout, g.shape[0]) if need_g else None
    return d_x, d_g, None, None, None, None, None


def _t_product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    op = torch.ops.fuse_index.t_product
    d_a = op(grad, t_transpose(b)) if ctx.needs_input_grad[0] else None
    d_b = op(t_transpose(a), grad) if ctx.needs_input_grad[1] else None
    return d_a, d_b


for _name, _kernel, _fake, _backward in (
    ("pull_back", pull_back_torch, _pull_back_fake, _pull_back_backward),
    ("push_forward", push_forward_torch, _push_forward_fake, _push_forward_backward),
    ("face_grad", face_grad_torch, _face_grad_fake, _face_grad_backward),
    ("t_product", t_product_torch, _t_product_fake, _t_product_backward),
):
    if _name != "pull_back":  # see _cpu.py
        LIBRARY.impl(_name, _kernel, "CPU")
    if _name not in ("pull_back", "t_product"):  # see _cuda.py
        LIBRARY.impl(_name, _kernel, "CUDA")
    _torch_library.register_fake(f"fuse_index::{_name}", _fake, lib=LIBRARY)
    _torch_library.register_autograd(
        f"fuse_index::{_name}", _backward, setup_context=_save_tensors, lib=LIBRARY
    )
