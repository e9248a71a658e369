"""The streaming safetensors writer and the strict header parser against the library."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from fuse_index.bundle import tensorfile
from fuse_index.bundle.tensorfile import TensorSource, TensorSpec
from fuse_index.bundle.tensors import as_tensor, dtype_name, tensor_bytes
from fuse_index.errors import BundleError, ShapeError

DTYPES = {"I64": np.int64, "F32": np.float32, "F64": np.float64, "F16": np.float16, "U8": np.uint8}


def encode(tensors: dict[str, np.ndarray]) -> bytes:
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    sources = [
        TensorSource(
            TensorSpec(key, names[array.dtype], array.shape),
            lambda array=array: [array.tobytes()[i : i + 7] for i in range(0, array.nbytes, 7)],
        )
        for key, array in tensors.items()
    ]
    sink = io.BytesIO()
    tensorfile.write_tensors(sink, sources)
    assert len(sink.getvalue()) == tensorfile.file_size([source.spec for source in sources])
    return sink.getvalue()


def parse(data: bytes) -> dict[str, tensorfile.TensorEntry]:
    length = tensorfile.header_length(data[:8], len(data), "file")
    return tensorfile.parse_header(data[8 : 8 + length], len(data), "file")


arrays = st.builds(
    lambda kind, shape: np.arange(int(np.prod(shape))).astype(kind).reshape(shape),
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), arrays, max_size=5))
def test_the_library_reads_what_we_write(tmp_path_factory, tensors):
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("t") / "file.safetensors"
    path.write_bytes(encode(tensors))
    with safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(tensors)
        for name, array in tensors.items():
            stored = file.get_tensor(name)
            assert stored.dtype == array.dtype
            np.testing.assert_array_equal(stored, array)


@given(st.dictionaries(st.text(min_size=1, max_size=8), arrays, max_size=5))
def test_we_read_what_we_write(tensors):
    tensors.pop("__metadata__", None)
    data = encode(tensors)
    entries = parse(data)
    raw = np.frombuffer(data, np.uint8)
    for name, array in tensors.items():
        entry = entries[name]
        assert entry.start % tensorfile.ITEM_BYTES[entry.spec.dtype] == 0
        np.testing.assert_array_equal(
            tensorfile.as_array(entry.spec, raw[entry.start : entry.stop]), array
        )


def test_bytes_equal_the_librarys_own_for_one_metadata_key():
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.int64)}
    assert encode(tensors) == save(tensors, metadata={"format": "pt"})


def test_chunks_that_do_not_add_up_are_our_bug():
    source = TensorSource(TensorSpec("a", "F32", (2,)), lambda: [b"1234"])
    with pytest.raises(ValueError, match="was given 4 bytes, not 8"):
        tensorfile.write_tensors(io.BytesIO(), [source])


def file_of(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry()}, b"1234", "file has .* bytes but its tensors end at"),
        ({"a": entry()}, bytes(16), "bytes but its tensors end at"),
        ({"a": entry("F31")}, bytes(8), "'a' has dtype 'F31', expected one of"),
        ({"a": entry(["F32"])}, bytes(8), "has dtype"),
        ({"a": entry(shape=(-2,))}, bytes(8), "malformed shape"),
        ({"a": entry(shape=(2.0,))}, bytes(8), "malformed shape"),
        ({"a": entry(shape=(True, 2))}, bytes(8), "malformed shape"),
        ({"a": entry(shape=(1,) * 8 + (2,))}, bytes(8), "malformed shape"),
        ({"a": entry(shape=(2**40, 2**40))}, bytes(8), "has 8 bytes, its shape needs"),
        ({"a": entry(offsets=(0,))}, bytes(8), "malformed data_offsets"),
        ({"a": entry(offsets=(8, 0))}, bytes(8), "has -8 bytes, its shape needs 8"),
        ({"a": entry(offsets=(4, 12))}, bytes(12), "overlap or leave a gap"),
        ({"a": entry(), "b": entry()}, bytes(8), "'b' bytes overlap or leave a gap"),
        ({"a": entry("U8", (1,), (0, 1)), "b": entry(offsets=(1, 9))}, bytes(9), "not aligned"),
        ({"a": {**entry(), "more": 1}}, bytes(8), "has other keys than"),
        ({"a": [1]}, bytes(8), "has other keys than"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ is not a map of text"),
        ([], b"", "holds a JSON list; expected a JSON object"),
    ],
)
def test_headers_that_lie_are_refused(header, data, message):
    with pytest.raises(BundleError, match=message):
        parse(file_of(header, data))


@pytest.mark.parametrize("length", [0, 1, 4, 9, 2**31, 2**64 - 1])
def test_header_lengths_that_lie_are_refused(length):
    data = struct.pack("<Q", length) + file_of({})[8:]
    with pytest.raises(BundleError, match=f"file has a header length of {length} in a file of"):
        parse(data)


def test_files_shorter_than_a_header_length_are_refused():
    with pytest.raises(BundleError, match="in a file of 3 bytes"):
        parse(b"abc")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_finiteness_of_every_dtype(dtype, value):
    name = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}[dtype]
    tensor = torch.zeros(3, dtype=getattr(torch, name))
    tensor[0] = torch.finfo(tensor.dtype).max
    tensor[1] = -torch.finfo(tensor.dtype).tiny
    if value is not None:
        tensor[2] = value
    spec = TensorSpec("a", dtype_name(tensor.dtype, "a"), (3,))
    assert spec.dtype == dtype
    data = np.frombuffer(tensor_bytes(tensor), np.uint8).copy()
    finite = tensorfile.all_finite(spec, tensorfile.as_array(spec, data))
    assert finite is (value is None)
    assert torch.equal(as_tensor(spec, data)[:2], tensor[:2])


def test_finiteness_is_checked_beyond_the_first_chunk(monkeypatch):
    monkeypatch.setattr(tensorfile, "_FINITE_CHUNK", 4)
    spec = TensorSpec("a", "F32", (9,))
    values = np.zeros(9, np.float32)
    assert tensorfile.all_finite(spec, values)
    values[8] = np.nan
    assert not tensorfile.all_finite(spec, values)


def test_dtypes_a_bundle_does_not_hold():
    with pytest.raises(ShapeError, match=r"x has dtype torch\.complex64; expected float16"):
        dtype_name(torch.complex64, "x")
