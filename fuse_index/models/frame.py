"""The special tokens a model needs around its content, read off what its tokenizer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fuse_index.errors import ModelError
from fuse_index.models.kinds import ModelKind
from fuse_index.words.tokenizers.probes import PROBE_TEXT


@dataclass(frozen=True)
class Frame:
    """What stands around the content of every prompt.

    Attributes:
        head: ids before the content: [CLS], <s>, a start-of-text token, or nothing.
        tail: ids after the content: [SEP], </s>, an end-of-text token, or nothing.
        pad: id that fills rows on the right.
        width: length every row is padded to, for towers whose result depends on it, else None.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    pad: int
    width: int | None = None

    def within(self, rows: int, name: str) -> Frame:
        """Return the frame with tokens that an embedding table has rows for.

        A pad token beyond the table was added without resizing it. Padding is masked, so another
        token pads as well; but not where padding is part of the text.

        Args:
            rows: rows of the embedding table.
            name: the model, for the message.

        Raises:
            ModelError: a token that stands in every text has no row.
        """
        needed = (*self.head, *self.tail, *(() if self.width is None else (self.pad,)))
        beyond = [id_ for id_ in needed if id_ >= rows]
        if beyond:
            raise ModelError(
                f"{name}: every text has the special token {beyond[0]}, and the embedding table "
                f"{rows} rows",
                expected="a row for it",
                remedy="the tokenizer is of another model, or tokens were added without "
                "resize_token_embeddings(); save the two together",
            )
        return self if self.pad < rows else replace(self, pad=(*self.tail, *self.head, 0)[0])


def frame_of(
    tokenizer: Any,
    kind: ModelKind,
    name: str,
    bos: bool | None = None,
    probe: str = PROBE_TEXT,
) -> Frame:
    """Find the frame by tokenizing a probe with and without special tokens.

    Causal language models get no tail: an end-of-text token would end the text they continue.

    Args:
        tokenizer: a transformers tokenizer.
        kind: what the model is used as.
        name: the model, for messages.
        bos: whether a causal model's content follows its beginning-of-sequence token; None does
            what the tokenizer does by itself (Llama and Gemma do, GPT-2 and Qwen do not).
        probe: a text of words that the tokenizer knows.

    Raises:
        ModelError: the content cannot be found again between the special tokens, or ``bos`` is
            asked for and the tokenizer has no such token.
    """
    bare = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(probe, add_special_tokens=True)["input_ids"])
    start = find_sublist(full, bare)
    if not bare or start is None:
        raise ModelError(
            f"{name}: tokens of {probe!r} are {bare} bare and {full} with special tokens",
            expected="the former inside the latter",
            remedy="the tokenizer files are damaged or of another model",
        )
    head, tail = tuple(full[:start]), tuple(full[start + len(bare) :])
    pad = next(
        (
            int(i)
            for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, *tail, *head)
            if i is not None
        ),
        0,
    )
    frame = Frame(head, tail, pad)
    return _causal_frame(frame, tokenizer, name, bos) if kind is ModelKind.CAUSAL else frame


def _causal_frame(frame: Frame, tokenizer: Any, name: str, bos: bool | None) -> Frame:
    frame = replace(frame, tail=())
    if bos is None:
        return frame
    if not bos:
        return replace(frame, head=())
    if frame.head:
        return frame
    if tokenizer.bos_token_id is None:
        raise ModelError(
            f"{name}: bos=True", expected="a tokenizer with a bos_token", remedy="leave bos out"
        )
    return replace(frame, head=(int(tokenizer.bos_token_id),))


def find_sublist(values: Sequence[int], part: Sequence[int]) -> int | None:
    """Return where ``part`` first occurs in ``values``, or None."""
    size = len(part)
    for start in range(len(values) - size + 1):
        if list(values[start : start + size]) == list(part):
            return start
    return None
