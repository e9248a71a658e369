"""The input embedding table: which rows count, whether they are usable, how they are scaled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from fuse_index.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from fuse_index.words.tokenizers.tokenization import WordTokenizer

_log = logging.getLogger(__name__)
_CHUNK_ROWS = 16384
_NAMED_ROWS = 5


def is_plain(embedding: nn.Embedding) -> bool:
    """Whether a module returns the rows of its weight unchanged."""
    return type(embedding).forward is nn.Embedding.forward and embedding.max_norm is None


def effective_table(
    embedding: nn.Embedding, rows: int, device: torch.device | None = None
) -> Tensor:
    """Return what an embedding module gives for the ids ``0 .. rows - 1``.

    A plain :class:`torch.nn.Embedding` is read without a copy; a subclass that changes what it
    returns (Gemma 3 multiplies by the square root of the width) is called, and so is one whose
    weight is offloaded.

    Args:
        embedding: the module.
        rows: how many.
        device: that it computes on; by default its weight's.

    Returns:
        (rows, width), in the dtype of the module's weight, without gradient.
    """
    weight = embedding.weight
    if is_plain(embedding) and weight.device.type != "meta":
        return weight.detach()[:rows]
    ids = torch.arange(rows, device=device or weight.device)
    with torch.no_grad():
        return torch.cat([embedding(part) for part in torch.split(ids, _CHUNK_ROWS)])


def used_rows(rows: int, words: WordTokenizer, name: str) -> int:
    """Return how many rows of the table tokens use; say so once when some are left over.

    Special tokens may be beyond the table: no text has them. The text models of Gemma 3 share a
    tokenizer with larger ones that see images, and have no row for the token of an image.

    Raises:
        ModelError: the table has no row for a token that texts are made of.
    """
    tokens = words.vocab_size
    beyond = [i for i in range(rows, tokens) if words.token(i) is not None]
    if not words.special_ids.issuperset(beyond):
        raise ModelError(
            f"{name}: the embedding table has {rows} rows and the tokenizer {tokens} tokens",
            expected="a row for every token",
            remedy="the tokenizer is of another model, or tokens were added without "
            "resize_token_embeddings(); save the two together",
        )
    if rows > tokens:
        _log.info(
            "%s: %d of %d embedding rows have no token and are left out", name, rows - tokens, rows
        )
    elif beyond:
        _log.info(
            "%s: special tokens without an embedding row are never used: %s",
            name,
            ", ".join(str(words.token(i)) for i in beyond[:_NAMED_ROWS]),
        )
    return min(rows, tokens)


def check_finite(table: Tensor, words: WordTokenizer, name: str) -> None:
    """Refuse a table with NaN or infinity, naming the first few tokens.

    Args:
        table: (rows, width).
        words: its tokenizer, which spells tokens.
        name: the model, for the message.

    Raises:
        ModelError: a row is not finite.
    """
    bad: list[int] = []
    for start in range(0, table.shape[0], _CHUNK_ROWS):
        # A sum is finite unless a value is not, or huge values overflow: then look closely.
        part = table[start : start + _CHUNK_ROWS]
        if not torch.isfinite(part.sum(dtype=torch.float32)):
            rows = (~torch.isfinite(part)).any(dim=1).nonzero()[:, 0]
            bad += (rows + start).tolist()
    if not bad:
        return
    named = ", ".join(f"{words.token(i) or f'<{i}>'!r} (id {i})" for i in bad[:_NAMED_ROWS])
    more = f" and {len(bad) - _NAMED_ROWS} more" if len(bad) > _NAMED_ROWS else ""
    raise ModelError(
        f"{name}: the embeddings of {named}{more} hold NaN or infinity",
        expected="finite numbers",
        remedy="the checkpoint is damaged or overflowed in half precision; download it again",
    )
