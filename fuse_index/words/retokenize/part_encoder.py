"""Target ids of parts of texts, from the real tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from fuse_index.words.ragged import Ragged
from fuse_index.words.tokenizers.locality import Locality
from fuse_index.words.tokenizers.tokenization import WordTokenizer


class PartEncoder:
    """Encodes parts as they stand in a text.

    Args:
        target: the tokenizer.
        locality: where its texts may be cut.
    """

    def __init__(self, target: WordTokenizer, locality: Locality) -> None:
        self._target = target
        self._locality = locality
        self._anchor_ids = target.encode_text(locality.anchor) if locality.anchor else []

    def encode(self, parts: Sequence[tuple[str, bool]]) -> tuple[Ragged, list[bool]]:
        """Encode parts.

        Args:
            parts: ``n`` parts; each with whether it begins its text.

        Returns:
            ``n`` rows of ids, and ``n`` flags: True for a part that must not be tokenized alone, of
            which the row is empty.
        """
        whole = [self._locality.whole(text) for text, _ in parts]
        rows: list[list[int]] = [[] for _ in parts]
        alone = [number for number, refused in enumerate(whole) if not refused]
        anchor, ids = self._locality.anchor, self._anchor_ids
        texts = [text if initial else anchor + text for text, initial in (parts[n] for n in alone)]
        found = self._target.encode_texts(texts).to_lists()
        for number, row in zip(alone, found, strict=True):
            if parts[number][1]:
                rows[number] = row
            elif row[: len(ids)] == ids:
                rows[number] = row[len(ids) :]
            else:  # against the proof; the whole text is right in any case
                whole[number] = True
        return Ragged.from_lists(rows), whole
