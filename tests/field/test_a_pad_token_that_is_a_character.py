"""A pad token that is an ordinary character: "!" in checkpoints of CLIP, "%" by somebody's choice.

https://github.com/huggingface/diffusers/issues/4153: what the model was trained on reads "!!" as
text, and a tokenizer that takes it for padding reads other tokens or none.
"""

from __future__ import annotations

import pytest
import torch

from fuse_index import load_model
from fuse_index.models.embeddings import load_embeddings
from tests.models.factory import FAMILIES, byte_level, end_of_word


@pytest.mark.parametrize(("family", "pad"), [("gpt2", "%"), ("clip", "!")])
def test_a_pad_token_that_is_a_character(family, pad, tmp_path):
    tokenizer = byte_level(None) if family == "gpt2" else end_of_word()
    text = f"wow{pad}{pad} a dog 50{pad} off {pad}"
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokenizer.pad_token = pad
    with torch.random.fork_rng(devices=[]):
        FAMILIES[family].build(len(tokenizer), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    ids = model.words.encode_text(text)
    assert ids == wanted
    read = model.words.decode(ids).replace("</w>", "")
    assert read.replace(" ", "") == text.replace(" ", "")
    assert model.identity() == load_embeddings(str(tmp_path)).identity
