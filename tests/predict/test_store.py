"""Hidden states kept in memory and in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch

from fuse_index.predict import store
from fuse_index.predict.states import Contexts, hidden_states
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


def files_of(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.safetensors"))


def test_states_are_kept_in_half_precision_and_found_again(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    exact = hidden_states(clip, tokens)
    assert ((first - exact).abs() <= exact.abs().amax(dim=0) / 1024).all()
    (file,) = files_of(cache)
    monkeypatch.setattr(store, "hidden_states", None)
    assert torch.equal(kept_states(clip, tokens), first), "what was computed is used as it is kept"
    assert not list(cache.glob("*/*.part"))
    assert file.stat().st_size < (2 + 1) * first.numel() + 4 * first.shape[1] + 1000


def test_only_units_that_no_file_has_are_computed(clip, cache):
    few, more = clip.words.encode_words(WORDS[:4]), clip.words.encode_words(WORDS[::-1])
    first = kept_states(clip, few)
    seen: list[tuple[int, int | None]] = []
    found = kept_states(clip, more, progress=lambda *given: seen.append(given))
    assert seen[-1] == (2 * Contexts().count, 2 * Contexts().count)
    assert torch.equal(found[[5, 4, 3, 2]], first)
    assert len(files_of(cache)) == 2


def test_an_interrupted_computation_keeps_what_it_finished(clip, cache, monkeypatch):
    monkeypatch.setattr(store, "_SHARD", 2)
    tokens = clip.words.encode_words(WORDS)

    def interrupt(done: int, whole: int | None) -> None:
        if done > 2 * 2 * Contexts().count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_states(clip, tokens, progress=interrupt)
    assert len(files_of(cache)) == 2
    seen: list[tuple[int, int | None]] = []
    found = kept_states(clip, tokens, progress=lambda *given: seen.append(given))
    assert seen[-1] == (2 * Contexts().count, 2 * Contexts().count)
    torch.testing.assert_close(found, hidden_states(clip, tokens), atol=2e-2, rtol=2e-3)


def test_units_of_the_same_tokens_share_their_states(clip, cache):
    tokens = clip.words.encode_words([*WORDS, WORDS[1]])
    found = kept_states(clip, tokens)
    assert torch.equal(found[1], found[-1])
    assert not torch.equal(found[0], found[1])


def test_columns_beyond_half_precision_are_kept():
    states = torch.tensor([[3e6, 0.0, 1e-9], [-1e5, 0.0, 2e-9]])
    torch.testing.assert_close(store._restored(*store._halved(states)), states, atol=0, rtol=1e-3)


def test_a_process_waits_for_another_and_takes_what_it_computed(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    other = store.StateFolder(clip, Contexts())
    real = store.filelock.FileLock

    class Waiting(real):
        def acquire(self, *args, **kwargs):
            monkeypatch.setattr(store.filelock, "FileLock", real)
            other.states(tokens)  # while this process waits
            monkeypatch.setattr(store, "hidden_states", None)
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr(store.filelock, "FileLock", Waiting)
    assert kept_states(clip, tokens).shape[0] == len(WORDS)


def test_states_stay_in_memory_as_long_as_the_model_does(clip, monkeypatch):
    monkeypatch.setattr(store, "_made", WeakKeyDictionary())
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    assert kept_states(clip, clip.words.encode_words(WORDS)) is first
    assert kept_states(clip, tokens, Contexts(count=1)) is not first
    assert kept_states(clip, tokens) is first
    kept_states(clip, tokens, Contexts(count=2))  # one too many
    assert len(store._made[clip]) == 2


def test_other_weights_or_contexts_are_other_states(clip, cache):
    tokens = clip.words.encode_words(WORDS)
    kept_states(clip, tokens)
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
    assert len({file.parent for file in files_of(cache)}) == 3


def test_a_damaged_or_locked_cache_is_done_without(clip, cache, caplog):
    tokens = clip.words.encode_words(WORDS)
    first = kept_states(clip, tokens)
    (file,) = files_of(cache)
    file.write_bytes(b"no tensors")
    assert torch.equal(kept_states(clip, tokens), first)
    assert "computed again" in caplog.text
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    assert torch.equal(kept_states(clip, tokens), first)
    assert "not kept" in caplog.text


def test_what_is_kept_is_known_without_reading_it(clip, cache, monkeypatch):
    tokens = clip.words.encode_words(WORDS)
    assert not are_kept(clip, tokens)
    kept_states(clip, tokens)
    monkeypatch.setattr(store, "_restored", None)
    assert are_kept(clip, tokens)
    assert are_kept(clip, clip.words.encode_words(WORDS[1:]))
    assert not are_kept(clip, tokens, Contexts(count=2))
    assert not are_kept(clip, clip.words.encode_words([*WORDS, "below"]))
    monkeypatch.setattr(store, "KEPT_FROM", len(WORDS) + 1)
    assert not are_kept(clip, tokens), "few words are computed again"
    monkeypatch.undo()
    kept_states(clip, tokens)
    assert are_kept(clip, tokens)
