"""Tiny causal models with tokenizers of every family, for texts that people paste."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fuse_index.words.tokenizers.locality import QWEN_PATTERN
from tests.models import factory, tokenizer_factory
from tests.words import tokenizers_zoo as zoo

SPACED = [
    *zoo.TEXT,
    "a  b   c    d",
    "one.  two!  three",
    "x:  y\n\nz\n",
    "User: Assistant: \n",
] * 2
"""Texts with runs of spaces and lines, so that they have tokens."""


def _byte_level(splits: list[Any], head: str | None = None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SPACED, trainer)
    tokenizer_factory.frame(tokenizer, head, None)
    return tokenizer_factory.fast(tokenizer, eos_token="<|end|>", bos_token="<|end|>")


def _qwen() -> Any:
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    return _byte_level([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _smollm() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return _byte_level([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)], "<|end|>")


def _sentencepiece(beginning: str, head: str = "<s>") -> Any:
    """BPE with byte fallback: Llama's before and after 4.40, Mistral's, Gemma's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = replace
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))],
        max_token_length=8,
        show_progress=False,
    )
    words = [part for line in SPACED for part in _words(line)]
    tokenizer.train_from_iterator(words, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if beginning == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif beginning == "first":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif beginning == "always":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    if beginning:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    spec = json.loads(tokenizer.to_str())
    kept = ("<unk>", "<s>", "</s>")
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in kept]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer_factory.frame(tokenizer, head, None)
    return tokenizer_factory.fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _words(line: str) -> list[str]:
    """Words with the spaces before them, so that merges stay inside."""
    return re.findall(r"\s*\S+|\s+", line)


def _characters() -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    letters = sorted({c for line in SPACED for c in line})
    vocab = {token: i for i, token in enumerate(["<unk>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer_factory.fast(tokenizer, unk_token="<unk>", eos_token="</s>")


def _from(name: str) -> Callable[[], Any]:
    return lambda: zoo.make(name)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt2": _from("gpt2"),
    "opt": lambda: factory.byte_level("</s>"),
    "roberta": _from("roberta-prefix"),
    "qwen": _qwen,
    "smollm": _smollm,
    "llama": lambda: _sentencepiece("prepend"),
    "mistral": lambda: _sentencepiece("first"),
    "always": lambda: _sentencepiece("always"),
    "gemma": lambda: _sentencepiece(""),
    "t5": _from("t5"),
    "bert-uncased": _from("bert-uncased"),
    "bert-cased": _from("bert-cased"),
    "clip": _from("clip"),
    "characters": _characters,
    "byt5": _from("byt5"),
    "slow-sentencepiece-unigram": _from("slow-sentencepiece-unigram-new"),
}


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a family, made once."""
    return TOKENIZERS[name]()


@cache
def pasted(name: str) -> Any:
    """A tiny causal model with the tokenizer of a family, wrapped as the package does."""
    return _wrapped(name, tokenizer_of(name))


@cache
def talking(name: str, template: str | None) -> Any:
    """The same with marks of messages among its special tokens, and a chat template."""
    tokenizer = copy.deepcopy(tokenizer_of(name))
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.chat_template = template
    return _wrapped(name, tokenizer)


def _wrapped(name: str, tokenizer: Any) -> Any:
    import transformers

    from fuse_index.models.base import ModelParts
    from fuse_index.models.causal import CausalModel
    from fuse_index.models.frame import frame_of
    from fuse_index.models.kinds import ModelKind
    from fuse_index.words.tokenizers.tokenization import WordTokenizer

    config = transformers.LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        **{**factory.GROUPED, "max_position_embeddings": 512},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
    words = WordTokenizer.from_tokenizer(tokenizer)
    frame = frame_of(tokenizer, ModelKind.CAUSAL, name)
    parts = ModelParts(name, "", tokenizer, words, frame, 512)
    return CausalModel(module, module.get_input_embeddings(), parts)
