"""The fixed text around a prompt, in the tokens of one model.

People paste text, models read tokens: what stands around a prompt is tokenized so that the whole
text has the very tokens that are scored. Tokenizers that put a space before a text put it before
the whole, not before each part; a space at the end of the text before may belong to the prompt's
first token. Which way a tokenizer goes is found by trying it on a few prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fuse_index.errors import ModelError, OptionError
from fuse_index.models.reading import Reading
from fuse_index.words.tokenizers.specials import Encode, special_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fuse_index.models.base import Model
    from fuse_index.models.batch import Batch
    from fuse_index.models.chat import Conversation
    from fuse_index.models.frame import Frame
    from fuse_index.words.ragged import Ragged
    from fuse_index.words.tokenizers.tokenization import WordTokenizer

Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What stands around every prompt of one model (:mod:`fuse_index.models.boundaries` makes it).

    Attributes:
        model: whose tokens.
        text_before: text before the prompt.
        text_after: text after it, the target included.
        suffix: ``text_after`` without the target.
        before: ids between the head of the frame and the prompt.
        after: ids behind the prompt.
        target_ids: the last of these, which are the target's.
        framed: whether the model's special tokens stand around all of it.
        special_tokens: whether special tokens that the texts spell out count as such.
        reading: how the prompt is tokenized.
        conversation: renders prompts, where the texts are those of a chat template.
        end: ids behind ``after`` that have no text.
    """

    model: Model
    text_before: str
    text_after: str
    suffix: str
    before: Ids
    after: Ids
    target_ids: Ids
    framed: bool
    special_tokens: bool
    reading: Reading
    conversation: Conversation | None = None
    end: Ids = ()

    @cached_property
    def frame(self) -> Frame:
        """Special tokens around all of it."""
        frame = self.model.frame
        return frame if self.framed else replace(frame, head=(), tail=())

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for surroundings in which the same prompts are read alike."""
        chat = None if self.conversation is None else self.conversation.key
        return self.text_before, self.text_after, self.before, self.after, self.framed, chat

    def batch(self, contents: Sequence[Sequence[int]] | Ragged) -> Batch:
        """Put prompts between what surrounds them.

        Args:
            contents: b rows of token ids.

        Raises:
            ModelError: a row is longer than the model's positions.
        """
        after = (*self.after, *self.end)
        return self.model.batch(contents, self.before, after, frame=self.frame)

    @cached_property
    def _around(self) -> int:
        """Tokens around a prompt."""
        frame = self.frame
        fixed = (frame.head, self.before, self.after, self.end, frame.tail)
        return sum(map(len, fixed))

    def count(self, lengths: NDArray[np.int64]) -> int:
        """Return how many tokens a model reads for prompts, with what surrounds each of them.

        A model that reads rows of one width alone reads that many. Padding of others does not
        count, nor does it matter what is cached of what prompts share: every token counts.

        Args:
            lengths: ``(n,)``, content tokens.
        """
        width = self.frame.width
        if width is not None:
            return width * len(lengths)
        return int(lengths.sum()) + self._around * len(lengths)

    def beginning(self, contents: Sequence[Sequence[int]] | Ragged) -> Batch:
        """Put prompts behind what stands before them, nothing behind them."""
        frame = replace(self.frame, tail=())
        return self.model.batch(contents, self.before, frame=frame)

    def with_end(self, ids: Sequence[int]) -> Surroundings:
        """Return the same with further ids behind the text."""
        return replace(self, end=(*self.end, *ids))

    def full_text(self, text: str) -> str:
        """Return the whole text of a prompt, as people paste it."""
        if self.conversation is not None:
            target = self.text_after[len(self.suffix) :]
            return self.conversation.render(text) + target
        return f"{self.text_before}{text}{self.text_after}"

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of prompts in the model's tokens, as they stand here."""
        return self._view.decode_batch(rows)

    @cached_property
    def _view(self) -> WordTokenizer:
        return self.reading.texts(self.model.words)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize whole texts, without the frame."""
        return self._encode(texts)

    @cached_property
    def _encode(self) -> Encode:
        return _encoder(self.model, self.special_tokens, self.frame)

    def encode(self, text: str) -> list[int]:
        """Tokenize a prompt as it stands here, without looking at what comes after it."""
        return self.reading.encode(self.model.words, text)

    def pasted(self, text: str) -> list[int]:
        """Tokenize the whole text of a prompt anew, as it is pasted; without the frame."""
        (whole,) = self._encode([self.full_text(text)])
        return whole

    def content(self, text: str) -> list[int]:
        """Return the tokens of a prompt inside the whole text.

        Raises:
            OptionError: it shares a token with what stands around it.
            ModelError: a token has no row in the embedding table.
        """
        (whole,) = self.tokens([self.full_text(text)])
        end = len(whole) - len(self.after)
        if [*self.before, *whole[len(self.before) : end], *self.after] == whole:
            self.require_rows(whole)
            return whole[len(self.before) : end]
        raise OptionError(
            f"{self.model.name}: {text!r} shares a token with the text around it",
            expected="a prompt that begins and ends where tokens do",
            remedy="put a space between them",
        )

    def require_rows(self, ids: Sequence[int]) -> None:
        """Refuse tokens that the embedding table has no row for; only special ones have none.

        Raises:
            ModelError: there is one.
        """
        model = self.model
        beyond = next((id_ for id_ in ids if id_ >= model.vocabulary_size), None)
        if beyond is not None:
            raise ModelError(
                f"{model.name}: the text has the special token {model.words.token(beyond)!r}, for "
                "which the embedding table has no row",
                expected="tokens that the model knows",
                remedy="take it out of the text",
            )

    def reads(self, texts: Sequence[str], contents: Sequence[Sequence[int]]) -> list[bool]:
        """Say which whole texts have the tokens that are scored, and no others.

        Args:
            texts: ``n`` prompts.
            contents: their tokens, of which batches are made.
        """
        rendered = [self.rendered(text) for text in texts]
        wholes = self.tokens([text or "" for text in rendered])
        return [
            text is not None and whole == [*self.before, *content, *self.after]
            for text, whole, content in zip(rendered, wholes, contents, strict=True)
        ]

    def rendered(self, text: str) -> str | None:
        """Return the whole text of a prompt; None for one that a chat template refuses."""
        try:
            return self.full_text(text)
        except ModelError:
            return None


def _encoder(model: Model, special_tokens: bool, frame: Frame) -> Encode:
    """What tokenizes whole texts, without the frame."""
    if not special_tokens:
        return lambda texts: model.words.encode_texts(texts).to_lists()
    encode = special_encoder(model.words.backend, model.name)
    head = list(frame.head)

    def without_head(texts: Sequence[str]) -> list[list[int]]:
        rows = encode(texts)  # a head that the text spells out is not there twice
        return [row[len(head) :] if row[: len(head)] == head else row for row in rows]

    return without_head
