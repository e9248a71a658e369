"""Words of a domain, with capitals, added to a tokenizer that lower-cases before fine-tuning.

What such a token is as text, and whether it is found in lower case, is the tokenizer's matter and
differs: https://github.com/huggingface/transformers/issues/1545,
https://github.com/huggingface/tokenizers/issues/302. Three hundred of them must not refuse the
model, and few of them must not be decoded otherwise than by their tokenizer.
"""

from __future__ import annotations

import copy

import pytest

from fuse_index import load_model
from tests.models.factory import build_model, tokenizer_of


@pytest.mark.parametrize("count", [1, 300])
def test_added_words_in_an_uncased_tokenizer(count, tmp_path):
    tokenizer, model = copy.deepcopy(tokenizer_of("bert")), build_model("bert")
    tokenizer.add_tokens(["COVID-19", *(f"IL-{i}" for i in range(count - 1))])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    words = load_model(str(tmp_path), device="cpu").words
    ids = tokenizer("the COVID-19 dog", add_special_tokens=False)["input_ids"]
    assert words.encode_text("the COVID-19 dog") == ids
    assert words.decode(ids) == tokenizer.decode(ids)
