"""Tokenizing texts in which special tokens that are spelled out count as such."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from fuse_index.errors import ModelError
from fuse_index.words.tokenizers.backends import Backend, PythonBackend
from fuse_index.words.tokenizers.fast_backend import FastBackend

Encode = Callable[[Sequence[str]], list[list[int]]]

_FAST: WeakKeyDictionary[FastBackend, Encode] = WeakKeyDictionary()
"""Making one reads the whole vocabulary."""


def special_encoder(backend: Backend, name: str) -> Encode:
    """Return what tokenizes texts as transformers does with ``add_special_tokens=False``.

    Args:
        backend: the private copy of the tokenizer.
        name: the model, for messages.

    Raises:
        ModelError: a tokenizer that knows no special tokens in texts.
    """
    if isinstance(backend, FastBackend):
        if backend not in _FAST:
            _FAST[backend] = _fast(backend.spec)
        return _FAST[backend]
    if isinstance(backend, PythonBackend):
        return backend.encode_with_specials
    raise ModelError(
        f"{name}: special tokens in the text around a prompt",
        expected="a tokenizer of transformers, which finds them in texts",
        remedy="leave special_tokens out",
    )


def _fast(spec: dict[str, Any]) -> Encode:
    from tokenizers import Tokenizer  # noqa: PLC0415 - heavy

    tokenizer = Tokenizer.from_str(json.dumps(spec))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    return encode
