from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.objectives import LengthPenalty, RepetitionPenalty, one_hot_content
from fuse_index.objectives.penalties import repeated_ngrams

Load = Callable[..., Model]
ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=4)


def pairs_by_hand(row: list[int], ngram: int) -> float:
    grams = [tuple(row[i : i + ngram]) for i in range(len(row) - ngram + 1)]
    equal = sum(grams[i] == grams[j] for j in range(len(grams)) for i in range(j))
    return equal / max(len(grams), 1)


@given(ROWS, st.integers(1, 3))
def test_repeated_ngrams_by_hand(rows: list[list[int]], ngram: int) -> None:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    equal = (ids[:, :, None] == ids[:, None]) & (ids[:, :, None] >= 0)
    got = repeated_ngrams(equal.float(), torch.tensor([len(row) for row in rows]), ngram)
    assert got.tolist() == pytest.approx([pairs_by_hand(row, ngram) for row in rows])


@pytest.mark.parametrize("ngram", [1, 2])
def test_repetition_of_ids_and_of_one_hot_labels(loaded: Load, ngram: int) -> None:
    model = loaded("gpt2")
    rows = [[5, 6, 5, 6, 5], [7, 8, 9], [9]]
    loss = RepetitionPenalty(ngram=ngram, prefix="two", suffix="!").prepare(model)
    expected = [pairs_by_hand(row, ngram) for row in rows]
    assert loss.score(rows).tolist() == pytest.approx(expected)
    batch = loss.batch(rows)
    labels, embeds = one_hot_content(model, batch)
    soft = loss(embeds, batch, labels)
    assert soft.tolist() == pytest.approx(expected)
    (grad,) = torch.autograd.grad(soft.sum(), labels)
    if ngram == 1:
        # a 5 in the second place of "5 6 5 6 5" would equal three others, a 6 one, a 7 none
        assert grad[0, 1, 5] == pytest.approx(3 / 5)
        assert grad[0, 1, 6] == pytest.approx(1 / 5)
        assert grad[0, 1, 7] == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"maximum": 2}, [0, 2 / 2]),
        ({"maximum": 4, "minimum": 3}, [1 / 4, 0]),
        ({"maximum": 2, "unit": "words"}, [0, 2 / 2]),
        ({"maximum": 10, "unit": "characters"}, [0, 3 / 10]),
    ],
)
def test_length(loaded: Load, options: dict[str, Any], expected: list[float]) -> None:
    model = loaded("bert")
    rows = [model.words.encode_text(text) for text in ("a dog", "a few lazy 12")]
    assert [len(row) for row in rows] == [2, 4]
    got = LengthPenalty(prefix="two ", **options).prepare(model).score(rows)
    assert got.tolist() == pytest.approx(expected)


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="repetition: ngram=0; expected at least 1"):
        RepetitionPenalty(ngram=0)
    with pytest.raises(OptionError, match="minimum 3 and maximum 2"):
        LengthPenalty(maximum=2, minimum=3)
    with pytest.raises(OptionError, match="unit 'lines'; expected one of tokens, words, char"):
        LengthPenalty(maximum=2, unit="lines")  # type: ignore[arg-type]
