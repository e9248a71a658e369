"""Decoding as concatenation: the bytes every token adds to a text, where a tokenizer works so.

For most tokenizers the text of a row of ids is the bytes of its tokens one after another, the first
token's perhaps others than inside. Knowing them, a row can be decoded without the tokenizer, and
each token has a place in the text. Tokens whose bytes depend on their neighbours are marked, and
rows that hold one are left to the tokenizer.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.tokenizers.backends import Backend, DerivedBackend
from fuse_index.words.tokenizers.fast_backend import SAME, SUFFIX_TO_SPACE, FastBackend
from fuse_index.words.tokenizers.open_clip_backends import CleaningBackend, OpenClipBackend
from fuse_index.words.tokenizers.vocabulary import sample_ids

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MARK = len("\ufffd".encode())
Pieces = Sequence[bytes | None]


@dataclass(frozen=True, eq=False)
class DecodePlan:
    """The bytes of every token.

    Args:
        first: ``V`` byte strings: what a token adds as the first of a row.
        inside: ``V`` byte strings: what it adds after others.
        exact: ``(V,)`` booleans: rows with this token must be decoded by the tokenizer.
        strip: whether white space at both ends of the text is removed afterwards.
    """

    first: tuple[bytes, ...]
    inside: tuple[bytes, ...]
    exact: NDArray[np.bool_]
    strip: bool

    @classmethod
    def of(cls, first: Pieces, inside: Pieces, exact: Sequence[bool], *, strip: bool) -> DecodePlan:
        """Make a plan; a piece that is None, where there is no token, adds nothing."""
        heads, rest = (tuple(piece or b"" for piece in pieces) for pieces in (first, inside))
        return cls(heads, rest, np.array(exact, np.bool_), strip)

    @cached_property
    def _exact_ids(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.exact).tolist())

    def decode(self, row: Sequence[int]) -> tuple[str, list[int]] | None:
        """Decode one row.

        Args:
            row: token ids in range.

        Returns:
            The text and, for every token, the offset in its UTF-8 bytes where the token begins;
            None where only the tokenizer can tell.
        """
        if not self._exact_ids.isdisjoint(row):
            return None
        pieces = [self.inside[id_] for id_ in row]
        pieces[:1] = [self.first[id_] for id_ in row[:1]]
        starts = [0, *accumulate(map(len, pieces))][: len(row)]
        data = b"".join(pieces)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text, starts = _with_replacements(data, starts)
        if not self.strip:
            return text, starts
        begin = len(text[: len(text) - len(text.lstrip())].encode())
        text = text.strip()
        size = len(text.encode())
        return text, [min(max(start - begin, 0), size) for start in starts]


def _with_replacements(data: bytes, starts: list[int]) -> tuple[str, list[int]]:
    """Decode bytes that are not UTF-8, and move offsets to where U+FFFD leaves them."""
    wrong: list[tuple[int, int]] = []

    def note(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        wrong.append((error.start, error.end))
        return "\ufffd", error.end

    codecs.register_error("fuse_index_note", note)
    text = data.decode("utf-8", "fuse_index_note")
    moved = []
    for start in starts:
        shift = sum(_MARK - (end - begin) for begin, end in wrong if end <= start)
        inside = next((begin for begin, end in wrong if begin < start < end), None)
        moved.append((start if inside is None else inside + _MARK) + shift)
    return text, moved


def decode_plan(backend: Backend) -> DecodePlan | None:
    """The bytes of every token of a tokenizer, or None if its decoder is none of the known ones.

    Args:
        backend: the private copy of the tokenizer.
    """
    if backend not in _PLANS:
        _PLANS[backend] = _made(backend)
    return _PLANS[backend]


_PLANS: WeakKeyDictionary[Backend, DecodePlan | None] = WeakKeyDictionary()
"""Making one decodes the whole vocabulary."""


def _made(backend: Backend) -> DecodePlan | None:
    if isinstance(backend, DerivedBackend):
        own: DecodePlan | None = backend.plan()
        return own
    if isinstance(backend, CleaningBackend):
        return decode_plan(backend.inner)
    plan = None
    if isinstance(backend, OpenClipBackend):
        table = byte_of_character()
        raw = [_bytes_of(token, table) for token in backend.tokens]
        plan = _with_suffix(raw, raw, b"</w>", strip=False)
    elif isinstance(backend, FastBackend):
        plan = _of_fast(backend)
    return plan if plan is not None and _agrees(plan, backend) else None


def byte_of_character() -> dict[str, int]:
    """GPT-2's table: the printable character that stands for each byte in byte-level tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + number): byte for number, byte in enumerate(others)})
    return table


