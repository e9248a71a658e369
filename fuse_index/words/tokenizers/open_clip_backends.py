"""open_clip's tokenizers: CLIP's own, and those that clean a text for another tokenizer."""

from __future__ import annotations

import copy
import importlib
import json
import logging
from collections.abc import Sequence
from itertools import compress
from typing import Any

from fuse_index.words.tokenizers.backends import PROBE_TEXTS, Backend, tokens_by_id
from fuse_index.words.tokenizers.cleaning import (
    Clean,
    cleans_alone,
    is_plain,
    with_repair,
    without_repair,
)

logger = logging.getLogger(__name__)


class OpenClipBackend:
    """CLIP's own tokenizer in Python, as open_clip (and OpenAI's package) have it.

    Plain texts take a twin of it in Rust, twenty times faster, where that is the same: when every
    merge comes after those that make its parts, merging by rank and merging all pairs of the best
    rank give the same pieces.

    Args:
        tokenizer: the ``SimpleTokenizer``; it is read, never changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.copy(tokenizer)
        self.tokens = tokens_by_id(tokenizer.encoder)
        self.unknown_id: int | None = None
        specials = [tokenizer.decoder[id_] for id_ in _special_ids(tokenizer)]
        self.special_ids = frozenset(tokenizer.encoder[token] for token in specials)
        self.added_ids: frozenset[int] = frozenset()
        # The specials are found by the pattern and mapped to themselves by the cache; without both,
        # a text that spells one is split and merged like any other.
        self._tokenizer.cache = {}
        pattern = tokenizer.pat.pattern.removeprefix("|".join(specials) + "|")
        self._tokenizer.pat = _recompile(tokenizer.pat, pattern)
        self.clean: Clean | None = getattr(tokenizer, "clean_fn", None)
        self._light = without_repair(self.clean)
        self.cleans_known_way = self._light is not None
        self._twin = None if self._light is None else _rust_twin(self._tokenizer, self._light)
        self._repair = None if self._light is None else with_repair(self._light)
        self._bare = copy.copy(self._tokenizer)
        self._bare.clean_fn = str
        self.definition = {
            "kind": "end-of-word BPE",
            "tokens": self.tokens,
            "special": sorted(self.special_ids),
            "merges": [list(pair) for pair in tokenizer.bpe_ranks],
            "pattern": pattern,
        }

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        light, repair = self._light, self._repair
        if light is None or repair is None:
            return [self._tokenizer.encode(text) for text in texts]
        cleaned = [light(text) if is_plain(text) else repair(text) for text in texts]
        if self._twin is None:
            return [self._bare.encode(text) for text in cleaned]
        plain = [text.isascii() and text.isprintable() for text in cleaned]
        simple = list(compress(cleaned, plain))
        fast = iter(self._twin.encode_batch_fast(simple, add_special_tokens=False))
        return [
            next(fast).ids if easy else self._bare.encode(text)
            for easy, text in zip(plain, cleaned, strict=True)
        ]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        return [self._tokenizer.decode(row) for row in rows]

    def plain_pipeline(self) -> dict[str, Any] | None:
        """The definition that plain texts go through, cleaning included, if there is one.

        It has no token for an ampersand, which may begin an entity that is cleaned away.
        """
        if self._twin is None or self._light is None:
            return None
        pipeline: dict[str, Any] = json.loads(self._twin.to_str())
        pipeline["normalizer"] = {"type": "Lowercase"} if self._light("A") == "a" else None
        for token in ("&", "&</w>"):
            pipeline["model"]["vocab"].pop(token, None)
        return pipeline

    def independent(self, word: str) -> bool:
        """See :func:`cleans_alone`."""
        return cleans_alone(word)


class CleaningBackend:
    """A tokenizer that cleans its text first, as open_clip's ``HFTokenizer`` does.

    Args:
        inner: what tokenizes the cleaned text.
        clean: what cleans it.
    """

    def __init__(self, inner: Backend, clean: Clean) -> None:
        self.inner = inner
        self.clean = clean
        self._light = without_repair(clean)
        self.cleans_known_way = self._light is not None
        self.tokens = inner.tokens
        self.unknown_id = inner.unknown_id
        self.special_ids = inner.special_ids
        self.added_ids = inner.added_ids
        self.definition = {"clean": [clean(text) for text in PROBE_TEXTS], **inner.definition}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        light = self._light or self.clean
        return self.inner.encode_batch(
            [light(text) if is_plain(text) else self.clean(text) for text in texts]
        )

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of every row."""
        return self.inner.decode_batch(rows)

    def independent(self, word: str) -> bool:
        """See :func:`cleans_alone`."""
        return cleans_alone(word)


def _special_ids(tokenizer: Any) -> list[int]:
    ids = getattr(tokenizer, "all_special_ids", None)
    if ids is not None:
        return list(ids)
    return [tokenizer.encoder[token] for token in tokenizer.cache if token in tokenizer.encoder]


def _recompile(pattern: Any, text: str) -> Any:
    """Another pattern of the same library (``regex``, which only open_clip needs) and flags."""
    library = importlib.import_module(type(pattern).__module__.partition(".")[0].lstrip("_"))
    return library.compile(text, pattern.flags)


def _rust_twin(tokenizer: Any, light: Clean) -> Any:
    """The same tokenizer of cleaned plain text in Rust, or None if it might differ."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: PLC0415 - heavy

    made: dict[str, int] = {}
    for (left, right), rank in tokenizer.bpe_ranks.items():
        if left + right in made or max(made.get(left, -1), made.get(right, -1)) >= rank:
            logger.info("merges are not in the order they build on; plain text is merged in Python")
            return None
        made[left + right] = rank
    twin = Tokenizer(
        models.BPE(tokenizer.encoder, list(tokenizer.bpe_ranks), end_of_word_suffix="</w>")
    )
    twin.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"(?i:{tokenizer.pat.pattern})"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    probes = [text.lower() for text in PROBE_TEXTS if is_plain(text)]
    probes += ["the quick brown fox's 12 jumps, they'LL don't (x_y) ~!? re've <b>", "'s'S 's"]
    expected = [tokenizer.encode(text) for text in probes]
    got = twin.encode_batch_fast([light(text) for text in probes], add_special_tokens=False)
    return twin if [encoding.ids for encoding in got] == expected else None
