"""Tiny real tokenizers of every family, trained on a few sentences in a second."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
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
    "in 1984 more than 120,000 people crossed the bridge, some on foot!",
    "a café au lait and a crème brûlée for the señor, please",
    "photographs of photographers photographing photogenic photons",
    "unbelievable running swimming jumping climbing sleeping eating drinking",
    "she's here, they've gone, we'll see, I'd say it isn't so",
    "中文 字符 和 日本語 の 文字 한국어 문장",
    "Привет мир, как дела? Ελληνικά γράμματα",
    "the quick brown fox jumps over the lazy dog again and again",
    "an e-mail to user@example.com about C++ and node.js at 10:30",
    "! \" # $ % & ' ( ) * + , - . / : ; < = > ? @ [ \\ ] ^ _ ` { | } ~ 0 1 2 3 4 5 6 7 8 9",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z ABC NASA MASK [PAD] <s> </s>",
] * 4


def _bytelevel_bpe(*, add_prefix_space: bool = False, added: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if added:
        tokenizer.add_tokens(["  ", "   ", "photo"])
    return tokenizer


def _wordpiece_added() -> Tokenizer:
    """Words of a domain, and mark-up, added to a tokenizer that lower-cases."""
    tokenizer = _wordpiece(lowercase=True)
    words = ["COVID-19", "IL-6", "Zürich"]
    markup = [AddedToken(t, normalized=False) for t in ("<think>", "</think>")]
    tokenizer.add_tokens([*words, *markup, AddedToken("photo", single_word=True)])
    return tokenizer


def _wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=16)
    return tokenizer


def _llama(*, legacy: bool) -> Tokenizer:
    """Llama's BPE: no pre-tokenizer split, byte fallback, a space put before the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return _with_specials(tokenizer, ["<unk>", "<s>", "</s>"])


def _with_specials(tokenizer: Tokenizer, keep: list[str]) -> Tokenizer:
    """The same tokenizer with only these of its added tokens."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in keep]
    return Tokenizer.from_str(json.dumps(spec))


def _t5() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _clip() -> Any:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer()._tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(model["vocab"])
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(symbol + "</w>", len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m) for m in model["merges"]])


def _fast(tokenizer: Tokenizer, **roles: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _sentencepiece_model(kind: str) -> Path:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        vocab_size=300,
        model_type=kind,
        character_coverage=0.9995,
        minloglevel=2,
        pad_id=3,
        hard_vocab_limit=False,
    )
    path = Path(tempfile.mkdtemp()) / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


def _slow_sentencepiece(kind: str, *, legacy: bool = True) -> Any:
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    return SentencePieceBackend(
        vocab_file=str(_sentencepiece_model(kind)),
        legacy=legacy,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def _slow_bert() -> Any:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    vocab = json.loads(_wordpiece(lowercase=True).to_str())["model"]["vocab"]
    path = Path(tempfile.mkdtemp()) / "vocab.txt"
    path.write_text("\n".join(sorted(vocab, key=vocab.__getitem__)), encoding="utf-8")
    return BertTokenizerLegacy(str(path))


def _open_clip(clean: str = "lower") -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(clean=clean)


def _open_clip_hf(name: str, clean: str) -> Any:
    from open_clip.tokenizer import HFTokenizer

    folder = tempfile.mkdtemp()
    make(name).save_pretrained(folder)
    return HFTokenizer(folder, clean=clean)


def _byt5() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


ZOO: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: _fast(_bytelevel_bpe(), unk_token="<|endoftext|>", eos_token="<|endoftext|>"),
    "gpt2-added": lambda: _fast(_bytelevel_bpe(added=True), eos_token="<|endoftext|>"),
    "roberta-prefix": lambda: _fast(_bytelevel_bpe(add_prefix_space=True)),
    "bert-uncased": lambda: _fast(
        _wordpiece(lowercase=True), unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]"
    ),
    "bert-added": lambda: _fast(_wordpiece_added(), unk_token="[UNK]", pad_token="%"),
    "gpt2-pad": lambda: _fast(_bytelevel_bpe(), eos_token="<|endoftext|>", pad_token="!"),
    "bert-cased": lambda: _fast(
        _wordpiece(lowercase=False), unk_token="[UNK]", clean_up_tokenization_spaces=True
    ),
    "llama": lambda: _fast(_llama(legacy=False), unk_token="<unk>", eos_token="</s>"),
    "llama-legacy": lambda: _fast(_llama(legacy=True), unk_token="<unk>", eos_token="</s>"),
    "t5": lambda: _fast(_t5(), unk_token="<unk>", eos_token="</s>", pad_token="<pad>"),
    "clip": _clip,
    "open_clip": _open_clip,
    "open_clip-canonicalize": lambda: _open_clip("canonicalize"),
    "open_clip-hf": lambda: _open_clip_hf("bert-uncased", "whitespace"),
    "open_clip-hf-roberta": lambda: _open_clip_hf("gpt2", "whitespace"),
    "open_clip-hf-t5": lambda: _open_clip_hf("t5", "canonicalize"),
    "slow-bert": _slow_bert,
    "slow-sentencepiece-bpe": lambda: _slow_sentencepiece("bpe"),
    "slow-sentencepiece-unigram": lambda: _slow_sentencepiece("unigram"),
    "slow-sentencepiece-unigram-new": lambda: _slow_sentencepiece("unigram", legacy=False),
    "byt5": _byt5,
}


@cache
def make(name: str) -> Any:
    """The tokenizer of that name, built once."""
    return ZOO[name]()


@cache
def wrapped(name: str) -> Any:
    """The same as a WordTokenizer."""
    from fuse_index.words.tokenizers.tokenization import WordTokenizer

    return WordTokenizer.from_tokenizer(make(name))
