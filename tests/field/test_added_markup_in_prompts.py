"""A model that thinks: ``<think>`` is added to its tokenizer, but not as a special token.

Such a token changes what the model does with all that follows, so none is drawn into a prompt
unless asked for; words that were added are.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken

from fuse_index import load_model
from fuse_index.optimize import TokenFilter
from tests.models.factory import FAMILIES, byte_level


def test_added_markup_in_prompts(tmp_path):
    tokenizer = byte_level(None)
    markup, words = ("<think>", "</think>"), ("COVID-19", "zebra")
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (*markup, *words)])
    with torch.random.fork_rng(devices=[]):
        FAMILIES["qwen2"].build(len(tokenizer) + 8, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    allowed = TokenFilter().allowed(model)
    assert not allowed[tokenizer.convert_tokens_to_ids(markup)].any()
    assert allowed[tokenizer.convert_tokens_to_ids(words)].all()
    asked = TokenFilter(allow_added=True).allowed(model)
    assert asked[tokenizer.convert_tokens_to_ids([*markup, *words])].all()
