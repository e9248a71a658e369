"""Tokenizers of the Rust library ``tokenizers``, alone or inside transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fuse_index.errors import ModelError, VocabularyError
from fuse_index.words.tokenizers.backends import tokens_by_id
from fuse_index.words.tokenizers.vocabulary import is_character, is_word, sample_ids, spread

Decode = Callable[[Sequence[int]], str]
SAME = "same"
SUFFIX_TO_SPACE = "suffix to space"
OWN = "own"
_MARKS = frozenset({".", ",", "?", "!", "n't", "'s", "'m", "'"})


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
        spec = _definition(backend)
        vocabulary = _vocabulary(spec)
        self.tokens = tokens_by_id(vocabulary)
        special = {token["content"] for token in spec["added_tokens"] if token["special"]}
        if outer is not None:
            special |= {str(token) for token in outer.all_special_tokens}
        self.unknown_id = _unknown_id(spec, vocabulary, outer)
        self.special_tokens = frozenset(special)
        self.spec = spec
        self._tokenizer, text = _without_specials(spec, special, outer, self.unknown_id)
        self.text_tokens: frozenset[str] = text
        """Special tokens that are characters or words, which texts are made of all the same."""
        self.special_ids = _ids(special - text, vocabulary)
        self.added_ids: frozenset[int] = frozenset(
            token["id"] for token in spec["added_tokens"] if token["content"] not in special
        )
        for token in spec["added_tokens"]:  # as decoded: of an uncased tokenizer in lower case
            self.tokens[token["id"]] = backend.id_to_token(token["id"])
        self._decoder = self._tokenizer.decoder
        self._decode, self.finish = self._find_decode(outer)
        self.definition = {
            **_pruned({key: value for key, value in spec.items() if key != "version"}),
            "special": sorted(_ids(special, vocabulary)),
            "finish": self.finish,
        }
        if text and text - _parts(spec["model"]):  # those were never hidden
            self.definition["text"] = sorted(_ids(text, vocabulary))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises a bare Exception
            raise VocabularyError(
                f"the tokenizer cannot encode a text: {error}",
                expected="characters of its vocabulary, or a token for unknown ones in it",
            ) from error
        return [encoding.ids for encoding in encodings]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        return [self._decode(row) for row in rows]

    def normalize(self, text: str) -> str:
        """What the normalizer makes of a text."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def plain_pipeline(self) -> dict[str, Any]:
        """The definition that texts go through, special tokens hidden."""
        return _hide_specials(self.spec, set(self.special_tokens), self.text_tokens)

    def independent(self, word: str) -> bool:
        """Nothing is cleaned before the tokenizer's own normalizer."""
        return True

    def _join(self, row: Sequence[int]) -> str:
        table = self.tokens
        tokens = [token for id_ in row if (token := table[id_]) is not None]
        return self._decoder.decode(tokens) if self._decoder is not None else " ".join(tokens)

    def _find_decode(self, outer: Any) -> tuple[Decode, str]:
        """Find what the caller's ``decode`` does to the joined text, by comparing results.

        Where it is none of the known ways, a copy of the caller's tokenizer decodes.
        """
        if outer is None:
            return self._join, SAME
        join, suffix = self._join, self.spec["model"].get("end_of_word_suffix") or ""
        choices: list[tuple[Decode, str]] = [(join, SAME)]
        if suffix:
            choices.append((lambda row: join(row).replace(suffix, " ").strip(), SUFFIX_TO_SPACE))
        if hasattr(outer, "clean_up_tokenization"):
            clean_up = outer.clean_up_tokenization
            choices.append((lambda row: clean_up(join(row)), "clean up"))
        rows = self._probe_rows()
        expected = [outer.decode(row) for row in rows]
        for decode, name in choices:
            if all(decode(row) == text for row, text in zip(rows, expected, strict=True)):
                return decode, name
        own = copy.deepcopy(outer).decode
        return lambda row: str(own(list(row))) if len(row) else "", OWN

    def _probe_rows(self) -> list[list[int]]:
        """Rows that tell the ways to decode apart: every kind of token at every place of a row."""
        ids = sample_ids(self.tokens, self.special_ids | self.added_ids)
        rows = [ids[i : i + 3] for i in range(len(ids))]
        tight = [i for i, token in enumerate(self.tokens) if token and token.strip("Ġ▁ ") in _MARKS]
        return rows + [[id_, mark, id_] for mark in tight[:64] for id_ in spread(ids, 8)]


