"""The loader against damaged and hostile bundles: more than 800 generated corruptions.

Two attackers. Chance damages bytes: then a bundle is refused or, where the damage does not matter,
read as it was. Malice changes content and makes every size and checksum fit again: then the parser
itself stands alone; it refuses, or reads something that keeps all promises of a bundle. Neither may
see an exception that is not a BundleError.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuse_index.bundle import Bundle, read_bundle, verify_bundle, write_bundle
from fuse_index.errors import BundleError
from tests.bundle import sample
from tests.cases import case

TENSOR_FILES = ("words.safetensors", "adapter.safetensors", "groups.safetensors")
FILES = (*TENSOR_FILES, "manifest.json", "README.md")
SEEDS = range(45)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("whole") / "bundle"
    write_bundle(path, sample.contents())
    return path, sample.snapshot(read_bundle(path, parts=sample.ALL))


def load(folder: Path) -> Bundle | None:
    """Read all parts; None when refused. Anything but a BundleError fails the test."""
    try:
        bundle = read_bundle(folder, parts=sample.ALL)
        sample.snapshot(bundle)
    except BundleError:
        return None
    return bundle


def verified(folder: Path) -> bool:
    try:
        verify_bundle(folder)
    except BundleError:
        return False
    return True


# ---- chance ----------------------------------------------------------------------------------


def truncate(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    os.truncate(path, rng.randrange(path.stat().st_size))


def flip_bits(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero_a_range(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randrange(1, 512))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def swap_blocks(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    data = path.read_bytes()
    a, b = sorted(rng.sample(range(len(data)), 2))
    path.write_bytes(data[a:b] + data[:a] + data[b:])


def swap_files(folder: Path, rng: random.Random) -> None:
    one, two = (folder / name for name in rng.sample(FILES, 2))
    one.rename(folder / "third")
    two.rename(one)
    (folder / "third").rename(two)


def append(folder: Path, rng: random.Random) -> None:
    with (folder / rng.choice(FILES)).open("ab") as stream:
        stream.write(rng.randbytes(rng.randrange(1, 64)))


def replace_by_noise(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice(FILES)).write_bytes(rng.randbytes(rng.randrange(0, 4096)))


def remove(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice(FILES)).unlink()


def link_elsewhere(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    path.unlink()
    path.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", "..", "../../x", "/", path.name)))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_bits,
        zero_a_range,
        swap_blocks,
        swap_files,
        append,
        replace_by_noise,
        remove,
        link_elsewhere,
    ],
)
def test_chance(whole, tmp_path, damage):
    """Refused, or read as it was. Only the card is not needed to read; verifying needs it too."""
    original, expected = whole
    for seed in SEEDS:
        with case(seed=seed):
            folder = tmp_path / str(seed)
            shutil.copytree(original, folder)
            damage(folder, random.Random(seed))
            bundle = load(folder)
            if bundle is not None:
                assert sample.snapshot(bundle) == expected
            if verified(folder):
                assert bundle is not None
                for name in FILES:
                    if name != "manifest.json":
                        assert (folder / name).read_bytes() == (original / name).read_bytes()


# ---- malice ----------------------------------------------------------------------------------

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308,
    "", "..", "../x", "/etc/passwd", "\x00", "\ud800", "x" * 5000, "1x1", "F32", "BF16", "I64",
    [], {}, [[]], [0], [0, 0], [-1, 3], [2**62, 2**62], [0, 2**62, 2**62], [1] * 9,
    {"a": {}}, ["F32"],
)  # fmt: skip


def mutate(value: Any, rng: random.Random) -> None:
    """Change one place of a JSON value: replace, delete, add, rename or swap."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys) if keys else None
        inner = value[key] if key is not None else None
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            value = inner
            continue
        action = rng.choice(("replace", "replace", "replace", "delete", "add", "swap"))
        if key is None or action == "add":
            junk = rng.choice(JUNK)
            if isinstance(value, dict):
                value[str(rng.choice(JUNK))] = junk
            else:
                value.append(junk)
        elif action == "replace":
            value[key] = rng.choice(JUNK)
        elif action == "delete":
            del value[key]
        else:
            other = rng.choice(keys)
            value[key], value[other] = value[other], value[key]
        return


def mutate_manifest(folder: Path, rng: random.Random) -> None:
    def edit(value: dict[str, Any]) -> None:
        for _ in range(rng.choice((1, 1, 2))):
            mutate(value, rng)

    sample.edit_manifest(folder, edit)


def mutate_header(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TENSOR_FILES)
    header, data = sample.split_tensors(path)
    for _ in range(rng.choice((1, 1, 2))):
        mutate(header, rng)
    sample.join_tensors(path, header, data)
    sample.reseal(folder)


