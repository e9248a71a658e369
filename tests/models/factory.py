"""Tiny random-weight models of every family, from their real configuration classes.

``save_model(family, folder)`` writes a checkpoint with a tiny trained tokenizer beside it, as a
user would find it on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.models.tokenizer_factory import (
    byte_level,
    end_of_word,
    metaspace,
    wordpiece,
)

WIDTH = 32
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """How a family is built.

    Attributes:
        build: number of tokens, tokenizer -> model of transformers.
        tokenizer: makes its tokenizer.
        spare: rows of the embedding table beyond the tokenizer's tokens.
    """

    build: Callable[[int, Any], Any]
    tokenizer: Callable[[], Any]
    spare: int = 0


def _causal(config: str, **options: Any) -> Callable[[int, Any], Any]:
    def build(rows: int, tokenizer: Any) -> Any:
        import transformers

        made = getattr(transformers, config)(
            vocab_size=rows,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
        return transformers.AutoModelForCausalLM.from_config(made)

    return build


def _classifier(config: str, **options: Any) -> Callable[[int, Any], Any]:
    def build(rows: int, tokenizer: Any) -> Any:
        import transformers

        made = getattr(transformers, config)(
            vocab_size=rows,
            pad_token_id=tokenizer.pad_token_id,
            id2label={0: "negative", 1: "neutral", 2: "positive"},
            label2id={"negative": 0, "neutral": 1, "positive": 2},
            **options,
        )
        model = transformers.AutoModelForSequenceClassification.from_config(made)
        # as in checkpoints that were converted from TensorFlow: no row of zeros for padding
        table = model.get_input_embeddings().weight
        torch.nn.init.normal_(table.data[tokenizer.pad_token_id], std=0.3)
        return model

    return build


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _two_towers(family: str) -> Callable[[int, Any], Any]:
    def build(rows: int, tokenizer: Any) -> Any:
        import transformers

        text = {
            **SIZES,
            "vocab_size": rows,
            "max_position_embeddings": 24,
            "bos_token_id": tokenizer.bos_token_id or 0,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        vision = {**SIZES, "image_size": 32, "patch_size": 16}
        extra = {"projection_dim": 16} if family == "CLIP" else {}
        config = getattr(transformers, f"{family}Config")(
            text_config=text, vision_config=vision, **extra
        )
        model = getattr(transformers, f"{family}Model")(config)
        for name, weight in model.named_parameters():
            if "embedding" in name or "proj" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return model

    return build


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        _causal(
            "GPT2Config",
            n_embd=WIDTH,
            n_layer=2,
            n_head=4,
            n_positions=48,
            initializer_range=0.3,
        ),
        lambda: byte_level(None),
    ),
    "llama": Family(_causal("LlamaConfig", **GROUPED), lambda: metaspace("<s>"), spare=12),
    "mistral": Family(
        _causal("MistralConfig", sliding_window=4, **GROUPED), lambda: metaspace("<s>")
    ),
    "qwen2": Family(_causal("Qwen2Config", **GROUPED), lambda: byte_level(None), spare=40),
    "qwen3": Family(
        _causal("Qwen3Config", head_dim=8, tie_word_embeddings=True, **GROUPED),
        lambda: byte_level(None),
    ),
    "gemma": Family(_causal("GemmaConfig", head_dim=8, **GROUPED), lambda: metaspace("<s>")),
    "gemma2": Family(
        _causal("Gemma2Config", head_dim=8, sliding_window=4, **GROUPED), lambda: metaspace("<s>")
    ),
    "gemma3": Family(
        _causal("Gemma3TextConfig", head_dim=8, sliding_window=4, **GROUPED),
        lambda: metaspace("<s>"),
    ),
    "opt": Family(
        _causal(
            "OPTConfig",
            hidden_size=WIDTH,
            word_embed_proj_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=64,
            max_position_embeddings=48,
            init_std=0.3,
        ),
        lambda: byte_level("</s>"),
    ),
    "falcon": Family(
        _causal(
            "FalconConfig",
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
            max_position_embeddings=48,
        ),
        lambda: byte_level(None),
    ),
    "falcon-alibi": Family(
        _causal(
            "FalconConfig",
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
            alibi=True,
            new_decoder_architecture=False,
        ),
        lambda: byte_level(None),
    ),
    "bert": Family(_classifier("BertConfig", **SIZES), wordpiece),
    "roberta": Family(
        _classifier("RobertaConfig", **{**SIZES, "max_position_embeddings": 50}),
        lambda: byte_level("<s>", "</s>"),
    ),
    "distilbert": Family(
        _classifier(
            "DistilBertConfig",
            dim=WIDTH,
            n_layers=2,
            n_heads=4,
            hidden_dim=64,
            max_position_embeddings=48,
            initializer_range=0.3,
        ),
        wordpiece,
    ),
    "xlnet": Family(
        _classifier("XLNetConfig", d_model=WIDTH, n_layer=2, n_head=4, d_inner=64), wordpiece
    ),
    "mobilebert": Family(
        _classifier(
            "MobileBertConfig",
            embedding_size=16,
            intra_bottleneck_size=16,
            true_hidden_size=16,
            **{**SIZES, "initializer_range": 0.15},  # it has no norms: larger states saturate
        ),
        wordpiece,
    ),
    "convbert": Family(_classifier("ConvBertConfig", embedding_size=WIDTH, **SIZES), wordpiece),
    "fnet": Family(
        _classifier(
            "FNetConfig", tpu_short_seq_length=16, **_without(SIZES, "num_attention_heads")
        ),
        wordpiece,
    ),
    "clip": Family(_two_towers("CLIP"), end_of_word),
    "siglip": Family(_two_towers("Siglip"), lambda: end_of_word(None)),
}
CAUSAL = tuple(list(FAMILIES)[:11])
CLASSIFIERS = ("bert", "roberta", "distilbert", "xlnet", "mobilebert", "convbert", "fnet")
UNPADDED = ("xlnet", "mobilebert", "convbert", "fnet")
"""Those whose results padding changes."""
TOWERS = ("clip", "siglip")


@cache
def tokenizer_of(family: str) -> Any:
    """The tiny tokenizer of a family, trained once."""
    return FAMILIES[family].tokenizer()


def build_model(family: str) -> Any:
    """Build the random model of a family from a fixed seed."""
    spec = FAMILIES[family]
    tokenizer = tokenizer_of(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(len(tokenizer) + spec.spare, tokenizer).eval()


def save_model(family: str, folder: Path) -> Path:
    """Write the model and tokenizer of a family to a folder and return it."""
    build_model(family).save_pretrained(folder)
    tokenizer_of(family).save_pretrained(folder)
    if family in TOWERS:
        import transformers

        name = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[family]
        size = {"height": 32, "width": 32}
        options = {"crop_size": size} if family == "clip" else {}
        getattr(transformers, name)(size=size, **options).save_pretrained(folder)
    return folder


OPEN_CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def save_open_clip(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Write a random open_clip model as open_clip saves it: configuration and safetensors."""
    import open_clip
    from safetensors.torch import save_file

    config = config or OPEN_CLIP_CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(
            f"local-dir:{folder}", load_weights=False, pretrained_text=False
        )
        for name, weight in model.named_parameters():
            if "embedding" in name or "projection" in name:
                torch.nn.init.normal_(weight, std=0.3)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def save_albert(folder: Path) -> Path:
    """Write a model whose layers share their weights, and cannot be told apart."""
    import transformers

    tokenizer = tokenizer_of("bert")
    size, pad = len(tokenizer), tokenizer.pad_token_id
    config = transformers.AlbertConfig(
        vocab_size=size, embedding_size=WIDTH, pad_token_id=pad, **SIZES
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AlbertModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LONG_FROM = 16
"""Positions of :func:`save_longrope` from which all rows get other rotary frequencies."""


def save_longrope(folder: Path) -> Path:
    """Write a Phi-3 whose longest row decides the rotary frequencies of all rows."""
    import transformers

    tokenizer = tokenizer_of("llama")
    config = transformers.Phi3Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        original_max_position_embeddings=LONG_FROM,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4},
        **GROUPED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Phi3ForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
