"""What an adapter is, on two toy models of five lines each: no files, no downloads, one second.

Builds the embeddings of a "source" and a "target" that tokenize the same words differently, fits
one adapter per word group, and carries the gradient of a target loss back to the source's tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from fuse_index import Adapter, FitOptions, bridge
from fuse_index.adapter import fit_adapter
from fuse_index.words.ragged import Ragged
from fuse_index.words.table import WordTable

rng = np.random.default_rng(0)
torch.manual_seed(0)

# 2,000 words of one to three source tokens and one or two target tokens.
words = tuple(f"word{i}" for i in range(2000))
source = Ragged.from_lists([rng.integers(0, 300, rng.integers(1, 4)).tolist() for _ in words])
target = Ragged.from_lists([rng.integers(0, 300, rng.integers(1, 3)).tolist() for _ in words])
table = WordTable(words, np.ones(len(words), np.int64), source, target)
source_embeddings = torch.randn(300, 16)
target_embeddings = torch.randn(300, 8)

fit = fit_adapter(table, source_embeddings, target_embeddings, FitOptions(min_words=20))
adapter = Adapter(fit.adapters)
print(adapter)

# A prompt of three words, in the tokens of both.
prompt = [3, 14, 159]
source_ids, target_ids = source.select(prompt), target.select(prompt)
layout = adapter.layout(source_ids.lengths, target_ids.lengths)

x = source_embeddings[torch.from_numpy(source_ids.values)].requires_grad_(True)
y = bridge(adapter, x, target_embeddings[torch.from_numpy(target_ids.values)], layout)
loss = (y - 1).square().sum()  # any loss of the target
loss.backward()

print(f"target loss {loss.item():.3f}, read from the target's own embeddings, exactly")
for word, rows in zip(prompt, x.grad.split(source_ids.lengths.tolist()), strict=True):
    print(f"{words[word]}: {len(rows)} source tokens, gradient norms", rows.norm(dim=1).tolist())
