"""Edits of a caption that change its length or order: insert, leave out and exchange words.

The methods of :mod:`fuse_index.optimize` put other tokens or words in the same places. These moves
do what they cannot; which insertions are tried, the language model decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from fuse_index.words.ragged import Ragged

if TYPE_CHECKING:
    from fuse_index.models.causal import CausalModel


def exchanges(words: Sequence[str]) -> list[list[str]]:
    """Let every two different words change places."""
    found = []
    for one, two in combinations(range(len(words)), 2):
        if words[one] != words[two]:
            changed = list(words)
            changed[one], changed[two] = words[two], words[one]
            found.append(changed)
    return found


def omissions(words: Sequence[str]) -> list[list[str]]:
    """Leave every word out once, and every two that stand together."""
    return [
        [*words[:at], *words[at + size :]]
        for size in (1, 2)
        for at in range(len(words) - size + 1)
        if len(words) > size
    ]


@torch.no_grad()
def insertions(
    model: CausalModel, words: Sequence[str], lexicon: Sequence[str], count: int
) -> list[list[str]]:
    """Insert a word somewhere, the likeliest first by the words before it.

    Args:
        model: judges by the first token of the inserted word; one forward pass does for all places.
        words: of the caption.
        lexicon: words that may be inserted.
        count: insertions, at most.
    """
    firsts = torch.tensor([int(row[0]) for row in model.words.encode_words(list(lexicon))])
    places = model.words.encode_words(list(words))
    content = [int(token) for row in places for token in row]
    ends = torch.tensor([0, *(len(row) for row in places)]).cumsum(0)
    batch = model.batch(Ragged.from_lists([content]))
    logits = model.forward(model.embed(batch.ids), batch).logits
    assert logits is not None
    before = logits[0, batch.start - 1 + ends].float().log_softmax(dim=-1).cpu()
    scores = before[:, firsts]
    best = scores.flatten().topk(min(count, scores.numel())).indices.tolist()
    found = []
    for index in best:
        at, word = divmod(index, len(lexicon))
        found.append([*words[:at], lexicon[word], *words[at:]])
    return found
