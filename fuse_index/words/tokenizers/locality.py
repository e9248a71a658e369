"""Where a text can be cut so that a tokenizer treats the parts independently, by proof.

A cut is a single space between two ordinary characters. For tokenizers of the Rust library the
proof reads the pipeline: every normalizer works character by character (checked on the characters
that may stand beside a cut), and either a pre-tokenizer always splits before such a space, or no
merge of the BPE model ever joins a space to what stands before it. Anything unknown means no proof,
and every text goes through the tokenizer as a whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fuse_index.words.tokenizers.backends import Backend, DerivedBackend
from fuse_index.words.tokenizers.cleaning import cleans_locally
from fuse_index.words.tokenizers.fast_backend import FastBackend
from fuse_index.words.tokenizers.open_clip_backends import CleaningBackend, OpenClipBackend

PLANE = 1 << 16
_CANDIDATES = (*range(0x21, 0x700), *range(0xAC00, 0xD7A4, 97))

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_CLIP = rf"{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
CLIP_PATTERNS = frozenset({_CLIP, rf"<\|startoftext\|>|<\|endoftext\|>|{_CLIP}"})
"""CLIP's, with and without its special tokens."""
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
GPT4_PATTERN = rf"(?i:{_CONTRACTIONS}){_WORD}|\p{{N}}{{1,3}}{_TAIL}"
"""GPT-4's and Llama 3's."""
QWEN_PATTERN = rf"(?i:{_CONTRACTIONS}){_WORD}|\p{{N}}{_TAIL}"
"""Qwen 2's."""
SAFE_SPLITS = frozenset(
    {
        # GPT-2
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
        GPT4_PATTERN,
        QWEN_PATTERN,
        *CLIP_PATTERNS,
        # digits and spaces
        *(r"\p{N}{1,3}", r"\p{N}", r"\d", r"[0-9]", r"\s+", r"\s"),
    }
)
"""Patterns that match a single space at the start of a match only, look at nothing before the
match, and look ahead at white space only."""


@dataclass(frozen=True, eq=False)
class Locality:
    """The places where a tokenizer's text may be cut.

    Args:
        neighbours: ``(65536,)`` booleans: the characters that may stand on either side of a space
            for it to be a cut; beyond the basic plane none may.
        whole: tells the parts that must not be tokenized alone: the whole text must be.
        anchor: what must stand before a part from the middle of a text for it to be tokenized as
            there; empty where a space at the beginning of a text is like any other.
    """

    neighbours: NDArray[np.bool_]
    whole: Callable[[str], bool]
    anchor: str = "a"

    def cuts(self, text: str) -> list[int]:
        """Offsets, in characters, of the spaces that begin a new part."""
        return [match.start() for match in self._cut.finditer(text)]

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        characters = "".join(re.escape(chr(code)) for code in np.flatnonzero(self.neighbours))
        return re.compile(f"(?<=[{characters}]) (?=[{characters}])")

    def ordinary(self, characters: str) -> bool:
        """Whether all of some characters may stand beside a cut."""
        return all(ord(c) < PLANE and self.neighbours[ord(c)] for c in characters)


def locality_of(backend: Backend) -> Locality | None:
    """The proof for a tokenizer, or None where there is none.

    Args:
        backend: the private copy of the tokenizer.
    """
    if isinstance(backend, DerivedBackend):
        own: Locality | None = backend.cuts()
        return own
    if isinstance(backend, FastBackend):
        return _of_fast(backend)
    if isinstance(backend, OpenClipBackend) and backend.clean and backend.cleans_known_way:
        return Locality(_visible(backend.clean), lambda part: not cleans_locally(part), "")
    if isinstance(backend, CleaningBackend) and backend.cleans_known_way:
        inner = locality_of(backend.inner)
        if inner is not None:
            return Locality(_visible(backend.clean), partial(_cleaned_whole, backend.clean, inner))
    return None


def _cleaned_whole(clean: Callable[[str], str], inner: Locality, part: str) -> bool:
    """Parts that cleaning could connect with others or make disappear, and the inner ones."""
    if not cleans_locally(part):
        return True
    cleaned = clean(part)
    return not cleaned or not inner.ordinary(cleaned[0] + cleaned[-1]) or inner.whole(cleaned)


@cache
def _visible(clean: Callable[[str], str]) -> NDArray[np.bool_]:
    """Characters that are no white space, neither before nor after cleaning."""
    flags = np.zeros(PLANE, np.bool_)
    for code in range(0x21, 0x250):  # the Latin letters: cleaning is slow
        character = chr(code)
        known = unicodedata.category(character)[0] in "LNPS"
        flags[code] = known and not any(map(_is_gap, clean(f"a{character}b")[1:-1]))
    return flags


def _of_fast(backend: FastBackend) -> Locality | None:
    spec, normalize = backend.spec, backend.normalize
    image = _space_image(spec["normalizer"])
    if image is None:
        return None
    split, image = _splits(spec["pre_tokenizer"], image)
    if split is None or not _model_is_local(spec["model"], split, image):
        return None
    barriers = []
    for token in spec["added_tokens"]:
        if token["content"] in backend.special_tokens:
            continue
        content = token["content"]
        plain = normalize(content) if token["normalized"] else content
        if token["lstrip"] or token["rstrip"] or not plain:
            return None
        if not any(map(_is_gap, plain)):
            barriers.append((content, plain))
        elif len(plain) < 2 or not all(map(_is_gap, plain)):
            return None
    if backend not in _ORDINARY:
        _ORDINARY[backend] = _ordinary_characters(normalize)
    whole = partial(_has_barrier, normalize, barriers)
    return Locality(_ORDINARY[backend], whole, "" if _is_uniform(spec) else "a")


