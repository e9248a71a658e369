"""Every file of a bundle, mutated by hypothesis, with all checksums made right again.

Whoever shares a bundle writes its checksums, so that only the reader stands between a file and
wrong numbers. A mutation is refused in one line by an error of the package, or it is harmless: then
verifying, reading and making an adapter agree, every promise of a bundle holds, and what the
adapter pulls back is what the stored numbers give in float64. The 1,000 mutations a file are
marked slow; ``tools/check_native.py`` runs them with the native core under the sanitizers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fuse_index.adapter import Adapter
from fuse_index.bundle import Bundle, read_bundle, verify_bundle, write_bundle
from fuse_index.bundle.card import render_card
from fuse_index.errors import BundleError
from tests.bundle import mutations, sample
from tests.bundle.test_fuzz import check_promises

logger = logging.getLogger(__name__)

MUTATIONS = {
    "manifest.json": mutations.of_json,
    "words.safetensors": mutations.of_tensors,
    "adapter.safetensors": mutations.of_tensors,
    "groups.safetensors": mutations.of_tensors,
    "README.md": mutations.of_bytes,
}
MEMORY = 32 << 20
"""Most bytes that Python and numpy may hold while a mutation of a few kilobytes is read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "bundle"
    write_bundle(path, sample.contents())
    return path


@contextmanager
def replaced(folder: Path, file: str, data: bytes) -> Iterator[None]:
    """Put other bytes into a bundle, with checksums that fit, for the length of a block."""
    names = {file, "manifest.json"}
    before = {name: (folder / name).read_bytes() for name in names}
    try:
        if file == "manifest.json":
            (folder / file).write_bytes(mutations.sealed(data))
        else:
            value = json.loads(before["manifest.json"])
            record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            value["files"][file] = record
            (folder / file).write_bytes(data)
            (folder / "manifest.json").write_bytes(mutations.sealed(json.dumps(value).encode()))
        yield
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)


def outcome(act: Callable[[], Any]) -> tuple[Any, str]:
    """Return what an act gives; or None, and the line in which it is refused."""
    found, line = None, ""
    tracemalloc.start()
    try:
        found = act()
    except BundleError as error:
        line = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in line
    assert len(line) < 5000
    assert peak < MEMORY
    return found, line


def use(folder: Path) -> Bundle:
    """Read everything and make the adapter."""
    bundle = read_bundle(folder, parts=sample.ALL)
    try:
        sample.snapshot(bundle)
        render_card(bundle.manifest).encode("utf-8")
        check_promises(bundle)
        check_pull_back(bundle)
    finally:
        bundle.groups.close()
    return bundle


def check_pull_back(bundle: Bundle) -> None:
    """Compare what the adapter gives for all words with the stored numbers in float64."""
    widths = bundle.manifest.source.width, bundle.manifest.target.width
    adapter = Adapter(bundle.adapters, widths, bundle).to(dtype=torch.float32)
    if adapter.is_identity:
        return
    table = bundle.table
    layout = adapter.layout(table.source.lengths, table.target.lengths)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(layout.target_rows, adapter.target_width, generator=generator)
    found = adapter.pull_back(gradient, layout)
    assert found.isfinite().all()
    exact = exact_pull_back(bundle, adapter.group_of(*table.shapes.T), gradient.double().numpy())
    scale = max(1.0, float(np.abs(exact).max(initial=0)))
    np.testing.assert_allclose(found.numpy() / scale, exact / scale, atol=1e-5)


def exact_pull_back(bundle: Bundle, groups: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """``out[s] = sum over t of g[t] @ G[(t - s) mod k]^T``, word by word, in float64."""
    rows, start = [], 0
    for group, (p, q) in zip(groups.tolist(), bundle.table.shapes.tolist(), strict=True):
        faces = bundle.adapters[bundle.manifest.group_names[group]].double().numpy()
        own = gradient[start : start + q]
        start += q
        for s in range(p):
            rows.append(sum(own[t] @ faces[(t - s) % len(faces)].T for t in range(q)))
    return np.array(rows)


def attack(folder: Path, file: str, data: bytes) -> str:
    """Refused by verifying, by reading and by using alike, or harmless for all of them.

    Only the card and files of indexes are verified and not needed to read.
    """
    with replaced(folder, file, data):
        verified, line = outcome(lambda: verify_bundle(folder))
        used, _ = outcome(lambda: use(folder))
    assert used is not None or verified is None
    assert used is None or verified is not None or "README.md" in line or "/index/" in line
    return "refused" if used is None else "harmless"


def run(kind: Callable[[bytes], Any], count: int, data: bytes, act: Callable[[bytes], str]) -> None:
    """Act on mutations of a file; how many were refused and harmless is logged."""
    tally: Counter[str] = Counter()
    options = settings(max_examples=count, suppress_health_check=[*HealthCheck])
    options(given(kind(data))(lambda mutated: tally.update([act(mutated)])))()
    logger.info("%s", dict(tally))
    assert tally["refused"] + tally["harmless"] >= count


@pytest.mark.parametrize("file", MUTATIONS)
@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_refused_or_harmless(folder, file, count):
    data = (folder / file).read_bytes()
    run(MUTATIONS[file], count, data, lambda mutated: attack(folder, file, mutated))
