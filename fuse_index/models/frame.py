"""The special tokens a model needs around its content, read off what its tokenizer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fuse_index.errors import ModelError
from fuse_index.models.kinds import ModelKind

PROBE = "a few words"


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


def frame_of(tokenizer: Any, kind: ModelKind, name: str, bos: bool | None = None) -> Frame:
    """Find the frame by tokenizing a probe with and without special tokens.

    Causal language models get no tail: an end-of-text token would end the text they continue.

    Args:
        tokenizer: a transformers tokenizer.
        kind: what the model is used as.
        name: the model, for messages.
        bos: whether a causal model's content follows its beginning-of-sequence token; None does
            what the tokenizer does by itself (Llama and Gemma do, GPT-2 and Qwen do not).

    Raises:
        ModelError: the content cannot be found again between the special tokens, or ``bos`` is
            asked for and the tokenizer has no such token.
    """
    bare = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(PROBE, add_special_tokens=True)["input_ids"])
    start = find_sublist(full, bare)
    if not bare or start is None:
        raise ModelError(
            f"{name}: tokens of {PROBE!r} are {bare} bare and {full} with special tokens",
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
