"""Greedy continuation: the tokens that transformers writes, with and without keys and values."""

from __future__ import annotations

import pytest
import torch

from fuse_index.models import load_model
from fuse_index.models.causal import CausalModel

TEXTS = (
    "the picture contains a small circle",
    "a red circle",
    "a red square",
    "the lovely triangle is above a star on the",
)


def by_transformers(model: CausalModel, row: list[int], count: int) -> list[int]:
    ids = torch.tensor([row])
    found = model.module.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )[0, len(row) :].tolist()
    return [token for token in found if token not in model._ends()]


def rows_of(model: CausalModel) -> list[list[int]]:
    return [[*model.frame.head, *model.words.encode_text(text)] for text in TEXTS]


def test_rows_of_several_lengths_go_on_as_each_alone(lm):
    rows = rows_of(lm)
    found = lm.generate(rows, 12)
    assert found == [by_transformers(lm, row, 12) for row in rows]
    assert found == [lm.generate([row], 12)[0] for row in rows]


def test_a_model_without_keys_and_values_runs_the_whole_text(lm, monkeypatch):
    expected = lm.generate(rows_of(lm), 6)
    monkeypatch.setattr(lm, "cache_name", "no_such_output")
    assert lm.generate(rows_of(lm), 6) == expected


def test_positions_end_the_writing(lm):
    row = (rows_of(lm)[0] * 40)[: lm.positions - 3]
    assert len(lm.generate([row], 20)[0]) <= 3


@pytest.mark.slow
def test_a_real_model(gpt2_dir):
    model = load_model(str(gpt2_dir), device="cpu")
    rows = rows_of(model)
    assert model.generate(rows, 16) == [by_transformers(model, row, 16) for row in rows]
