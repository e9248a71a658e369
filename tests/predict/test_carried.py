"""Hidden states that a bundle carries, and bundles that do so badly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from fuse_index.bundle import Bundle, read_bundle, verify_bundle, write_bundle
from fuse_index.bundle.extend import add_state_files
from fuse_index.bundle.layout import INDEX_FOLDER, STATES_PREFIX
from fuse_index.errors import BundleError
from fuse_index.models import Model
from fuse_index.predict import store
from fuse_index.predict.carried import put_states
from fuse_index.predict.states import Contexts
from fuse_index.predict.store import StateFolder, are_kept, kept_states, offer_states
from fuse_index.words.ragged import Ragged
from tests.bundle import sample


@pytest.fixture
def units(sentiment: Model) -> Ragged:
    return sentiment.words.encode_words(["circle", "blue", "triangle", "square", "dull"])


@pytest.fixture
def carrying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentiment: Model, units: Ragged
) -> tuple[Bundle, torch.Tensor]:
    """A bundle with the states of units, and those states; the cache is another one by now."""
    store._made.pop(sentiment, None)
    store._offered.pop(sentiment, None)
    monkeypatch.setattr(store, "KEPT_FROM", 1)
    monkeypatch.setattr(store, "_SHARD", 2)
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "first"))
    write_bundle(tmp_path / "bundle", sample.contents())
    folder = StateFolder(sentiment, Contexts())
    states = folder.states(units)
    assert put_states(folder, units, read_bundle(tmp_path / "bundle")) > 0
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "second"))
    store._made.pop(sentiment, None)
    return read_bundle(tmp_path / "bundle"), states


def members(bundle: Bundle) -> list[str]:
    return [name for name in bundle.manifest.files if STATES_PREFIX in name]


def test_states_come_from_the_bundle_bit_for_bit(
    carrying: tuple[Bundle, torch.Tensor],
    sentiment: Model,
    units: Ragged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, states = carrying
    assert len(members(bundle)) == 3
    verify_bundle(bundle.path)
    assert not are_kept(sentiment, units)
    offer_states(sentiment, bundle)
    assert are_kept(sentiment, units)
    monkeypatch.delattr(store, "hidden_states")  # nothing is computed
    assert torch.equal(kept_states(sentiment, units), states)


def test_putting_them_again_leaves_the_same_bytes(
    carrying: tuple[Bundle, torch.Tensor], sentiment: Model, units: Ragged
) -> None:
    bundle, _ = carrying
    before = {name: (bundle.path / name).read_bytes() for name in members(bundle)}
    offer_states(sentiment, bundle)
    put_states(StateFolder(sentiment, Contexts()), units, bundle)
    again = read_bundle(bundle.path)
    assert {name: (again.path / name).read_bytes() for name in members(again)} == before
    assert again.manifest.indexes == {}


def test_states_of_another_model_are_not_looked_at(
    carrying: tuple[Bundle, torch.Tensor], lm: Model
) -> None:
    bundle, _ = carrying
    offer_states(lm, bundle)
    own = lm.words.encode_words(["circle"])
    assert not are_kept(lm, own)


def test_files_that_were_not_fetched_are_computed(
    carrying: tuple[Bundle, torch.Tensor], sentiment: Model, units: Ragged
) -> None:
    bundle, states = carrying
    (bundle.path / members(bundle)[0]).unlink()
    offer_states(sentiment, bundle)
    assert not are_kept(sentiment, units)
    torch.testing.assert_close(kept_states(sentiment, units), states, rtol=1e-2, atol=1e-2)


def damaged(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {**tensors, name: change(tensors[name])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged("states", lambda x: x.float()), "does not hold the states"),
        (damaged("states", lambda x: x[:, :-1].contiguous()), "does not hold the states"),
        (damaged("states", lambda x: x * torch.nan), "states that are not finite"),
        (damaged("states", lambda x: x * 0 + 2), "states that are not finite or too large"),
        (damaged("largest", lambda x: x * torch.inf), "largest that are not finite"),
        (damaged("ids", lambda x: x + 10**6), "has ids that"),
        (damaged("ids", lambda x: x - 10**6), "has ids that"),
        (damaged("ids", lambda x: x[:0]), "has offsets"),
        (damaged("offsets", lambda x: x.flip(0)), "has offsets"),
        (damaged("offsets", lambda x: x[:1]), "does not hold the states"),
        (damaged("offsets", lambda x: x[0].clone()), "does not hold the states"),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "does not hold the states"),
        (lambda tensors: {"states": tensors["states"]}, "does not hold the states"),
    ],
)
def test_files_that_hold_no_states_are_refused(
    carrying: tuple[Bundle, torch.Tensor],
    sentiment: Model,
    units: Ragged,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
) -> None:
    bundle, _ = carrying
    name = members(bundle)[0]
    key = name.removeprefix(f"{INDEX_FOLDER}/{STATES_PREFIX}").split(".")[0]
    data = save(change(load((bundle.path / name).read_bytes())))
    add_state_files(bundle.path, key, {"bad.safetensors": data})
    offer_states(sentiment, read_bundle(bundle.path))
    with pytest.raises(BundleError, match=said):
        are_kept(sentiment, units)


def test_a_changed_file_is_refused_before_it_is_parsed(
    carrying: tuple[Bundle, torch.Tensor], sentiment: Model, units: Ragged
) -> None:
    bundle, _ = carrying
    path = bundle.path / members(bundle)[0]
    data = bytearray(path.read_bytes())
    data[:8] = b"\xff" * 8
    path.write_bytes(data)
    offer_states(sentiment, bundle)
    with pytest.raises(BundleError, match="is damaged: sha256"):
        are_kept(sentiment, units)
