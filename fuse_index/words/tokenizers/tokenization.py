"""Words to token ids as they stand inside running text, for any tokenizer.

What a tokenizer does is found by trying it, not from the name of its class. Words are
*compositional*: the tokens of words joined by spaces are the concatenation of the words' tokens. It
holds for the words of a text that begins with ``lead``: nothing for tokenizers that treat the first
word of a text like any other, a space for those (GPT-2) that take a word after a space for another.
Some treat the first word like no other whatever stands before it (open_clip strips the text it
gives to RoBERTa's tokenizer): there the words follow an anchor word, whose tokens are cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from fuse_index.errors import ModelError, VocabularyError
from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.backends import PROBE_TEXTS, Backend, PythonBackend
from fuse_index.words.tokenizers.fast_backend import FastBackend
from fuse_index.words.tokenizers.open_clip_backends import CleaningBackend, OpenClipBackend
from fuse_index.words.tokenizers.probes import (
    PROBE_TEXT,
    PROBE_WORDS,
    probe_anchor,
    probe_words,
)

_LEADS = ("", " ")
_BATCH = 8192
_BATCH_CHARACTERS = 1 << 20


class WordTokenizer:
    """A tokenizer seen through the words it is given.

    It never pads or truncates, never adds special tokens, and a special token that is spelled out
    in a text (``[MASK]``, ``<|endoftext|>``) is text.

    Args:
        backend: the private copy of the tokenizer.

    Attributes:
        lead: what stands before the first word of a text so that it is tokenized like the others.
        anchored: whether nothing does, and words are tokenized after an anchor word instead.
        family: how its tokens look, for people.
        unknown_id: the id of tokens for what the vocabulary lacks, if there is one.
        special_ids: ids that no text gets.
        vocab_size: one more than the highest id.

    Raises:
        ModelError: if words are compositional in none of these ways.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend
        """The private copy that does the work."""
        self.unknown_id: int | None = backend.unknown_id
        self.special_ids: frozenset[int] = backend.special_ids
        self.vocab_size: int = len(backend.tokens)
        self._probe_words = probe_words(backend)
        latin = self._probe_words == PROBE_WORDS
        self.anchor: str = probe_anchor(backend)
        """A word that it knows."""
        self.probe_text: str = PROBE_TEXT if latin else " ".join(self._probe_words[:3])
        """A short text of words that it knows."""
        self._anchor_ids: tuple[int, ...] = ()
        self.lead: str = self._find_lead()
        self.anchored: bool = bool(self._anchor_ids)
        self.family: str = self._find_family()

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> WordTokenizer:
        """Wrap a tokenizer of transformers, tokenizers or open_clip; it is left as it is.

        Args:
            tokenizer: a fast or slow transformers tokenizer, a ``tokenizers.Tokenizer``, or
                open_clip's ``SimpleTokenizer`` or ``HFTokenizer``.

        Raises:
            ModelError: if it is none of these, or cannot be copied.
        """
        if isinstance(tokenizer, cls):
            return tokenizer
        return cls(_backend_of(tokenizer))

    @cached_property
    def fingerprint(self) -> str:
        """Sha256, in hex, of what turns text into ids and back, whatever the padding is set to."""
        behaviour = self.backend.encode_batch(PROBE_TEXTS)
        definition = {**self.backend.definition, "behaviour": behaviour}
        text = json.dumps(definition, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode_words(self, words: Sequence[str]) -> Ragged:
        """Tokenize words, each as if it stood inside a running text.

        Args:
            words: ``n`` words without white space.

        Returns:
            ``n`` rows of token ids.
        """
        return self.encode_running(words)

    def encode_running(self, texts: Sequence[str]) -> Ragged:
        """Tokenize texts as if each stood inside a longer text, after a space.

        Args:
            texts: ``n`` texts that begin and end with a word.

        Returns:
            ``n`` rows of token ids.

        Raises:
            VocabularyError: as :meth:`encode_texts`.
        """
        if not self.anchored:
            return self.encode_texts([self.lead + text for text in texts])
        size = len(self._anchor_ids)
        rows = self.encode_texts([f"{self.anchor} {text}" for text in texts]).to_lists()
        return Ragged.from_lists([row[size:] for row in rows])

    def encode_text(self, text: str) -> list[int]:
        """Tokenize one text as it stands, without lead or special tokens."""
        return self.encode_texts([text]).to_lists()[0]

    def encode_texts(self, texts: Sequence[str]) -> Ragged:
        """Tokenize texts as they stand, without lead or special tokens.

        Args:
            texts: ``n`` texts.

        Returns:
            ``n`` rows of token ids.

        Raises:
            VocabularyError: if a text holds a lone surrogate, which no tokenizer can read.
        """
        parts: list[Ragged] = []
        for batch in _batches(texts):
            for text in batch:
                if not is_valid_text(text):
                    raise VocabularyError(
                        f"text {text[:40]!r} holds a lone surrogate", expected="valid Unicode text"
                    )
            parts.append(Ragged.from_lists(self.backend.encode_batch(batch)))
        return Ragged.concatenate(parts) if parts else Ragged.from_lists([])

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text exactly as the tokenizer's own ``decode`` does, special tokens kept.

        Args:
            ids: token ids in ``[0, vocab_size)``.

        Raises:
            VocabularyError: if an id is outside the vocabulary.
        """
        return self.decode_batch([ids])[0]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Decode every row; see :meth:`decode`."""
        rows = [[int(id_) for id_ in row] for row in rows]
        for number, row in enumerate(rows):
            if row and (min(row) < 0 or max(row) >= self.vocab_size):
                bad = next(id_ for id_ in row if not 0 <= id_ < self.vocab_size)
                raise VocabularyError(
                    f"decode: token id {bad} in row {number}",
                    expected=f"ids from 0 to {self.vocab_size - 1}",
                    remedy="mask the rows of the embedding table that no token uses",
                )
        return self.backend.decode_batch(rows)

    def token(self, id_: int) -> str | None:
        """The token of an id as the vocabulary spells it, None where the vocabulary has a gap."""
        return self.backend.tokens[id_]

    def _find_lead(self) -> str:
        """The lead after which pairs of everyday words are compositional."""
        # of equals the first: nothing rather than a space
        best = max(_LEADS, key=self._compositional_share)
        if self._compositional_share(best) > 0.5:
            return best
        self._anchor_ids = tuple(self.backend.encode_batch([self.anchor])[0])
        if self._compositional_share(f"{self.anchor} ", self._anchor_ids) > 0.5:
            return ""
        raise ModelError(
            "the tokenizer does not split text at spaces: the tokens of two words are not the "
            "tokens of each",
            expected="a tokenizer whose words can be tokenized one by one",
        )

    def _compositional_share(self, lead: str, lead_ids: tuple[int, ...] = ()) -> float:
        """Of the pairs of everyday words, the compositional share after this lead."""
        size, words = len(lead_ids), self._probe_words
        rows = self._encode(lead, words)
        alone = dict(zip(words, rows, strict=True))
        pairs = [(first, second) for first in words for second in words]
        joined = self._encode(lead, [f"{first} {second}" for first, second in pairs])
        holds = sum(
            ids == alone[first] + alone[second][size:]
            for (first, second), ids in zip(pairs, joined, strict=True)
        )
        return holds / len(pairs) if all(tuple(row[:size]) == lead_ids for row in rows) else 0.0

    def _find_family(self) -> str:
        """What its tokens look like, for people."""
        tokens = [
            [self.token(id_) or "" for id_ in ids] for ids in self.encode_running(self._probe_words)
        ]
        firsts = [row[0] for row in tokens if row]
        kind = _model_type(self.backend)
        if any(row[-1].endswith("</w>") for row in tokens if row):
            return "end-of-word BPE (CLIP)"
        if any(token.startswith("Ġ") for token in firsts):
            return "byte-level BPE (GPT-2)"
        if any(token.startswith("▁") for token in firsts):
            return f"SentencePiece {kind}".strip()
        if kind == "WordPiece" or any(token.startswith("##") for row in tokens for token in row):
            return "WordPiece (BERT)"
        return kind or "word by word"

    def _encode(self, lead: str, texts: Sequence[str]) -> list[list[int]]:
        return self.backend.encode_batch([lead + text for text in texts])


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield texts in batches of bounded number and length: each token takes about 100 bytes."""
    start, size = 0, 0
    for stop, text in enumerate(texts):
        full = stop - start == _BATCH or size + len(text) > _BATCH_CHARACTERS
        if full and stop > start:
            yield texts[start:stop]
            start, size = stop, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def is_valid_text(text: str) -> bool:
    """Whether a string has no lone surrogate and so can be written as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _model_type(backend: Backend) -> str:
    model = backend.definition.get("model")
    return str(model.get("type", "")) if isinstance(model, dict) else ""


def _backend_of(tokenizer: Any) -> Backend:
    """Choose the backend by what the object can do."""
    if all(hasattr(tokenizer, part) for part in ("bpe_ranks", "byte_decoder", "pat", "encode")):
        return OpenClipBackend(tokenizer)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and callable(getattr(tokenizer, "clean_fn", None)):
        return CleaningBackend(_backend_of(inner), tokenizer.clean_fn)
    if hasattr(tokenizer, "backend_tokenizer"):
        return FastBackend(tokenizer.backend_tokenizer, tokenizer)
    if hasattr(tokenizer, "encode_batch_fast") and hasattr(tokenizer, "to_str"):
        return FastBackend(tokenizer)
    if hasattr(tokenizer, "get_vocab") and hasattr(tokenizer, "convert_tokens_to_ids"):
        return PythonBackend(tokenizer)
    raise ModelError(
        f"{type(tokenizer).__name__} is no tokenizer this package knows",
        expected="a tokenizer of transformers, tokenizers or open_clip",
    )
