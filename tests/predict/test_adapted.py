"""Words ranked through an adapter, group by group: against the t-product word by word."""

from __future__ import annotations

import numpy as np
import torch

from fuse_index.predict.adapted import AdaptedWords
from fuse_index.words.ragged import Ragged
from tests.adapter.helpers import apply_word, random_adapter


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
