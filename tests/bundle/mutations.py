"""Mutations of files for tests with hypothesis: of bytes, of JSON, of tensor files."""

from __future__ import annotations

import copy
import json
import math
import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuse_index.bundle.jsontext import content_digest, dump_pretty

INTEGERS = (0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 1023, 1024, 1025, 65535, 2**24, 2**31 - 1, 2**31,
            2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.5, 1e-45, 1e-38, 65504.0, 65536.0, 1e30, -1e30, 1.1e30, 3.4e38,
          math.inf, -math.inf, math.nan)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, -(2**63), 10**300, 10**400, 0.5, -0.0,
    1e308, 1e-300, "", "..", "../x", "/etc/passwd", "\x00", "\x1b[31m", "\ud800", "x" * 5000, "1x1",
    "2x2", "x2", "fallback", "F32", "F64", "BF16", "I64", "U8", "pq", "flat", "tokens", "ip", "l2",
    "cosine", "padded", "mean", "0" * 64, "a" * 64, [], {}, [[]], [0], [0, 0], [-1, 3],
    [2**62, 2**62], [0, 2**62, 2**62], [1] * 9, [0] * 2000, {"a": {}}, ["F32"], [["a"]],
)  # fmt: skip
DEPTHS = (10, 60, 64, 70, 900, 20_000)
_DTYPES = {"I64": "<i8", "U8": "u1", "F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}


@st.composite
def of_bytes(draw: Any, data: bytes) -> bytes:
    """Change bits, numbers and ranges of bytes anywhere."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        action = draw(st.sampled_from(("flip", "number", "float", "cut", "put", "twice", "end")))
        size = draw(st.sampled_from((1, 2, 4, 8, 16, 64)))
        if action == "flip" and out:
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "number":
            value = draw(st.sampled_from(INTEGERS)) % (1 << 8 * min(size, 8))
            out[at : at + min(size, 8)] = value.to_bytes(min(size, 8), "little")
        elif action == "float":
            out[at : at + 4] = struct.pack("<f", draw(st.sampled_from(FLOATS)))
        elif action == "cut":
            del out[at : at + size]
        elif action == "put":
            out[at:at] = draw(st.binary(min_size=1, max_size=size))
        elif action == "twice":
            out[at:at] = out[at : at + size]
        else:
            del out[at:]
    return bytes(out)


def change(value: Any, draw: Any) -> None:
    """Change one place of a JSON value: replace, delete, add, rename or swap."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys)) if keys else None
        inner = value[key] if key is not None else None
        if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 4)):
            value = inner
            continue
        action = draw(st.sampled_from(("replace", "replace", "near", "delete", "add", "swap")))
        junk = copy.deepcopy(draw(st.sampled_from(JUNK)))
        if key is None or action == "add":
            if isinstance(value, dict):
                value[str(draw(st.sampled_from(JUNK)))] = junk
            else:
                value.append(junk)
        elif action == "replace":
            value[key] = junk
        elif action == "near" and type(inner) is int:
            value[key] = inner + draw(st.sampled_from((-1, 1, 8, 1 << 32)))
        elif action == "delete":
            del value[key]
        else:
            other = draw(st.sampled_from(keys))
            value[key], value[other] = value[other], value[key]
        return


@st.composite
def of_json(draw: Any, data: bytes) -> bytes:
    """Change places of a JSON object, nest it, or change its bytes."""
    how = draw(st.sampled_from(("places", "places", "places", "deep", "bytes")))
    if how == "bytes":
        return draw(of_bytes(data))
    value = json.loads(data)
    if how == "deep":
        depth = draw(st.sampled_from(DEPTHS))
        nest = b"[" * depth + b"]" * depth if draw(st.booleans()) else _nested(depth)
        key = draw(st.sampled_from(sorted(value)))
        return dump_pretty({**value, key: "HERE"}).replace(b'"HERE"', nest)
    for _ in range(draw(st.integers(1, 2))):
        change(value, draw)
    return json.dumps(value).encode("ascii")


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"0" + b"}" * depth


@st.composite
def of_tensors(draw: Any, data: bytes) -> bytes:
    """Change the header of a tensor file, values or dtypes of its tensors, or its bytes."""
    how = draw(st.sampled_from(("header", "values", "values", "dtypes", "bytes")))
    if how == "bytes":
        return draw(of_bytes(data))
    (length,) = struct.unpack("<Q", data[:8])
    text, body = data[8 : 8 + length], data[8 + length :]
    if how == "header":
        return _join(draw(of_json(text)), body)
    header = json.loads(text)
    names = sorted(name for name in header if name != "__metadata__")
    arrays = {name: _array(header[name], body) for name in names}
    dtypes = {name: header[name]["dtype"] for name in names}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        if how == "dtypes":
            kinds = ("F64", "F32", "F16") if arrays[name].dtype.kind == "f" else ("I64", "U8")
            dtypes[name] = draw(st.sampled_from(kinds))
            with np.errstate(over="ignore"):
                arrays[name] = arrays[name].astype(_DTYPES[dtypes[name]])
        if arrays[name].size and (how == "values" or draw(st.booleans())):
            _spoil(arrays[name], draw)
    return join_arrays(arrays, dtypes)


def _spoil(array: np.ndarray, draw: Any) -> None:
    flat = array.reshape(-1)
    at = draw(st.integers(0, flat.size - 1))
    if array.dtype.kind == "f":
        value = draw(st.sampled_from((*FLOATS, 1e39, 1e300)))
        with np.errstate(over="ignore"):
            flat[at] = np.float64(value).astype(array.dtype)
    else:
        value = draw(st.sampled_from((*INTEGERS, -1, -(2**31), -(2**63))))
        flat[at] = np.array([value & (2**64 - 1)], np.uint64).astype(array.dtype)[0]


def _array(entry: dict[str, Any], body: bytes) -> np.ndarray:
    low, high = entry["data_offsets"]
    return np.frombuffer(body[low:high], _DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()


def join_arrays(arrays: dict[str, np.ndarray], dtypes: dict[str, str]) -> bytes:
    """Write a tensor file, the widest dtype first."""
    header, parts, start = {}, [], 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        part = np.ascontiguousarray(arrays[name]).tobytes()
        offsets = [start, start + len(part)]
        shape = list(arrays[name].shape)
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": offsets}
        parts.append(part)
        start += len(part)
    return _join(json.dumps(header).encode("ascii"), b"".join(parts))


def _join(text: bytes, body: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def sealed(data: bytes) -> bytes:
    """Make the checksum of a manifest right again, where it is JSON still."""
    try:
        value = json.loads(data)
        value.pop("checksum", None)
        return dump_pretty({**value, "checksum": content_digest(value)})
    except (ValueError, RecursionError, AttributeError, TypeError):
        return data