def _of_fast(backend: FastBackend) -> DecodePlan | None:
    spec = backend.spec
    decoder = spec["decoder"]
    kind = decoder["type"] if decoder else None
    if kind == "ByteLevel":
        table = byte_of_character()
        first = inside = [_bytes_of(token, table) for token in backend.tokens]
    elif kind in (None, "WordPiece", "Metaspace") or _joins_then_strips(decoder):
        anchor = _anchor(backend)
        if anchor is None:
            return None
        first, inside = _pieces(backend, anchor)
    else:
        return None
    if backend.finish == SUFFIX_TO_SPACE:
        return _with_suffix(first, inside, spec["model"]["end_of_word_suffix"].encode(), strip=True)
    if backend.finish != SAME:
        return None
    exact = [piece is None or not piece for piece in inside]
    if kind == "Sequence":  # byte fallback: bytes are joined to characters across tokens
        exact = [
            bad or _BYTE_TOKEN.fullmatch(token or "") is not None
            for bad, token in zip(exact, backend.tokens, strict=True)
        ]
    return DecodePlan.of(first, inside, exact, strip=False)


def _anchor(backend: FastBackend) -> int | None:
    """A token to decode others behind: "a", or the first letter of another script."""
    odd = backend.special_ids | backend.added_ids
    letters = [i for i, t in enumerate(backend.tokens) if t and len(t) == 1 and t.isalpha()]
    found = [i for i in letters if i not in odd]
    return next((i for i in found if backend.tokens[i] == "a"), found[0] if found else None)


def _joins_then_strips(decoder: Any) -> bool:
    """Whether a sequence is Llama's: token by token, joined, then at most one space taken off."""
    if not decoder or decoder["type"] != "Sequence":
        return False
    kinds = [step["type"] for step in decoder["decoders"]]
    fuse = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    one_space = all(
        step["type"] == "Strip" and step["content"] == " " and step["start"] <= 1 > step["stop"]
        for step in decoder["decoders"][fuse + 1 :]
    )
    return (
        fuse < len(kinds)
        and set(kinds[:fuse]) <= {"Replace", "ByteFallback"}
        and len(kinds) <= fuse + 2
        and one_space
    )


def _pieces(backend: FastBackend, anchor: int) -> tuple[list[bytes | None], list[bytes | None]]:
    """What every token adds as the first of a row and after another, found by decoding."""
    known = [id_ for id_, token in enumerate(backend.tokens) if token is not None]
    head = backend.decode_batch([[anchor]])[0]
    alone = backend.decode_batch([[id_] for id_ in known])
    after = backend.decode_batch([[anchor, id_] for id_ in known])
    first: list[bytes | None] = [None] * len(backend.tokens)
    inside: list[bytes | None] = [None] * len(backend.tokens)
    for id_, text, pair in zip(known, alone, after, strict=True):
        if pair.startswith(head):
            first[id_], inside[id_] = text.encode(), pair[len(head) :].encode()
    return first, inside


def _with_suffix(first: Pieces, inside: Pieces, suffix: bytes, *, strip: bool) -> DecodePlan:
    """The plan of a decoder that turns the end-of-word suffix into a space at the end.

    A token that ends with the beginning of the suffix may form one with the token after it.
    """
    starts = tuple(suffix[:size] for size in range(1, len(suffix)))
    exact = [piece is None or piece.endswith(starts) for piece in inside]
    spaced = [
        [piece and piece.replace(suffix, b" ") for piece in table] for table in (first, inside)
    ]
    return DecodePlan.of(spaced[0], spaced[1], exact, strip=strip)


def _bytes_of(token: str | None, table: dict[str, int]) -> bytes | None:
    """A byte-level token's bytes; a token with other characters stands for its own UTF-8."""
    if token is None:
        return None
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()


def _agrees(plan: DecodePlan, backend: Backend) -> bool:
    """Whether the plan decodes as the tokenizer does, on every kind of token in every place."""
    ids = sample_ids(backend.tokens, backend.special_ids | backend.added_ids)
    rows = [ids[i : i + size] for size in (1, 3) for i in range(len(ids))]
    apart = max(1, len(ids) // 8)
    rows += [ids[i::apart] for i in range(apart)]
    decoded = [plan.decode(row) for row in rows]
    return all(
        found is None or found[0] == own
        for found, own in zip(decoded, backend.decode_batch(rows), strict=True)
    )
