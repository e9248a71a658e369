"""Tiny trained tokenizers of every kind."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = [
    "a brown dog runs over the green grass and catches a red ball",
    "two children play with a wooden boat near the river bank",
    "the old woman doesn't sell flowers; she paints them, she said.",
    "in 1984 more than 120 people crossed the bridge, some on foot!",
    "a few words about the quick fox that jumps over lazy dogs",
] * 4


def byte_level(head: str | None, tail: str | None = None) -> Any:
    """GPT-2's, RoBERTa's and OPT's: byte-level BPE with <s>, <pad>, </s> as ids 0, 1, 2."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    frame(tokenizer, head, tail)
    return fast(
        tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )


def metaspace(head: str | None) -> Any:
    """Llama's and Gemma's: BPE with byte fallback on text with spaces as ▁."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    spec = json.loads(tokenizer.to_str())
    kept = ("<unk>", "<s>", "</s>", "<pad>")
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in kept]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    frame(tokenizer, head, None)
    return fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def wordpiece() -> Any:
    """BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    frame(tokenizer, "[CLS]", "[SEP]")
    return fast(
        tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def end_of_word(head: str | None = "<|startoftext|>") -> Any:
    """CLIP's: BPE on lower-cased words that end in </w>; the end mark is the highest id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*alphabet, *(symbol + "</w>" for symbol in alphabet)],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = []  # the alphabet is vocabulary, not special tokens
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    frame(tokenizer, head, "<|endoftext|>")
    return fast(
        tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )


def frame(tokenizer: Tokenizer, head: str | None, tail: str | None) -> None:
    parts = [token for token in (head, tail) if token]
    if parts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(filter(None, [head, "$A", tail])),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in parts],
        )


def fast(tokenizer: Tokenizer, **roles: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
