"""Memory that reading takes, whatever a file holds: the bounds that docs/bundle.md states."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fuse_index.bundle import read_bundle, read_manifest, write_bundle
from fuse_index.bundle.jsontext import content_digest
from fuse_index.common.stored import MAX_VALUES
from fuse_index.errors import BundleError
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable
from tests.bundle import sample

MIB = 1 << 20
_MOST = MAX_VALUES - 1000
LARGEST = {
    "lists": b"[" + b"[]," * (_MOST // 2) + b"0]",
    "objects": b"[" + b'{"":0},' * (_MOST // 3) + b"0]",
    "keys": b"{" + b",".join(b'"%06x":0' % i for i in range(_MOST // 2)) + b"}",
    "texts": b"[" + b",".join(b'"\xf0\x9f\x98\x80%05d"' % i for i in range(_MOST)) + b"]",
    "wide text": ('"' + "\N{GRINNING FACE}" * (3 << 20) + '"').encode(),
    "a value more": b"[" + b"[]," * (_MOST // 2 + 1000) + b"0]",
    "a byte more": b'"' + b"a" * (16 << 20) + b'"',
}


def with_options(folder: Path, content: bytes) -> None:
    """Put a value of any size into a manifest, with the checksum that fits."""
    value = json.loads((folder / "manifest.json").read_text())
    del value["checksum"]
    digest = content_digest({**value, "options": {"a": json.loads(content)}})
    text = json.dumps({**value, "options": {"a": "HERE"}, "checksum": digest})
    (folder / "manifest.json").write_bytes(text.encode().replace(b'"HERE"', content))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_manifests(tmp_path, kind):
    write_bundle(tmp_path / "bundle", sample.contents())
    with_options(tmp_path / "bundle", LARGEST[kind])
    tracemalloc.start()
    try:
        if "more" in kind:
            with pytest.raises(BundleError, match=r"more than 1048576\)|larger than 16777216"):
                read_manifest(tmp_path / "bundle")
        else:
            read_manifest(tmp_path / "bundle")
        assert tracemalloc.get_traced_memory()[1] < 256 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_words_take_a_few_times_their_file(tmp_path):
    n = 100_000
    rows = Ragged.from_rows(np.zeros((n, 1), np.int64))
    table = WordTable(tuple(f"{i:x}" for i in range(n)), np.ones(n, np.int64), rows, rows)
    adapters = {"1x1": sample.ramp(1, 3, 2), "fallback": sample.ramp(1, 3, 2)}
    write_bundle(tmp_path / "bundle", sample.contents(table=table, adapters=adapters, groups=None))
    size = (tmp_path / "bundle" / "words.safetensors").stat().st_size
    tracemalloc.start()
    read_bundle(tmp_path / "bundle")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size


SCRIPT = """
import resource, sys
from fuse_index.adapter import Adapter
from fuse_index.bundle import verify_bundle
from fuse_index.errors import BundleError
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (512 << 20),) * 2)
for act in (verify_bundle, Adapter.from_pretrained):
    try:
        act(sys.argv[1])
        sys.exit("was accepted")
    except BundleError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_a_file_that_promises_much_takes_nothing(tmp_path):
    """Shapes and sizes of terabytes in headers of a few bytes, under a limit of the process."""
    write_bundle(tmp_path / "bundle", sample.contents())
    for file in ("words.safetensors", "adapter.safetensors"):
        before = (tmp_path / "bundle" / file).read_bytes()
        header, data = sample.split_tensors(tmp_path / "bundle" / file)
        for entry in header.values():
            if "shape" in entry:
                entry["shape"][0] = 1 << 40
                entry["data_offsets"] = [0, 1 << 47]
        sample.join_tensors(tmp_path / "bundle" / file, header, data)
        sample.reseal(tmp_path / "bundle")
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "bundle")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 2
        (tmp_path / "bundle" / file).write_bytes(before)
        sample.reseal(tmp_path / "bundle")
