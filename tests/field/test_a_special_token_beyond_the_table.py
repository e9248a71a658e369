"""A special token that the text model has no row for, as the image token of Gemma 3 1B.

https://github.com/huggingface/transformers/issues/37011: the tokenizer is shared with larger models
that see images, and has one token more than the embedding table of the text model rows.
"""

from __future__ import annotations

import json

import torch

from fuse_index import load_model
from fuse_index.cli.main import main
from tests.models.factory import FAMILIES, metaspace


def test_a_special_token_beyond_the_table(tmp_path, capsys):
    tokenizer = metaspace("<s>")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    with torch.random.fork_rng(devices=[]):
        FAMILIES["gemma3"].build(rows, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").vocabulary_size == rows
    options = ["--method", "random", "--steps", "1", "--method.search_width", "4", "--json"]
    goal = json.dumps({"type": "fluency", "model": "lm"})
    main(["optimize", "--model", f"lm={tmp_path}", "--objective", goal, "--initial", "a", *options])
    assert "image_soft_token" not in json.loads(capsys.readouterr().out)["text"]
