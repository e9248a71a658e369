"""Ids of plain texts in C++: for the tokenizers everyone has, in a quarter of the time.

A text is plain if it is printable ASCII with at most one space, at its beginning: nearly every part
that a candidate makes. What splits it into pieces is one of five well-known rules, and what cuts
pieces into tokens is BPE or WordPiece; both are read from the tokenizer's own definition, and the
result is compared with the tokenizer on pieces of its vocabulary before it is used. Whatever else a
tokenizer does (dropout, added tokens, other patterns) means that there is no such encoder for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from fuse_index.words.ragged import Int64
from fuse_index.words.tokenizers.backends import Backend
from fuse_index.words.tokenizers.fast_backend import FastBackend
from fuse_index.words.tokenizers.locality import (
    CLIP_PATTERNS,
    GPT4_PATTERN,
    QWEN_PATTERN,
    pipeline_steps,
)
from fuse_index.words.tokenizers.open_clip_backends import OpenClipBackend
from fuse_index.words.tokenizers.vocabulary import spread

logger = logging.getLogger(__name__)

GPT2, CLIP, BERT, GPT4, QWEN = range(5)
"""How texts are split; the numbers are those of ``csrc/words/piece_encoder.h``."""
_SPACE = "Ġ"
_PROBES = 400
_STRIDE = 7
_PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
_SAME_ON_ASCII = ("NFC", "NFD", "NFKC", "NFKD", "StripAccents")


class PlainEncoder(Protocol):
    """What the extension's ``PieceEncoder`` does."""

    def encode(self, texts: list[str]) -> tuple[Int64, Int64]:
        """Encode texts: how many ids each has, -1 if it is not plain, and the ids, packed."""


_MADE: WeakKeyDictionary[Backend, PlainEncoder | None] = WeakKeyDictionary()
"""Making one takes tenths of a second."""


def plain_encoder_of(backend: Backend) -> PlainEncoder | None:
    """Return the encoder of a tokenizer, made once, or None where there is none.

    Args:
        backend: the private copy of the tokenizer.
    """
    if backend not in _MADE:
        _MADE[backend] = _made(backend)
    return _MADE[backend]


def _made(backend: Backend) -> PlainEncoder | None:
    from fuse_index.ops import _native  # noqa: PLC0415 - imports torch

    module = _native.module()
    spec = _pipeline(backend)
    if module is None or spec is None or _has_visible_tokens(spec):
        return None
    lower, split = _lower(spec["normalizer"]), _split(spec["pre_tokenizer"])
    if lower is None or split is None or (split == CLIP and not lower):
        return None
    encoder: PlainEncoder | None = _with_model(module.PieceEncoder, spec["model"], split, lower)
    if encoder is None or not _agrees(encoder, backend):
        return None
    return encoder


def _pipeline(backend: Backend) -> dict[str, Any] | None:
    """The definition that plain texts go through."""
    if isinstance(backend, FastBackend | OpenClipBackend):
        return backend.plain_pipeline()
    return None


def _has_visible_tokens(spec: dict[str, Any]) -> bool:
    """Whether a text may spell an added token; those no text can match have a NUL in them."""
    return any("\0" not in token["content"] for token in spec.get("added_tokens") or [])


def _lower(normalizer: Any) -> bool | None:
    """Whether plain texts are lowered, None if something else may happen to them."""
    lower = False
    for step in pipeline_steps(normalizer, "normalizers"):
        if step["type"] == "BertNormalizer":
            lower = lower or bool(step["lowercase"])
        elif step["type"] == "Lowercase":
            lower = True
        elif step["type"] == "Replace":
            if step["pattern"] != {"Regex": r"\s+"} or step["content"] != " ":
                return None
        elif step["type"] not in _SAME_ON_ASCII:
            return None
    return lower