def _definition(backend: Any) -> dict[str, Any]:
    """A tokenizer's definition, without what is no part of turning text into ids and back."""
    try:
        spec: dict[str, Any] = json.loads(backend.to_str())
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(
            f"the tokenizer cannot be copied: {error}",
            expected="a tokenizer without parts written in Python",
        ) from error
    spec.update(truncation=None, padding=None, post_processor=None)
    spec["model"].pop("dropout", None)  # merges left out at random are for training
    return spec


def _ids(tokens: Iterable[str], vocabulary: dict[str, int]) -> frozenset[int]:
    return frozenset(vocabulary[token] for token in tokens if token in vocabulary)


def _vocabulary(spec: dict[str, Any]) -> dict[str, int]:
    """Token to id, of the model and of the added tokens."""
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    return {**_model_vocabulary(spec["model"]), **added}


def _model_vocabulary(model: dict[str, Any]) -> dict[str, int]:
    vocabulary: Any = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of the ids
        return {token: id_ for id_, (token, _) in reversed(list(enumerate(vocabulary)))}
    return dict(vocabulary)


def _unknown_id(spec: dict[str, Any], vocabulary: dict[str, int], outer: Any) -> int | None:
    model = spec["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    if model.get("unk_token"):
        return vocabulary.get(model["unk_token"])
    return getattr(outer, "unk_token_id", None)


def _without_specials(
    spec: dict[str, Any], special: set[str], outer: Any, unknown_id: int | None
) -> tuple[Any, frozenset[str]]:
    """The tokenizer that takes special tokens for text, and those that texts are made of.

    A special token that is a character ("%" or "!" to pad with) stays in the vocabulary: without it
    the character could not be told. So does a word that only pads, if nothing else spells it.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - heavy

    def made(text: frozenset[str]) -> Any:
        tokenizer = Tokenizer.from_str(json.dumps(_hide_specials(spec, special, text)))
        tokenizer.encode_special_tokens = True
        return tokenizer

    inside = special & _model_vocabulary(spec["model"]).keys()
    text = frozenset(filter(is_character, inside))
    tokenizer = made(text)
    roles = ("bos_token", "eos_token", "cls_token", "sep_token", "mask_token", "unk_token")
    frame = {str(getattr(outer, role, None)) for role in roles}
    words = [token for token in sorted(inside - text - frame) if is_word(token)]
    rows = [tokenizer.encode(word.strip("Ġ▁#"), add_special_tokens=False).ids for word in words]
    lost = {word for word, row in zip(words, rows, strict=True) if not row or unknown_id in row}
    return (made(text | lost), text | lost) if lost else (tokenizer, text)


def _parts(model: dict[str, Any]) -> set[str]:
    """What the merges of a model join."""
    return {
        part
        for merge in model.get("merges") or []
        for part in (merge.split(" ", 1) if isinstance(merge, str) else merge)
    }


def _hide_specials(spec: dict[str, Any], special: set[str], text: frozenset[str]) -> dict[str, Any]:
    """Rename the special tokens to something no text can match; ids stay as they are.

    ``encode_special_tokens`` alone is not enough: a Unigram or WordPiece vocabulary lists them like
    ordinary pieces, and the model itself would find them in a text. Tokens that merges are built
    from keep their name: there the model needs them as characters. Those of ``text`` are no longer
    special.
    """
    model = dict(spec["model"])
    hidden = special - _parts(model) - text
    names = {token: f"\0special {i}\0" for i, token in enumerate(sorted(hidden))}
    added = [token for token in spec["added_tokens"] if token["content"] not in text]
    vocabulary, unknown = model["vocab"], model.get("unk_token")
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    else:
        model["vocab"] = {names.get(token, token): id_ for token, id_ in vocabulary.items()}
        # an unknown token that was added is outside the model, which then fails when it needs it
        outside = [t for t in added if t["content"] == unknown and unknown not in vocabulary]
        model["vocab"].update({names.get(t["content"], t["content"]): t["id"] for t in outside})
    if model.get("merges"):
        merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [list(m) for m in merges if "".join(m) not in names]
    if unknown is not None:
        model["unk_token"] = names.get(unknown, unknown)
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        | ({"special": True, "normalized": False} if token["content"] in special else {})
        for token in added
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
