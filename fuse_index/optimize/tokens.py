"""Which tokens of the source a prompt may be made of."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from fuse_index.common.options import options
from fuse_index.common.reading import shown
from fuse_index.errors import OptionError, VocabularyError
from fuse_index.models.base import Model

_MARKUP = frozenset("<>[]{}|")


@options(label="tokens")
class TokenFilter:
    """Options that leave tokens out; special tokens are always left out.

    Attributes:
        allow_non_ascii: whether tokens with characters outside printable ASCII may be used.
        allow_added: whether added tokens that are no words, such as <think>, may be used.
        deny_ids: token ids that may not.
        deny_pattern: regular expression; tokens whose text it finds something in may not.
        allow_pattern: regular expression; tokens whose whole text it does not match may not.
        words_only: only tokens that begin a word, made of letters alone.
    """

    allow_non_ascii: bool = False
    allow_added: bool = False
    deny_ids: tuple[int, ...] = ()
    deny_pattern: str = ""
    allow_pattern: str = ""
    words_only: bool = False

    def __post_init__(self) -> None:
        for name in ("deny_pattern", "allow_pattern"):
            try:
                re.compile(getattr(self, name))
            except (re.error, OverflowError, RecursionError) as error:
                raise OptionError(
                    f"{name} {shown(getattr(self, name))}: {error}", expected="a regular expression"
                ) from None

    def allowed(self, model: Model) -> NDArray[np.bool_]:
        """Return which tokens may be used.

        Args:
            model: the source.

        Returns:
            ``(vocabulary size,)``.

        Raises:
            OptionError: an id to deny is outside the vocabulary.
            VocabularyError: no token is left.
        """
        size = model.vocabulary_size
        if any(not 0 <= i < size for i in self.deny_ids):
            bad = next(i for i in self.deny_ids if not 0 <= i < size)
            raise OptionError(f"deny_ids: {bad}", expected=f"ids from 0 to {size - 1}")
        texts = token_texts(model)
        found = np.array([self._passes(text) for text in texts], dtype=bool)
        if not self.allow_added:
            added = (i for i in model.words.backend.added_ids if i < size)
            found[[i for i in added if not _is_word(texts[i])]] = False
        if self.words_only:
            found &= _word_starts(model, texts)
        gone = [*self.deny_ids, *model.words.backend.special_ids, *model.frame.head]
        found[[i for i in gone if i < size]] = False
        if not found.any():
            raise VocabularyError(
                f"{model.name}: the filters leave none of {size} tokens",
                expected="at least one token a prompt may be made of",
                remedy="deny less (deny_pattern, allow_pattern, deny_ids, words_only), or allow "
                "other letters than ASCII (allow_non_ascii)",
            )
        return found

    def _passes(self, text: str) -> bool:
        if not text or "\ufffd" in text:
            return False  # part of a character: alone it is not text
        if not self.allow_non_ascii and not (text.isascii() and text.strip(" ").isprintable()):
            return False
        if self.deny_pattern and re.search(self.deny_pattern, text):
            return False
        return not self.allow_pattern or re.fullmatch(self.allow_pattern, text) is not None


def _is_word(text: str) -> bool:
    """Whether the text of an added token is a word of a domain, not mark-up or white space."""
    text = text.strip()
    return text[:1].isalnum() and _MARKUP.isdisjoint(text)


def token_texts(model: Model) -> list[str]:
    """Return the text of every token as it stands inside running text, spaces included.

    Tokens are decoded behind another one, because some decoders drop a leading space.
    """
    words, size = model.words, model.vocabulary_size
    anchor = words.encode_running([words.anchor])[0].tolist()
    before = words.decode(anchor)
    texts = []
    for text in words.decode_batch([[*anchor, i] for i in range(size)]):
        texts.append(text[len(before) :] if text.startswith(before) else text)
    return texts


def _word_starts(model: Model, texts: list[str]) -> NDArray[np.bool_]:
    """Tokens that are the first of a word of letters."""
    words = sorted({text.strip() for text in texts if text.strip().isalpha()})
    first = {int(row[0]) for row in model.words.encode_words(words) if len(row) == 1}
    return np.array([i in first for i in range(len(texts))], dtype=bool)