def _split(pre_tokenizer: Any) -> int | None:
    steps = pipeline_steps(pre_tokenizer, "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds == ["BertPreTokenizer"]:
        return BERT
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if kinds == ["ByteLevel"]:
        return GPT2 if steps[0].get("use_regex", True) else None
    if kinds != ["Split", "ByteLevel"]:
        return None
    pattern = str(steps[0]["pattern"].get("Regex"))
    way = steps[0]["behavior"], bool(steps[0]["invert"])
    if way == ("Isolated", False) and not steps[1].get("use_regex", True):
        return {GPT4_PATTERN: GPT4, QWEN_PATTERN: QWEN}.get(pattern)
    bare = pattern.removeprefix("(?i:").removesuffix(")")
    return CLIP if way == ("Removed", True) and bare in CLIP_PATTERNS else None


def _with_model(native: Any, model: dict[str, Any], split: int, lower: bool) -> Any:
    if model["type"] == "WordPiece" and split == BERT:
        return _longest_words(native, model, split, lower)
    odd = ("dropout", "continuing_subword_prefix", "byte_fallback")
    if model["type"] != "BPE" or split == BERT or any(model.get(key) for key in odd):
        return None
    return _pair_merges(native, model, split, lower)


def _pair_merges(native: Any, model: dict[str, Any], split: int, lower: bool) -> Any:
    vocabulary, suffix = model["vocab"], model.get("end_of_word_suffix") or ""
    pairs = [m.split(" ", 1) if isinstance(m, str) else list(m) for m in model["merges"]]
    characters = np.full((2, 128), -1, np.int64)
    for row, end in enumerate(("", suffix)):
        for character in _PRINTABLE:
            characters[row, ord(character)] = vocabulary.get(character + end, -1)
        characters[row, ord(" ")] = vocabulary.get(_SPACE + end, -1)
    ids = [[vocabulary.get(t, -1) for t in (left, right, left + right)] for left, right in pairs]
    # of tokens that were taken out of the vocabulary there are merges still
    merges = np.array([row for row in ids if min(row) >= 0], np.int64).reshape(-1, 3)
    whole: dict[str, int] = {}
    if model.get("ignore_merges"):
        if suffix:
            return None
        plain = {token.replace(_SPACE, " "): id_ for token, id_ in vocabulary.items()}
        whole = {token: id_ for token, id_ in plain.items() if token.isascii()}
    return native.from_merges(split, lower, characters, merges, list(whole), list(whole.values()))


def _longest_words(native: Any, model: dict[str, Any], split: int, lower: bool) -> Any:
    prefix, unknown = model["continuing_subword_prefix"], model["vocab"].get(model["unk_token"])
    if unknown is None or not prefix:
        return None
    plain = {token: id_ for token, id_ in model["vocab"].items() if token.isascii()}
    further = {token: id_ for token, id_ in plain.items() if token.startswith(prefix)}
    return native.from_words(
        split,
        lower,
        list(plain),
        list(plain.values()),
        [token[len(prefix) :] for token in further],
        list(further.values()),
        unknown,
        model["max_input_chars_per_word"],
    )


def _agrees(encoder: PlainEncoder, backend: Backend) -> bool:
    """Whether the encoder gives what the tokenizer does, on joins of its tokens."""
    texts = probe_texts(backend.tokens)
    counts, ids = encoder.encode(texts)
    known = counts >= 0
    wanted = backend.encode_batch([text for text, here in zip(texts, known, strict=True) if here])
    rows = np.split(ids, np.cumsum(counts[known])[:-1]) if known.any() else []
    same = [row.tolist() for row in rows] == wanted
    if not same:
        logger.warning("the tokenizer is not what its definition says: no encoder of plain texts")
    return same


def probe_texts(tokens: Sequence[str | None]) -> list[str]:
    """Return plain texts made of a vocabulary's tokens, joined by what splits them.

    Every joint is tried between tokens from all over the vocabulary.
    """
    pieces = [token.strip(f"{_SPACE}#").replace("</w>", "") for token in tokens if token]
    pieces = [piece.replace(" ", "") for piece in pieces if piece.isascii() and piece.isprintable()]
    pieces = spread(sorted({*pieces} - {""}) or ["a"], _PROBES)
    joints = ["", "", "", "'", "'s", "'LL", "'re", "!", "--", "12", "Z", "_", "&", "<|", "''s"]
    texts = [
        left + joints[i % len(joints)] + pieces[-1 - i * _STRIDE % len(pieces)]
        for i, left in enumerate(pieces)
    ]
    spaced = [f" {text}" for text in texts[::2]] + texts[1::2]
    return [*spaced, "'s", " 's", "'", " a", "x" * 127]