def flip_header_bits(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TENSOR_FILES)
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    data[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    sample.reseal(folder)


def flip_data_bits(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TENSOR_FILES)
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    for _ in range(rng.choice((1, 4))):
        data[rng.randrange(8 + length, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    sample.reseal(folder)


def header_length(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TENSOR_FILES)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    wrong = (0, 1, 8, length - 8, length + 8, len(data), len(data) - 8, 2**32, 2**63, 2**64 - 1)
    path.write_bytes(struct.pack("<Q", rng.choice(wrong)) + data[8:])
    sample.reseal(folder)


def odd_json(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TENSOR_FILES)
    header, data = sample.split_tensors(path)
    name = rng.choice([name for name in header if name != "__metadata__"])
    text = json.dumps(header)
    doubled = text[:-1] + f', "{name}": ' + json.dumps(header[name]) + "}"
    texts = (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe{}",
        doubled.encode(),
        text.replace("[0, ", "[NaN, ").encode(),
        text.replace("[0, ", "[0.0, ").encode(),
        text.replace("[0, ", "[1e999, ").encode(),
        text.replace("[0, ", "[" + "9" * 5000 + ", ").encode(),
        text.encode("utf-16"),
    )
    sample.join_tensors(path, rng.choice(texts), data)
    sample.reseal(folder)


def edit_values(folder: Path, rng: random.Random) -> None:
    """Wrong values in a column of integers; the checksum fits, the column does not."""
    column = rng.choice(
        ("words.offsets", "words.groups", "source.offsets", "source.ids", "target.offsets")
    )
    value = rng.choice((-1, 2**31, 2**62, -(2**63), 2**63 - 1, 10**6))

    def edit(array: np.ndarray) -> np.ndarray:
        array[rng.randrange(array.size)] = value
        return array

    sample.edit_column(folder / "words.safetensors", column, edit)
    sample.reseal(folder)


def drop_elements(folder: Path, rng: random.Random) -> None:
    header, _ = sample.split_tensors(folder / "words.safetensors")
    column = rng.choice([name for name in header if name != "__metadata__"])
    sample.edit_column(folder / "words.safetensors", column, lambda a: a[: -rng.randrange(1, 3)])
    sample.reseal(folder)


def not_finite(folder: Path, rng: random.Random) -> None:
    name = rng.choice(("adapter.safetensors", "groups.safetensors"))
    header, _ = sample.split_tensors(folder / name)
    tensor = rng.choice([key for key in header if key != "__metadata__"])
    value = rng.choice((math.nan, math.inf, -math.inf))

    def edit(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[rng.randrange(array.size)] = value
        return array

    sample.edit_column(folder / name, tensor, edit)
    sample.reseal(folder)


def file_name(folder: Path, rng: random.Random) -> None:
    names = (
        "../words.safetensors", "/etc/passwd", "index/../../x", "index/", "index/a/b", "index/.x",
        "./words.safetensors", "words.safetensors/", "a.pkl", "index/a\x00b", "manifest.json",
        "INDEX/a", "index\\a", "index/" + "a" * 300, "..", "", "index/é", "~", "file:///etc/passwd",
    )  # fmt: skip
    name = rng.choice(names)

    def edit(value: dict[str, Any]) -> None:
        files = value["files"]
        files[name] = (
            files.pop(rng.choice(sorted(files))) if rng.random() < 0.5 else files["README.md"]
        )

    sample.edit_manifest(folder, edit)


def check_promises(bundle: Bundle) -> None:
    """What every bundle that was let in must keep, whoever made it."""
    manifest, table = bundle.manifest, bundle.table
    n = len(table)
    assert len(set(table.words)) == n == manifest.words
    assert len(bundle.word_groups) == n
    assert all(0 <= group < len(manifest.group_names) for group in bundle.word_groups)
    for ragged, model in ((table.source, manifest.source), (table.target, manifest.target)):
        assert ragged.lengths.min(initial=1) >= 1
        assert ragged.values.min(initial=0) >= 0
        assert ragged.values.max(initial=0) < model.vocabulary_size
    for name in bundle.adapters:
        tensor = bundle.adapters[name]
        assert tensor.shape[1:] == (manifest.source.width, manifest.target.width)
        assert tensor.isfinite().all()
    for name in bundle.groups.shapes:
        assert bundle.groups.load(name).isfinite().all()


@pytest.mark.parametrize(
    "attack", [mutate_manifest, mutate_header, flip_header_bits, flip_data_bits]
)
def test_malice_that_may_make_another_valid_bundle(whole, tmp_path, attack):
    for seed in SEEDS:
        with case(seed=seed):
            folder = tmp_path / str(seed)
            shutil.copytree(whole[0], folder)
            attack(folder, random.Random(seed))
            bundle = load(folder)
            if bundle is not None:
                check_promises(bundle)
            verified(folder)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "attack", [header_length, odd_json, edit_values, drop_elements, not_finite, file_name]
)
def test_malice_that_is_always_refused(whole, tmp_path, attack):
    for seed in SEEDS:
        with case(seed=seed):
            folder = tmp_path / str(seed)
            shutil.copytree(whole[0], folder)
            attack(folder, random.Random(seed))
            assert load(folder) is None
            assert not verified(folder)


def test_manifest_larger_than_any_manifest(whole, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(whole[0], folder)
    with (folder / "manifest.json").open("r+b") as stream:
        stream.truncate(17 << 20)  # sparse: takes no disk
    with pytest.raises(BundleError, match="is larger than 16777216 bytes"):
        read_bundle(folder)


def test_sizes_are_compared_before_memory_is_taken(whole, tmp_path):
    """A manifest that promises 200 GB for a file of a few bytes costs nothing."""
    folder = tmp_path / "bundle"
    shutil.copytree(whole[0], folder)

    def edit(value: dict[str, Any]) -> None:
        value["files"]["adapter.safetensors"]["size"] = 200 << 30

    sample.edit_manifest(folder, edit)
    with pytest.raises(BundleError, match=r"adapter\.safetensors is truncated: 352 bytes"):
        read_bundle(folder)
