"""Tokenizing and decoding text that goes on from other text.

SentencePiece-like tokenizers put a space before the text they are given, and their decoders take it
off: right at the beginning of a text, wrong in the middle of one. Here are a tokenizer's twins for
text that follows other text.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from fuse_index.words.tokenizers.backends import Backend, DerivedBackend
from fuse_index.words.tokenizers.decoding import DecodePlan, decode_plan
from fuse_index.words.tokenizers.fast_backend import FastBackend
from fuse_index.words.tokenizers.locality import Locality, locality_of
from fuse_index.words.tokenizers.probes import probe_anchor, probe_words
from fuse_index.words.tokenizers.tokenization import WordTokenizer

_ANCHORS = (":", "\n", "7")
"""What text is put behind, after a word: the first that keeps its tokens."""
_ENCODERS: WeakKeyDictionary[Backend, WordTokenizer | None] = WeakKeyDictionary()


def continuing(words: WordTokenizer) -> WordTokenizer:
    """Return a tokenizer that encodes texts as they stand behind other text.

    Args:
        words: the tokenizer.

    Returns:
        ``words`` itself where the beginning of a text is like any other place.
    """
    backend = words.backend
    if backend not in _ENCODERS:
        twin = _twin(backend)
        _ENCODERS[backend] = None if twin is backend else WordTokenizer(twin)
    return _ENCODERS[backend] or words


def view(
    words: WordTokenizer, *, continued: bool = False, drop: str = "", add: str = ""
) -> WordTokenizer:
    """Return a tokenizer that decodes differently at the beginning of a text.

    Args:
        words: the tokenizer.
        continued: whether texts are decoded as they stand behind other text.
        drop: what is taken off the beginning of a text that begins with it.
        add: what is put before it then.

    Returns:
        ``words`` itself where that changes nothing.
    """
    continued = continued and not decodes_alike(words)
    if not (continued or drop or add):
        return words
    made = copy.copy(words)
    made.backend = _ViewBackend(words, continued, drop, add)
    return made


def decodes_alike(words: WordTokenizer) -> bool:
    """Whether ids at the beginning of a text decode as behind other text."""
    rows = words.encode_running(probe_words(words.backend)).to_lists()
    return words.decode_batch(rows) == _decode_behind(words.backend, rows)


class _ViewBackend(DerivedBackend):
    """Decodes as :func:`view` says; encodes as the tokenizer does."""

    def __init__(self, words: WordTokenizer, continued: bool, drop: str, add: str) -> None:
        super().__init__(words.backend)
        self._continued, self._drop, self._add = continued, drop, add

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        inner = self.inner
        found = _decode_behind(inner, rows) if self._continued else inner.decode_batch(rows)
        return [self._add + text.removeprefix(self._drop) for text in found]

    def plan(self) -> DecodePlan | None:
        """The plan of the tokenizer with other first pieces."""
        plan = decode_plan(self.inner)
        if plan is None or plan.strip:
            return None
        drop, add = self._drop.encode(), self._add.encode()
        first = plan.inside if self._continued else plan.first
        return replace(plan, first=tuple(add + piece.removeprefix(drop) for piece in first))


class _AnchoredBackend(DerivedBackend):
    """Encodes texts behind an anchor, whose tokens are cut off."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        return _encode_behind(self.inner, texts)

    def cuts(self) -> Locality | None:
        """The proof of the tokenizer; parts from the middle are encoded behind a word."""
        found = locality_of(self.inner)
        return None if found is None else replace(found, anchor=probe_anchor(self.inner))


def _twin(backend: Backend) -> Backend:
    """What encodes text behind other text."""
    candidates = [backend]
    if isinstance(backend, FastBackend):
        candidates.append(_without_beginning(backend))
    texts = [lead + word for lead in (" ", "") for word in probe_words(backend)]
    wanted = _encode_behind(backend, texts)
    for candidate in candidates:
        if candidate.encode_batch(texts) == wanted:
            return candidate
    return _AnchoredBackend(backend)


def _encode_behind(backend: Backend, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts behind the first anchor that keeps its tokens; as they stand if none does."""
    found: list[list[int] | None] = [None] * len(texts)
    word = probe_anchor(backend)
    for anchor in (word, *_ANCHORS):
        open_ = [i for i, row in enumerate(found) if row is None]
        (head,) = backend.encode_batch([anchor])
        if not open_ or not head:
            continue
        rows = backend.encode_batch([anchor + texts[i] for i in open_])
        for i, row in zip(open_, rows, strict=True):
            if row[: len(head)] == head and (texts[i][:1].isspace() or anchor != word):
                found[i] = row[len(head) :]
    left = [i for i, row in enumerate(found) if row is None]
    for i, row in zip(left, backend.encode_batch([texts[i] for i in left]), strict=True):
        found[i] = row
    return [row for row in found if row is not None]


def _decode_behind(backend: Backend, rows: Sequence[Sequence[int]]) -> list[str]:
    """Decode rows behind an anchor, whose text is cut off."""
    (anchor,) = backend.encode_batch([probe_anchor(backend)])
    (head,) = backend.decode_batch([anchor])
    texts = backend.decode_batch([[*anchor, *row] for row in rows])
    return [
        text[len(head) :] if text.startswith(head) else backend.decode_batch([row])[0]
        for text, row in zip(texts, rows, strict=True)
    ]


def _without_beginning(backend: FastBackend) -> FastBackend:
    """A copy of a tokenizer that puts nothing before a text."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - heavy

    spec = {
        **backend.spec,
        "normalizer": _edited(backend.spec["normalizer"]),
        "pre_tokenizer": _edited(backend.spec["pre_tokenizer"]),
    }
    if spec == backend.spec:
        return backend
    made = copy.copy(backend)
    made.spec = spec
    made._tokenizer = Tokenizer.from_str(json.dumps(made.plain_pipeline()))
    made._tokenizer.encode_special_tokens = True
    made.definition = {**backend.definition, **{key: spec[key] for key in _STEPS}}
    return made


_STEPS = ("normalizer", "pre_tokenizer")


def _edited(step: Any) -> Any:
    """A step of the pipeline that treats the beginning of a text like any other place."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return {**step, key: [kept for item in step[key] if (kept := _edited(item)) is not None]}
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if step["type"] == "Strip":
        return {**step, "strip_left": False}
    return {**step, "add_prefix_space": False} if "add_prefix_space" in step else step
