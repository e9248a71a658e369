"""How many positions a model has, offsets of its position table taken into account."""

from __future__ import annotations

from typing import Any

from torch import nn

_LEARNED = ("position_embeddings", "position_embedding", "wpe", "embed_positions")
_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


def position_limit(module: nn.Module, config: Any) -> int | None:
    """Return the largest number of tokens a model takes, or None where nothing limits it.

    A learned position table is the truth where there is one: RoBERTa begins at ``padding_idx + 1``
    and OPT at 2, so their tables have more rows than the text may have tokens. Without one (rotary
    positions) it is what the configuration states.
    """
    for name, part in module.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in _LEARNED and isinstance(part, nn.Embedding):
            offset = getattr(part, "offset", None)
            if offset is None:
                offset = 0 if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings) - int(offset)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(text, "alibi", False):
        return None
    for field in _FIELDS:
        value = getattr(text, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
