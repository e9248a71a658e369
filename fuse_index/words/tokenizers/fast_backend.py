"""Tokenizers of the Rust library ``tokenizers``, alone or inside transformers."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuse_index.errors import ModelError
from fuse_index.words.tokenizers.backends import tokens_by_id

logger = logging.getLogger(__name__)

Finish = Callable[[str], str]
SAME = "same"
SUFFIX_TO_SPACE = "suffix to space"


class FastBackend:
    """A private copy of a ``tokenizers.Tokenizer``.

    Args:
        backend: the Rust tokenizer; it is read, never changed.
        outer: the transformers tokenizer around it, if any: its special tokens are special too, and
            its ``decode`` is reproduced.

    Raises:
        ModelError: if the tokenizer has parts written in Python, which cannot be copied.
    """

    def __init__(self, backend: Any, outer: Any = None) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - heavy

        try:
            spec = json.loads(backend.to_str())
        except Exception as error:  # the library raises a bare Exception
            raise ModelError(
                f"the tokenizer cannot be copied: {error}",
                expected="a tokenizer without parts written in Python",
            ) from error
        spec.update(truncation=None, padding=None, post_processor=None)
        spec["model"].pop("dropout", None)  # merges left out at random are for training
        vocabulary = _vocabulary(spec)
        self.tokens = tokens_by_id(vocabulary)
        special = {token["content"] for token in spec["added_tokens"] if token["special"]}
        if outer is not None:
            special |= {str(token) for token in outer.all_special_tokens}
        self.special_ids = frozenset(vocabulary[token] for token in special if token in vocabulary)
        self.unknown_id = _unknown_id(spec, vocabulary, outer)
        self.special_tokens = frozenset(special)
        self.spec = spec
        self._tokenizer = Tokenizer.from_str(json.dumps(_hide_specials(spec, special)))
        self._tokenizer.encode_special_tokens = True
        self._decoder = self._tokenizer.decoder
        self._finish, self.finish = self._find_finish(backend, outer)
        self.definition = {
            **_pruned({key: value for key, value in spec.items() if key != "version"}),
            "special": sorted(self.special_ids),
            "finish": self.finish,
        }

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        finish = self._finish
        return [finish(self._join(row)) for row in rows]

    def normalize(self, text: str) -> str:
        """What the normalizer makes of a text."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def plain_pipeline(self) -> dict[str, Any]:
        """The definition that texts go through, special tokens hidden."""
        return _hide_specials(self.spec, set(self.special_tokens))

    def independent(self, word: str) -> bool:
        """Nothing is cleaned before the tokenizer's own normalizer."""
        return True

    def _join(self, row: Sequence[int]) -> str:
        table = self.tokens
        tokens = [token for id_ in row if (token := table[id_]) is not None]
        return self._decoder.decode(tokens) if self._decoder is not None else " ".join(tokens)

    def _find_finish(self, backend: Any, outer: Any) -> tuple[Finish, str]:
        """Find what the caller's ``decode`` does to the joined text, by comparing results."""
        if outer is None:
            return _same, SAME
        suffix = self.spec["model"].get("end_of_word_suffix") or ""
        choices: list[tuple[Finish, str]] = [(_same, SAME)]
        if suffix:
            choices.append((lambda text: text.replace(suffix, " ").strip(), SUFFIX_TO_SPACE))
        if hasattr(outer, "clean_up_tokenization"):
            choices.append((outer.clean_up_tokenization, "clean up"))
        rows = self._probe_rows()
        expected = [outer.decode(row) for row in rows]
        joined = [self._join(row) for row in rows]
        for finish, name in choices:
            if [finish(text) for text in joined] == expected:
                return finish, name
        raise ModelError(
            f"{type(outer).__name__}.decode is none of the ways known to this package",
            expected="the text of its backend, cleaned up or not",
        )

    def _probe_rows(self) -> list[list[int]]:
        """Rows that tell the ways of finishing apart: random ones, and words before punctuation."""
        generator = random.Random(0)
        known = [id_ for id_, token in enumerate(self.tokens) if token is not None]
        rows = [generator.choices(known, k=12) for _ in range(64)]
        marks = {".", ",", "?", "!", "n't", "'s", "'m", "'"}
        tight = [id_ for id_ in known if (self.tokens[id_] or "").strip("Ġ▁ ") in marks]
        rows += [[generator.choice(known), id_, generator.choice(known)] for id_ in tight[:64]]
        return rows


def _same(text: str) -> str:
    return text


def _vocabulary(spec: dict[str, Any]) -> dict[str, int]:
    """Token to id, of the model and of the added tokens."""
    vocabulary = spec["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of the ids
        vocabulary = {token: id_ for id_, (token, _) in reversed(list(enumerate(vocabulary)))}
    return {**vocabulary, **{token["content"]: token["id"] for token in spec["added_tokens"]}}


def _unknown_id(spec: dict[str, Any], vocabulary: dict[str, int], outer: Any) -> int | None:
    model = spec["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token"):
        return vocabulary.get(model["unk_token"])
    return getattr(outer, "unk_token_id", None)


def _hide_specials(spec: dict[str, Any], special: set[str]) -> dict[str, Any]:
    """Rename the special tokens to something no text can match; ids stay as they are.

    ``encode_special_tokens`` alone is not enough: a Unigram or WordPiece vocabulary lists them like
    ordinary pieces, and the model itself would find them in a text. Tokens that merges are built
    from keep their name: there the model needs them as characters.
    """
    model = dict(spec["model"])
    merges = [
        tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)
        for merge in model.get("merges") or []
    ]
    parts = {part for merge in merges for part in merge}
    names = {token: f"\0special {i}\0" for i, token in enumerate(sorted(special - parts))}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    else:
        model["vocab"] = {names.get(token, token): id_ for token, id_ in vocabulary.items()}
    if merges:
        model["merges"] = [list(m) for m in merges if "".join(m) not in names]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        | ({"special": True, "normalized": False} if token["content"] in special else {})
        for token in spec["added_tokens"]
    ]
    return {**spec, "model": model, "added_tokens": added}


_TABLES = ("vocab", "merges")


def _pruned(value: Any) -> Any:
    """Without None and False, so that a new option left at its default changes no fingerprint."""
    if isinstance(value, dict):
        return {
            key: item if key in _TABLES else _pruned(item)
            for key, item in value.items()
            if item is not None and item is not False
        }
    return [_pruned(item) for item in value] if isinstance(value, list) else value