_ORDINARY: WeakKeyDictionary[FastBackend, NDArray[np.bool_]] = WeakKeyDictionary()
"""The characters that may stand beside a cut, found once a tokenizer."""


def _is_uniform(spec: dict[str, Any]) -> bool:
    """Whether nothing in a pipeline treats the beginning of a text differently."""
    steps = pipeline_steps(spec["normalizer"], "normalizers") + pipeline_steps(
        spec["pre_tokenizer"], "pretokenizers"
    )
    return not any(
        step["type"] in ("Prepend", "Strip", "Metaspace") or step.get("add_prefix_space")
        for step in steps
    )


def _has_barrier(
    normalize: Callable[[str], str], barriers: list[tuple[str, str]], part: str
) -> bool:
    """Whether an added token may be found in a part: then the tokenizer cuts there first."""
    if not barriers:
        return False
    plain = normalize(part)
    return any(content in part or image in plain for content, image in barriers)


def _is_gap(character: str) -> bool:
    return character.isspace() or character == "▁"


def _ordinary_characters(normalize: Callable[[str], str]) -> NDArray[np.bool_]:
    """Characters that the normalizer keeps apart from a space beside them."""
    flags = np.zeros(PLANE, np.bool_)
    head = normalize("a")
    space = normalize("a b")[len(head) : -1]
    for code in _CANDIDATES:
        character = chr(code)
        if unicodedata.category(character)[0] not in "LNPS" or unicodedata.combining(character):
            continue
        inside = normalize(f"a{character}b")
        middle = inside[len(head) : -1]
        flags[code] = (
            inside == f"{head}{middle}b"
            and middle != ""
            and not any(map(_is_gap, middle))
            and normalize(f"a {character}b") == f"{head}{space}{middle}b"
            and normalize(f"a{character} b") == f"{head}{middle}{space}b"
            and unicodedata.combining(middle[0]) == 0
        )
    return flags


def _space_image(normalizer: Any) -> str | None:
    """What a single space becomes, or None if the normalizer is not known to be local."""
    image: str | None = " "
    for step in pipeline_steps(normalizer, "normalizers"):
        kind = step["type"]
        if kind == "Replace":
            image = _replaced(step, image or "")
        elif kind not in _LOCAL_NORMALIZERS:
            image = None
        if image is None:
            return None
    return image


_LOCAL_NORMALIZERS = frozenset(
    {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"),
        *("Nmt", "Strip", "Prepend", "Precompiled"),
    }
)


def _replaced(step: dict[str, Any], image: str) -> str | None:
    pattern, content = step["pattern"], step["content"]
    text = pattern.get("String")
    if text is None:  # a regular expression: only those that shorten runs of spaces
        runs = {r"\s+": " ", " {2,}": image}
        return image if runs.get(pattern.get("Regex")) == image else None
    if text == image and content and not content.isspace():
        return content if len(content) == 1 else None
    if not any(map(_is_gap, text)) and content and not any(map(_is_gap, content)):
        return image
    return None


def _splits(pre_tokenizer: Any, image: str) -> tuple[bool | None, str]:
    """Whether a pre-tokenizer always splits at a cut (None: not known), and the space's image."""
    split = False
    for step in pipeline_steps(pre_tokenizer, "pretokenizers"):
        kind = step["type"]
        if kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit") and image == " ":
            split = True
        elif kind == "ByteLevel" and image == " ":
            split = split or bool(step.get("use_regex", True))
            image = "Ġ"
        elif kind == "Metaspace" and step["replacement"] == "▁":
            split, image = split or bool(step.get("split", True)), "▁"
        elif kind == "Split" and image == " " and _is_safe_split(step):
            # a pattern that matches every character, spaces too, or drops spaces
            split = split or "\\s" in step["pattern"]["Regex"]
        elif kind == "Split" and image != " " and step["pattern"].get("String") == " ":
            continue  # Gemma: its normalizer leaves no space to split at
        elif kind not in ("Digits", "Punctuation") or image != " ":
            return None, image
    return split, image


def _is_safe_split(step: dict[str, Any]) -> bool:
    pattern = step["pattern"].get("Regex")
    behaviour = (step["behavior"], bool(step["invert"]))
    return pattern in SAFE_SPLITS and behaviour in (("Isolated", False), ("Removed", True))


def _model_is_local(model: dict[str, Any], split: bool, image: str) -> bool:
    """Whether the model keeps what stands left and right of a cut apart."""
    if split:
        return model["type"] in ("BPE", "WordPiece", "WordLevel", "Unigram")
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if model["type"] != "BPE" or affixes or model.get("ignore_merges"):
        return False
    if image not in model["vocab"]:
        return False  # unknown characters in a row become one token
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return not any(right.startswith(image) and not left.endswith(image) for left, right in merges)


def pipeline_steps(part: Any, key: str) -> list[dict[str, Any]]:
    """A pipeline's steps in a row, sequences inside sequences resolved."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for inner in part[key] for step in pipeline_steps(inner, key)]
    return [part]
