"""The interface of a wrapped tokenizer, and transformers' tokenizers written in Python.

Every backend works on a private copy: it never pads or truncates, adds no special token, and reads
a special token that is spelled out in a text as text.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

from fuse_index.errors import ModelError
from fuse_index.words.tokenizers.vocabulary import is_character, is_word


class Backend(Protocol):
    """Text to ids and back, with neither padding nor special tokens."""

    tokens: list[str | None]
    """The token of every id up to the highest; None where the vocabulary has a gap."""
    unknown_id: int | None
    special_ids: frozenset[int]
    """Ids that no text gets."""
    added_ids: frozenset[int]
    """Ids of tokens that were added to the vocabulary as trained, and are not special."""
    definition: dict[str, Any]
    """JSON-able description of everything that decides about ids and text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row of ids; ids are in range."""

    def independent(self, word: str) -> bool:
        """Whether no neighbour changes how a word is cleaned and cut; True where trying tells."""


class DerivedBackend:
    """A backend made from another one, which says itself how it decodes and where texts are cut.

    Args:
        inner: the other one.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.tokens = inner.tokens
        self.unknown_id = inner.unknown_id
        self.special_ids = inner.special_ids
        self.added_ids = inner.added_ids
        self.definition = {**inner.definition, "derived": type(self).__name__}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        return self.inner.encode_batch(texts)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        return self.inner.decode_batch(rows)

    def independent(self, word: str) -> bool:
        """Whether no neighbour changes how a word is cleaned and cut."""
        return self.inner.independent(word)

    def plan(self) -> Any:
        """The bytes of every token (:mod:`fuse_index.words.tokenizers.decoding`), None without."""
        return None

    def cuts(self) -> Any:
        """Where texts may be cut (:mod:`fuse_index.words.tokenizers.locality`), None without."""
        return None


class PythonBackend:
    """A transformers tokenizer written in Python (sentencepiece and others)."""

    def __init__(self, tokenizer: Any) -> None:
        self._decoder = copy.deepcopy(tokenizer)
        self.tokens = tokens_by_id(dict(tokenizer.get_vocab()))
        self.unknown_id = tokenizer.unk_token_id
        special = frozenset(id_ for id_ in tokenizer.all_special_ids if id_ is not None)
        added = {
            token.content: id_
            for id_, token in tokenizer.added_tokens_decoder.items()
            if not token.special and id_ not in special
        }
        self.added_ids = frozenset(added.values())
        self._encoder = _without_specials(copy.deepcopy(tokenizer), self.added_ids)
        self.special_ids = special - self._text_ids(special)
        model = getattr(tokenizer, "sp_model", None)
        self._lattice = model if model is not None and _has_nbest(model) else None
        self.definition = {
            "kind": type(tokenizer).__name__,
            "tokens": self.tokens,
            "special": sorted(special),
            "added": sorted(added.items()),
            "model": model.serialized_model_proto().hex() if model is not None else None,
        }

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        return [self._encode(text) for text in texts]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        return [self._decoder.decode(list(row)) if len(row) else "" for row in rows]

    def encode_with_specials(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, in which special tokens that are spelled out count as such."""
        return [self._decoder.encode(text, add_special_tokens=False) for text in texts]

    def independent(self, word: str) -> bool:
        """Whether the best way to cut a word into pieces of a Unigram model wins clearly.

        The model adds scores up in float32 over the whole text, so what stands before a word
        decides between two ways with the same score.
        """
        if self._lattice is None:
            return True
        score = self._lattice.get_score
        ways = self._lattice.nbest_encode_as_ids(f"a {word}", 2)
        totals = [sum(map(score, way)) for way in ways]
        return len(totals) < 2 or totals[0] - totals[1] > _TIE

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.convert_tokens_to_ids(self._encoder.tokenize(text))
        return ids

    def _text_ids(self, special: frozenset[int]) -> frozenset[int]:
        """Those of the special tokens that are characters or words which texts are made of."""
        tokens = {id_: self.tokens[id_] or "" for id_ in special}
        return frozenset(
            id_
            for id_, token in tokens.items()
            if (is_character(token) or is_word(token)) and id_ in self._encode(token.strip("▁"))
        )


_TIE = 1e-2
"""Scores closer than this may compare either way after some thousand float32 additions."""

PROBE_TEXTS = (
    "A  b\tC",
    "x_y, don't stop. 2024!",
    "&lt;b&gt; &amp;amp;",
    "“q” schÃ¶n ﬁ①",
    " pad ",
    "İstanbul Straße ÉTÉ e\u0301 中文 한국어",
)
"""Texts that tell ways of cleaning and splitting apart."""


def tokens_by_id(vocabulary: dict[str, int]) -> list[str | None]:
    """A vocabulary as a list indexed by id.

    Raises:
        ModelError: if the vocabulary is empty or has a negative id.
    """
    if not vocabulary or min(vocabulary.values()) < 0:
        raise ModelError("the tokenizer's vocabulary is empty or has negative ids")
    tokens: list[str | None] = [None] * (1 + max(vocabulary.values()))
    for token, id_ in vocabulary.items():
        tokens[id_] = token
    return tokens


def _without_specials(tokenizer: Any, added: frozenset[int]) -> Any:
    """Make a copy forget which tokens are special, so that a text may spell them.

    Args:
        tokenizer: the copy.
        added: ids of the added tokens that are not special; they stay.
    """
    kind = type(tokenizer)
    hidden = {"all_special_tokens": property(lambda _: [])}
    tokenizer.__class__ = type(kind.__name__, (kind,), hidden)
    tokens = {id_: tokenizer._added_tokens_decoder[id_] for id_ in added}
    tokenizer._added_tokens_decoder = tokens
    tokenizer._added_tokens_encoder = {token.content: id_ for id_, token in tokens.items()}
    tokenizer.tokens_trie = type(tokenizer.tokens_trie)()
    tokenizer._update_trie()
    return tokenizer


def _has_nbest(model: Any) -> bool:
    """Whether a sentencepiece model weighs several ways to cut a text (Unigram does, BPE not)."""
    try:
        model.nbest_encode_as_ids("a", 2)
    except (RuntimeError, NotImplementedError):
        return False
    return True
