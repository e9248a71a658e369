"""Adapters built on first use: where they are kept, when they are built again, what is refused."""

from __future__ import annotations

import errno
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fuse_index.adapter import Adapter
from fuse_index.demo import DemoModel, model_name
from fuse_index.errors import BundleError, CorpusError, IdentityError, StorageError, VocabularyError
from fuse_index.models import load_model
from fuse_index.run import AdapterConfig, AdapterStore, cache_folder
from fuse_index.run.adapters import shared_words, whole_words


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FUSE_INDEX_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fuse_index"
    monkeypatch.setenv("FUSE_INDEX_CACHE", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other"


def test_an_adapter_is_built_once_and_found_again(lm, sentiment, config, monkeypatch):
    first = AdapterStore(lm, config)
    adapter = first.get(sentiment)
    path = first.path_of(sentiment)
    assert path.is_dir()
    assert path.parent == config.cache / "adapters"
    assert (adapter.source_width, adapter.target_width) == (lm.width, sentiment.width)
    assert first.get(sentiment) is adapter
    # the words were not counted twice, and nothing is fitted again
    monkeypatch.setattr(AdapterStore, "_build", lambda *_: pytest.fail("built again"))
    assert AdapterStore(lm, config).get(sentiment).bundle.manifest == adapter.bundle.manifest


def test_the_place_depends_on_models_words_and_options(lm, sentiment, config, tmp_path):
    place = AdapterStore(lm, config).path_of(sentiment)
    assert AdapterStore(lm, config).path_of(lm) != place
    assert AdapterStore(sentiment, config).path_of(lm) != place
    assert AdapterStore(lm, replace(config, max_tokens=3)).path_of(sentiment) != place
    assert AdapterStore(lm, replace(config, words=None)).path_of(sentiment) != place
    copy = tmp_path / "elsewhere.txt"
    copy.write_bytes(Path(config.words).read_bytes())
    moved = AdapterStore(lm, replace(config, words=str(copy)))
    assert moved.path_of(sentiment) == place  # the content counts, not the name
    copy.write_bytes(copy.read_bytes() + b"more\n")
    assert AdapterStore(lm, replace(config, words=str(copy))).path_of(sentiment) != place


def test_the_place_does_not_depend_on_the_dtype(lm, sentiment, config):
    import torch

    half = load_model(model_name(DemoModel.SENTIMENT), device="cpu", dtype=torch.bfloat16)
    assert half.identity().embedding_hash == ""
    store = AdapterStore(lm, config)
    assert store.path_of(half) == store.path_of(sentiment)


def test_a_damaged_adapter_is_built_again(lm, sentiment, config, tmp_path, caplog):
    config = replace(config, cache=tmp_path)
    store = AdapterStore(lm, config)
    before = store.get(sentiment)
    file = store.path_of(sentiment) / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        again = AdapterStore(lm, config).get(sentiment)
    assert "the adapter in the cache is built again" in caplog.text
    assert again.bundle.manifest == before.bundle.manifest
    assert (again.faces == before.faces).all()


def test_two_at_once_build_one(lm, sentiment, config, tmp_path, monkeypatch):
    config = replace(config, cache=tmp_path)
    built = []
    build = AdapterStore._build
    monkeypatch.setattr(AdapterStore, "_build", lambda *given: (built.append(1), build(*given))[1])
    stores = [AdapterStore(lm, config) for _ in range(3)]
    threads = [threading.Thread(target=store.get, args=(sentiment,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


def test_a_model_with_the_same_tokens_needs_none(lm, config):
    other = load_model(model_name(DemoModel.LM), device="cpu")
    assert AdapterStore(lm, config).get(other) is None


def test_a_given_bundle(lm, sentiment, store):
    path = store.path_of(sentiment)
    store.get(sentiment)
    adapter = AdapterStore(lm).get(sentiment, path)
    assert isinstance(adapter, Adapter)
    judge = load_model(model_name(DemoModel.JUDGE), device="cpu")
    with pytest.raises(IdentityError, match=r"the target model is .*judge.*load the other model"):
        AdapterStore(lm).get(judge, path)
    with pytest.raises(BundleError, match=r"does not exist; expected a folder that 'fuse-index b"):
        AdapterStore(lm).get(sentiment, Path("nowhere"))


def test_a_cache_that_cannot_be_written(lm, sentiment, config, tmp_path):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="set FUSE_INDEX_CACHE, or give adapters"):
        AdapterStore(lm, replace(config, cache=file)).get(sentiment)


class ReadOnlyLock:
    """A lock whose file cannot be made."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def acquire(self) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_filled_cache_needs_no_lock_and_no_writing(lm, sentiment, config, tmp_path, monkeypatch):
    config = replace(config, cache=tmp_path)
    before = AdapterStore(lm, config).get(sentiment)
    monkeypatch.setattr("filelock.FileLock", ReadOnlyLock)
    folder = AdapterStore(lm, config).path_of(sentiment)
    for path in (*folder.iterdir(), folder, folder.parent):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert (AdapterStore(lm, config).get(sentiment).faces == before.faces).all()
    finally:
        for path in (folder.parent, folder):
            path.chmod(0o755)


def test_a_cache_that_is_read_only_and_lacks_the_adapter(
    lm, sentiment, config, tmp_path, monkeypatch
):
    """Missing or damaged, it would have to be built: one line says what to do."""
    config = replace(config, cache=tmp_path)
    message = (
        "adapters: Read-only file system; expected a folder that can be .*set FUSE_INDEX_CACHE"
    )
    with monkeypatch.context() as patched:
        patched.setattr("filelock.FileLock", ReadOnlyLock)
        with pytest.raises(StorageError, match=message):
            AdapterStore(lm, config).get(sentiment)
    AdapterStore(lm, config).get(sentiment)
    file = AdapterStore(lm, config).path_of(sentiment) / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr("filelock.FileLock", ReadOnlyLock)
    with pytest.raises(StorageError, match=message):
        AdapterStore(lm, config).get(sentiment)


def test_a_process_that_builds_for_ever(lm, sentiment, config, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("fuse_index.run.adapters._WAIT_SECONDS", 0.1)
    store = AdapterStore(lm, replace(config, cache=tmp_path))
    path = store.path_of(sentiment)
    path.parent.mkdir()
    with (
        FileLock(path.with_name(f"{path.name}.lock")),
        pytest.raises(StorageError, match=r"under construction by another process .*; expected an"),
    ):
        store.get(sentiment)


def test_words_from_a_corpus(lm, sentiment, config, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a red star above a blue ring\n" * 20, encoding="utf-8")
    from_text = replace(config, words=None, corpus=(str(text),))
    adapter = AdapterStore(lm, from_text).get(sentiment)
    assert sorted(adapter.bundle.table.words) == ["a", "above", "blue", "red", "ring", "star"]
    for bad, message in ((str(tmp_path / "no.txt"), "does not exist"), ("-", "standard input")):
        with pytest.raises(CorpusError, match=message):
            AdapterStore(lm, replace(config, words=None, corpus=(bad,))).get(sentiment)


def test_words_without_any_text(lm, sentiment, tmp_path, caplog):
    shared = shared_words(lm, sentiment).words
    assert set(shared) == whole_words(lm) & whole_words(sentiment)
    for model in (lm, sentiment):
        assert set(model.words.encode_words(shared).lengths.tolist()) == {1}
    assert {"red", "circle", "the"} - set(shared) <= {"red"}
    text = tmp_path / "text.txt"
    text.write_text("violetly hoops", encoding="utf-8")
    more = shared_words(lm, sentiment, [text]).words
    assert set(more) == {*shared, "violetly", "hoops"}
    with caplog.at_level(logging.WARNING, logger="fuse_index"):
        adapter = AdapterStore(lm, AdapterConfig(cache=tmp_path)).get(sentiment)
    assert f"is built from {len(shared)} words only" in caplog.text
    assert set(adapter.bundle.table.words) == set(shared)


def test_no_word_in_common(lm, sentiment, monkeypatch):
    monkeypatch.setattr("fuse_index.run.adapters.whole_words", lambda model: {model.name})
    with pytest.raises(VocabularyError, match=r"hold no word as one token both.*give a corpus"):
        shared_words(lm, sentiment)
