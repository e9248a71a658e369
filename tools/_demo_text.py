"""Training of the demo's language model and its sentiment classifiers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from _demo_training import Plan, Recipe, fit, save_json, sentences_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from fuse_index.demo import Sentence, Sentiment, Split

SCENES = 240_000
END = "<|endoftext|>"
LABELS = [sentiment.value for sentiment in Sentiment]
LM_POSITIONS = 128
LM_VOCABULARY = 560


def train_lm(folder: Path, plan: Plan) -> dict[str, Any]:
    """Train GPT-2's architecture on sentences, half of them after a space."""
    from transformers import GPT2Config, GPT2LMHeadModel

    train = sentences_of(Split.TRAIN, plan.scenes(SCENES), plan)
    held = sentences_of(Split.VALIDATION, plan.scenes(1000), plan)
    texts = [(" " if i % 2 else "") + s.text for i, s in enumerate(train)]
    tokenizer = byte_level_bpe(texts[:40_000])
    end = tokenizer.token_to_id(END)
    torch.manual_seed(plan.seed)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=LM_POSITIONS,
        n_embd=192,
        n_layer=4,
        n_head=6,
        bos_token_id=end,
        eos_token_id=end,
        resid_pdrop=0.1,
        embd_pdrop=0.1,
        attn_pdrop=0.0,
    )
    module = GPT2LMHeadModel(config).to(plan.device)
    rows = padded(encode(tokenizer, texts, tail=[end]), end, plan)
    check = padded(encode(tokenizer, [" " + s.text for s in held], tail=[end]), end, plan)
    draw = Draw(len(texts), plan)
    batch = 1024 if plan.device.type == "cuda" else 16

    def loss_of(step: int) -> torch.Tensor:
        return lm_loss(module, *rows, draw(batch))

    def score_of() -> float:
        return -float(lm_loss(module, *check, torch.arange(len(held), device=plan.device)))

    report = fit(module, loss_of, score_of, Recipe(steps=600, rate=1.5e-3, decay=0.1), plan)
    module.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, LM_POSITIONS, bos_token=END, eos_token=END, unk_token=END)
    return report | {"validation_perplexity": math.exp(-report["best"])}


def lm_loss(
    module: torch.nn.Module, ids: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Mean loss of the next tokens of some rows; padding does not count."""
    width = int(lengths[rows].max())
    part = ids[rows, :width].long()
    labels = part.masked_fill(
        torch.arange(width, device=part.device) >= lengths[rows][:, None], -100
    )
    with torch.autocast(part.device.type, dtype=torch.bfloat16):
        logits = module(input_ids=part).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )


def train_classifier(folder: Path, plan: Plan, *, judge: bool) -> dict[str, Any]:
    """Train BERT's architecture to tell how sentences feel.

    The judge differs in seed, in scenes, in size and in its tokenizer, which has whole words.
    """
    from transformers import BertConfig, BertForSequenceClassification

    plan = plan if not judge else Plan(**{**vars(plan), "seed": plan.seed + 1})
    train = sentences_of(Split.TRAIN, plan.scenes(SCENES // 4), plan)
    held = sentences_of(Split.VALIDATION, plan.scenes(1000), plan)
    texts = [s.text for s in train]
    tokenizer = wordpiece(texts[:40_000], 1000 if judge else 340)
    torch.manual_seed(plan.seed)
    width, layers = (96, 3) if judge else (128, 2)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=LM_POSITIONS,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    module = BertForSequenceClassification(config).to(plan.device)
    pad = config.pad_token_id
    rows, check = (
        padded(encode(tokenizer, [s.text for s in part]), pad, plan) for part in (train, held)
    )
    wanted, expected = labels_of(train, plan), labels_of(held, plan)
    draw = Draw(len(texts), plan)
    batch = 512 if plan.device.type == "cuda" else 16

    def loss_of(step: int) -> torch.Tensor:
        chosen = draw(batch)
        logits = classify(module, *rows, chosen)
        return torch.nn.functional.cross_entropy(logits.float(), wanted[chosen])

    def score_of() -> float:
        everything = torch.arange(len(held), device=plan.device)
        guess = classify(module, *check, everything).argmax(1)
        return float((guess == expected).float().mean())

    report = fit(module, loss_of, score_of, Recipe(steps=1500, rate=1e-3), plan)
    module.half().save_pretrained(folder)
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    save_tokenizer(tokenizer, folder, LM_POSITIONS, **roles)
    return report | {"validation_accuracy": report["best"]}


def classify(
    module: torch.nn.Module, ids: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Logits of some rows, (b, 3)."""
    width = int(lengths[rows].max())
    mask = torch.arange(width, device=ids.device) < lengths[rows][:, None]
    logits: torch.Tensor = module(
        input_ids=ids[rows, :width].long(), attention_mask=mask.long()
    ).logits
    return logits


def labels_of(sentences: Iterable[Sentence], plan: Plan) -> torch.Tensor:
    """Numbers of the sentiments, (n,) int64."""
    return torch.tensor([LABELS.index(s.sentiment.value) for s in sentences], device=plan.device)


class Draw:
    """Draws rows of one permutation after another."""

    def __init__(self, rows: int, plan: Plan) -> None:
        self.rows, self.device = rows, plan.device
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.left = torch.empty(0, dtype=torch.int64)

    def __call__(self, count: int) -> torch.Tensor:
        while len(self.left) < count:
            fresh = torch.randperm(self.rows, generator=self.generator)
            self.left = torch.cat([self.left, fresh])
        chosen, self.left = self.left[:count], self.left[count:]
        return chosen.to(self.device)


def encode(tokenizer: Tokenizer, texts: list[str], tail: list[int] | None = None) -> Any:
    """Token ids of texts with special tokens, and ``tail`` after each."""
    return [encoding.ids + (tail or []) for encoding in tokenizer.encode_batch(texts)]


def padded(rows: list[list[int]], fill: int, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the right -> (n, L) int16 and lengths (n,) int64."""
    import numpy as np

    lengths = np.array([len(row) for row in rows])
    table = np.full((len(rows), lengths.max()), fill, dtype=np.int16)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(table).to(plan.device), torch.from_numpy(lengths).to(plan.device)


def damped(texts: Iterable[str]) -> list[str]:
    """Words as often as their length times the square root of their number.

    So rare and long ones get tokens of more than a letter too, and few take more than four.

    Every word follows a space, as inside a text, except those that a text begins with.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        first, *others = text.split(" ")
        counts.update([first, *(f" {word}" for word in others)])
    return [
        word
        for word, count in sorted(counts.items())
        for _ in range((math.isqrt(count) + 1) * len(word))
    ]


def byte_level_bpe(texts: list[str]) -> Tokenizer:
    """Train GPT-2's kind of tokenizer; it begins every text with the end-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=LM_VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(damped(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def wordpiece(texts: list[str], size: int) -> Tokenizer:
    """Train BERT's kind of tokenizer."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(damped(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, positions: int, **roles: str) -> None:
    """Write tokenizer.json and a configuration that transformers 4.48 and 5 both read."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    save_json(folder / "tokenizer_config.json", config)
