"""Hidden states kept in memory and in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch

from fuse_index.predict import store
from fuse_index.predict.states import Contexts
from fuse_index.predict.store import are_kept, kept_states

WORDS = ["circle", "triangle", "gorgeous", "left", "purple", "above"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Iterator[Path]:
    """A cache for this test, that keeps few words too."""
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "KEPT_FROM", 1)
    monkeypatch.setattr(store, "_MOST_IN_MEMORY", 0)
    monkeypatch.setattr(store, "_made", WeakKeyDictionary())
    return tmp_path / "layers"


def test_states_are_kept_and_found_again(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    (file,) = cache.glob("*.safetensors")
    monkeypatch.setattr(store, "hidden_states", None)
    assert torch.equal(kept_states(clip, tokens), first)
    assert not list(cache.glob("*.part"))
    assert file.stat().st_size < 2 * 4 * first.numel() + 1000


def test_states_stay_in_memory_as_long_as_the_model_does(clip, monkeypatch):
    monkeypatch.setattr(store, "_made", WeakKeyDictionary())
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    assert kept_states(clip, clip.words.encode_words(WORDS)) is first
    assert kept_states(clip, tokens, Contexts(count=1)) is not first
    assert kept_states(clip, tokens) is first
    kept_states(clip, tokens, Contexts(count=2))  # one too many
    assert len(store._made[clip]) == 2


def test_other_words_weights_or_contexts_are_other_states(clip, cache):
    tokens = clip.words.encode_words(WORDS)
    kept_states(clip, tokens)
    kept_states(clip, clip.words.encode_words(WORDS[1:]))
    kept_states(clip, tokens, Contexts(count=2))
    weight = next(clip.module.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] += 1
    try:
        kept_states(clip, tokens)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert len(list(cache.glob("*.safetensors"))) == 4


def test_a_damaged_or_locked_cache_is_done_without(clip, cache, caplog):
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(b"no tensors")
    assert torch.equal(kept_states(clip, tokens), first)
    assert "computed again" in caplog.text
    file.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert torch.equal(kept_states(clip, tokens), first)
    assert "not kept" in caplog.text


def test_what_is_kept_is_known_without_reading_it(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    assert not are_kept(clip, tokens)
    kept_states(clip, tokens)
    monkeypatch.setattr(store, "load_file", None)
    assert are_kept(clip, tokens)
    assert not are_kept(clip, tokens, Contexts(count=2))
    assert not are_kept(clip, clip.words.encode_words(WORDS[1:]))
    monkeypatch.setattr(store, "KEPT_FROM", len(WORDS) + 1)
    assert not are_kept(clip, tokens), "few words are computed again"
    monkeypatch.setattr(store, "_MOST_IN_MEMORY", 1)
    kept_states(clip, tokens)
    assert are_kept(clip, tokens)
