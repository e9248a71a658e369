"""A classifier whose vocabulary has no Latin letters, with all its files in place.

Trying a tokenizer on English words said that there was "no tokenizer in it".
"""

from __future__ import annotations

import pytest
import torch

from fuse_index import load_model
from fuse_index.models.embeddings import load_embeddings
from tests.models.factory import FAMILIES
from tests.words.families import SCRIPTS, tokenizer_of


@pytest.mark.parametrize("script", ["cyrillic", "chinese"])
def test_a_vocabulary_without_latin_letters(script, tmp_path):
    tokenizer = tokenizer_of("wordpiece-cased", script)
    with torch.random.fork_rng(devices=[]):
        FAMILIES["bert"].build(len(tokenizer), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    ids = model.words.encode_text(SCRIPTS[script][0])
    assert ids == tokenizer(SCRIPTS[script][0], add_special_tokens=False)["input_ids"]
    assert model.words.unknown_id not in ids
    assert model.identity() == load_embeddings(str(tmp_path)).identity
