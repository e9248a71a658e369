"""Tiny tokenizers of every kind, trained on texts of any script, with added and special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tests.models.factory import end_of_word

SCRIPTS = {
    "latin": [
        "a brown dog runs over the green grass 50% off and catches a red ball!",
        "two children play with a wooden boat near the river bank, she said.",
        "naïve café ß 2024 x_y (a) don't ! \" # $ % & ' * + - . / : ; = ? @ ^ _ ~ 0 1 9",
    ],
    "cyrillic": ["собака бежит по зелёной траве", "двое детей играют у реки с лодкой"],
    "chinese": ["一 只 狗 在 草地 上 跑", "两个 孩子 在 河 边 玩 小船"],
    "hindi": ["एक कुत्ता घास पर दौड़ रहा है", "दो बच्चे नदी के पास खेल रहे हैं"],
    "arabic": ["كلب بني يركض فوق العشب", "طفلان يلعبان بجانب النهر"],
    "greek": ["ένας σκύλος τρέχει πάνω στο γρασίδι", "δύο παιδιά παίζουν δίπλα στο ποτάμι"],
    "korean": ["갈색 개 한 마리 가 풀밭 위 를 달린다", "두 아이 가 강가 에서 논다"],
}
SPECIALS = ["<pad>", "<unk>", "<s>", "</s>"]
ROLES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _word_piece(texts: list[str], *, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, **_options()))
    return tokenizer


def _byte_level(texts: list[str], *, lowercase: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **_options())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _metaspace(texts: list[str], *, byte_fallback: bool) -> Tokenizer:
    extra = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    model = models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    options = {**_options(), "special_tokens": [*SPECIALS, *extra]}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=560, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1)])
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in SPECIALS]
    return Tokenizer.from_str(json.dumps(spec))


def _unigram(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", **_options())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_level(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(**_options()))
    return tokenizer


def _characters(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(**_options()))
    return tokenizer


def _options() -> dict[str, Any]:
    return {"special_tokens": SPECIALS, "show_progress": False}


KINDS: dict[str, Callable[[list[str]], Tokenizer]] = {
    "wordpiece-uncased": lambda texts: _word_piece(texts, lowercase=True),
    "wordpiece-cased": lambda texts: _word_piece(texts, lowercase=False),
    "byte-level": _byte_level,
    "byte-level-uncased": lambda texts: _byte_level(texts, lowercase=True),
    "metaspace-bytes": lambda texts: _metaspace(texts, byte_fallback=True),
    "metaspace-unknown": lambda texts: _metaspace(texts, byte_fallback=False),
    "unigram": _unigram,
    "word-level": _word_level,
    "characters": _characters,
}


@cache
def definition(kind: str, script: str = "latin") -> str:
    """A trained tokenizer as JSON, from which copies are made."""
    return str(KINDS[kind](SCRIPTS[script] * 4).to_str())


def tokenizer_of(kind: str, script: str = "latin", **roles: str) -> Any:
    """A tokenizer of transformers; ``roles`` replace its special tokens."""
    from transformers import PreTrainedTokenizerFast

    if kind == "clip":
        tokenizer = end_of_word().backend_tokenizer
        ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**ends, **roles})
    tokenizer = Tokenizer.from_str(definition(kind, script))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**ROLES, **roles})
