"""Words ranked through an adapter, group by group: against the t-product word by word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.predict import adapted
from fuse_index.predict.adapted import AdaptedWords
from fuse_index.words.ragged import Ragged
from tests.adapter.helpers import apply_word, random_adapter
from tests.adapter.test_maps import mixed


def test_predictions_put_the_mapped_candidate_in_place_of_its_embedding():
    rng = np.random.default_rng(0)
    counts = [(p, q) for p in range(1, 4) for q in range(1, 4)] * 2
    source = Ragged.from_lists([rng.integers(0, 20, p).tolist() for p, _ in counts])
    target = Ragged.from_lists([rng.integers(0, 15, q).tolist() for _, q in counts])
    generator = torch.Generator().manual_seed(0)
    adapter = random_adapter(5, 4, torch.float32)
    table = torch.randn(20, 5, generator=generator)
    sums = torch.randn(2, 4, generator=generator)
    found = AdaptedWords(adapter, table, source, target).changes(sums)
    assert found.shape == (2, len(counts))
    for row, (p, q) in enumerate(counts):
        own = table[torch.from_numpy(source[row])].double()
        mapped = apply_word(adapter[f"{p}x{q}"].double(), own, q)
        expected = sums.double() @ mapped.mean(0)
        np.testing.assert_allclose(found[:, row].numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["block", "local", "mlp"])
def test_words_are_ranked_by_their_images_under_maps_of_any_kind(kind, monkeypatch):
    monkeypatch.setattr(adapted, "_WORDS", 2)  # in several parts
    adapter = mixed(kind).to(dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, adapter.source_width, generator=generator)
    sums = torch.randn(3, adapter.target_width, generator=generator)
    source = Ragged.from_lists([[1], [2, 3], [4, 5], [6, 7, 8], [9]])
    target = Ragged.from_lists([[1], [2], [3, 4, 5], [6], [7]])
    found = AdaptedWords(adapter, table, source, target).changes(sums)
    for row in range(len(source)):
        layout = adapter.layout(source.lengths[row : row + 1], target.lengths[row : row + 1])
        image = adapter.apply(table[torch.from_numpy(source[row])], layout).mean(0)
        torch.testing.assert_close(found[:, row], sums @ image, rtol=1e-4, atol=1e-5)
