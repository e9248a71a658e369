"""Source tokens in a target's own tokens: what a source token becomes, and where it stands.

A source token that forms a word in its place has target tokens of its own; one that continues a
word has those that it adds to the word before it. Both are looked up by the target's embeddings or
hidden states, so that tokens are ranked for any target without an adapter (docs/mathematics.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.common.progress import Tick
from fuse_index.predict.store import kept_states
from fuse_index.predict.target import Target, TargetPrompts
from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.probes import probe_words

_ANCHORS = 6
"""Words behind which a token is put, until one of them keeps its tokens in the target."""


@dataclass(frozen=True, eq=False)
class OwnTokens:
    """Source tokens in the tokens of a target.

    Attributes:
        target: reads them.
        rows: ``D`` rows of target ids, different and not empty.
        inside: ``(N,)`` int64, the row of each source token behind a word; ``D`` where the target
            reads nothing.
        first: ``(N,)`` int64, the same at the beginning of a prompt.
    """

    target: Target
    rows: Ragged
    inside: Tensor
    first: Tensor
    _known: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, target: Target, ids: NDArray[np.int64]) -> OwnTokens:
        """Look source tokens up.

        Args:
            target: reads them.
            ids: ``(N,)`` source ids.
        """
        if target.same_tokens:
            index = torch.arange(len(ids))
            return cls(target, Ragged.from_rows(ids[:, None]), index, index)
        alone = target.read(Ragged.from_rows(ids[:, None])).contents
        places: dict[tuple[int, ...], int] = {}
        read = [
            [places.setdefault(tuple(row), len(places)) if row else -1 for row in rows]
            for rows in (_behind_words(target, ids, alone), alone.to_lists())
        ]
        inside, first = (np.where(np.array(own) < 0, len(places), own) for own in read)
        rows = Ragged.from_lists([list(row) for row in places])
        return cls(target, rows, torch.from_numpy(inside), torch.from_numpy(first))

    def states(self, progress: Tick | None = None) -> Tensor:
        """Return the hidden states of :attr:`rows` in every layer of the target, computed once.

        Args:
            progress: called with (rows done, rows in all) while states are computed.

        Returns:
            ``(D, (layers + 1) * width)`` float32, see :func:`fuse_index.predict.states.
            hidden_states`.

        Raises:
            ModelError: the model's layers cannot be told apart.
        """
        if "states" not in self._known:
            self._known["states"] = kept_states(self.target.model, self.rows, progress=progress)
        return self._known["states"]

    def by_embedding(self, sums: Tensor, begins: NDArray[np.bool_]) -> Tensor:
        """Multiply gradients with the mean embedding of each source token's own tokens.

        The products with the target's whole table are averaged, so that no table of means is kept.

        Args:
            sums: ``(S, d)``, summed over the target tokens of each position.
            begins: ``(S,)``, which positions begin their prompt.

        Returns:
            ``(S, N)`` float32.
        """
        table = self.target.model.table().detach()
        scores = (table @ sums.to(table.dtype).T).float()  # (V, S)
        ids = torch.from_numpy(self.rows.values).to(scores.device)
        offsets = torch.from_numpy(self.rows.offsets[:-1]).to(scores.device)
        bags = torch.nn.functional.embedding_bag(ids, scores, offsets, mode="mean")
        return self._of_tokens(bags.T, begins)

    def by_layers(self, sums: Tensor, begins: NDArray[np.bool_]) -> Tensor:
        """Multiply gradients at hidden states with those of each source token's own tokens.

        Args:
            sums: ``(S, (layers + 1) * width)``.
            begins: ``(S,)``, which positions begin their prompt.

        Returns:
            ``(S, N)`` float32.
        """
        return self._of_tokens(sums @ self.states().T, begins)

    def _of_tokens(self, scores: Tensor, begins: NDArray[np.bool_]) -> Tensor:
        """``(S, D)`` of rows -> ``(S, N)`` of source tokens; those without a row get the mean."""
        scores = torch.cat([scores, scores.mean(dim=1, keepdim=True)], dim=1)
        inside = scores[:, self.inside.to(scores.device)]
        if not begins.any() or self.first is self.inside:
            return inside
        first = scores[:, self.first.to(scores.device)]
        return torch.where(torch.from_numpy(begins).to(scores.device)[:, None], first, inside)


def word_spans(
    read: TargetPrompts, prompts: Ragged, places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the target tokens of the words that source tokens of prompts are in.

    Within a word of several source tokens, too, those of the whole word: they predict better than
    those that the token's characters fall into (docs/lab/prediction.md).

    Args:
        read: the prompts in the target's tokens.
        prompts: ``b`` rows of source ids.
        places: ``(S, 2)``, the source tokens: each the index of a prompt and of a token in it.

    Returns:
        ``(S, 2)`` int64, begin and end among the target tokens of the prompt.
    """
    words, (rows, at) = read.words, places.T
    if words is None:
        return np.stack([at, at + 1], axis=1)
    tokens = prompts.offsets[rows] + at
    owners = np.searchsorted(words.source_word_offsets, tokens, side="right") - 1
    ends = np.stack([words.target_word_offsets[owners + i] for i in (0, 1)], axis=1)
    return ends - read.contents.offsets[rows, None]


def _behind_words(target: Target, ids: NDArray[np.int64], alone: Ragged) -> list[list[int]]:
    """The target tokens that each source token adds behind a word.

    A token may change how the target reads the word before it; then other words are tried, and in
    the end the token alone is taken.
    """
    found = alone.to_lists()
    left = np.arange(len(ids))
    for anchor, before in islice(_anchors(target), _ANCHORS):
        rows = np.concatenate([np.tile(anchor, (len(left), 1)), ids[left, None]], axis=1)
        read = target.read(Ragged.from_rows(rows)).contents.to_lists()
        kept = np.array([row[: len(before)] == before for row in read], dtype=bool)
        for at, row, keeps in zip(left.tolist(), read, kept, strict=True):
            if keeps:
                found[at] = row[len(before) :]
        left = left[~kept]
        if not len(left):
            break
    return found


def _anchors(target: Target) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Words in the source's tokens, and as the target reads them."""
    words = target.source.words.encode_words(probe_words(target.source.words.backend))
    for row in words:
        if len(row):
            yield row, target.read(Ragged.from_rows(row[None])).contents[0].tolist()
