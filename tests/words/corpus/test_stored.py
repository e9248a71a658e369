"""Arrays and texts in files against those in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import StorageError
from fuse_index.words.corpus.counting import open_words, store_words
from fuse_index.words.corpus.stored import StoredArray, Texts
from fuse_index.words.corpus.words import WordCounts
from fuse_index.words.ragged import offsets_of


@pytest.mark.parametrize("dtype", ["u1", "<i4", "<i8"])
def test_slices_are_those_of_the_array(tmp_path, dtype):
    whole = np.arange(60).astype(dtype)
    (tmp_path / "a").write_bytes(whole.tobytes())
    vector, matrix = (StoredArray.open(tmp_path / "a", dtype, n) for n in (None, 4))
    rows = whole.reshape(15, 4)
    assert (len(vector), len(matrix), matrix.shape) == (60, 15, (15, 4))
    for start, stop in ((0, 60), (3, 9), (5, 5), (9, 3), (10, 99), (-4, None), (None, -50)):
        part = slice(start, stop)
        assert vector[part].tolist() == whole[part].tolist()
        assert matrix[part].tolist() == rows[part].tolist()
        assert matrix[part].shape == rows[part].shape


def test_a_file_that_became_shorter_is_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(80))
    array = StoredArray.open(path, "<i8")
    path.write_bytes(bytes(70))
    assert array[:8].tolist() == [0] * 8
    with pytest.raises(StorageError, match="ends early; expected 2 bytes more"):
        array[7:9]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8))
def test_texts_are_those_that_were_encoded(words):
    encoded = [word.encode() for word in words]
    lengths = np.array([len(word) for word in encoded], np.int64)
    texts = Texts(np.frombuffer(b"".join(encoded), np.uint8), offsets_of(lengths))
    assert list(texts) == words
    assert texts[:] == tuple(words)
    assert [texts[i] for i in range(-len(words), len(words))] == words * 2
    assert texts[1:3] == tuple(words[1:3])
    assert texts[3:1] == ()
    with pytest.raises(IndexError):
        texts[len(words)]


def test_words_in_files_are_words(tmp_path):
    words, counts = ("zwölf", "a", "\N{SNOWMAN}", "bc"), np.array([9, 5, 5, 1])
    batches = []
    for part in (slice(0, 3), slice(3, 3), slice(3, 4)):
        encoded = [word.encode() for word in words[part]]
        lengths = np.array([len(word) for word in encoded], np.int64)
        data = np.frombuffer(b"".join(encoded), np.uint8)
        batches.append((data, offsets_of(lengths), counts[part]))
    assert open_words(tmp_path) is None
    stored, expected = store_words(tmp_path, batches), WordCounts(words, counts)
    for found in (stored, open_words(tmp_path)):
        assert found is not None
        assert (len(found), found.sha256()) == (4, expected.sha256())
        part = found.part(1, 3)
        assert (part.words, part.counts.tolist()) == (words[1:3], [5, 5])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "words.bytes",
        "words.counts",
        "words.offsets",
    ]


def test_words_that_were_not_all_written_are_none(tmp_path):
    def broken():
        yield np.zeros(1, np.uint8), np.array([0, 1]), np.array([1])
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        store_words(tmp_path, broken())
    assert open_words(tmp_path) is None
    assert not list(tmp_path.iterdir())
