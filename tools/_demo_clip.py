"""Training of the demo's CLIP: pictures and sentences in groups of four near misses."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _demo_training import Plan, Recipe, fit, save_json, spread

from fuse_index.demo import FULL, Scene, SentenceOptions, Split, draw, make_scene, make_sentences
from fuse_index.demo.drawing import PIXELS
from fuse_index.demo.variants import near_miss

SCENES = 240_000
GROUP = 4
SENTENCES = 6
CONTEXT = 48
CHUNK = 50
DETAIL = SentenceOptions(detail=0.96)
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": PIXELS,
        "patch_size": 8,
        "layers": 6,
        "width": 192,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": 49408,
        "width": 96,
        "heads": 4,
        "layers": 4,
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

Made = tuple[np.ndarray, np.ndarray, np.ndarray]


def group_of(split: Split, index: int, seed: int) -> list[Scene]:
    """A scene and three near misses, each of the one before or of the first."""
    rng = random.Random(f"{seed}/group/{split.value}/{index}")
    scenes = [make_scene(split, index, seed=seed)]
    while len(scenes) < GROUP:
        scenes.append(near_miss(rng.choice(scenes), split, rng))
    return scenes


def _make(job: tuple[Split, int, int, int, dict[str, list[int]]]) -> Made:
    """Pictures (n, 4, h, w, 3), tokens (n, 4, s, L) and which sentence is true of which picture."""
    split, start, count, seed, tokens_of = job
    pixels = np.zeros((count, GROUP, PIXELS, PIXELS, 3), np.uint8)
    ids = np.zeros((count, GROUP, SENTENCES, CONTEXT), np.int32)
    true = np.zeros((count, GROUP, GROUP, SENTENCES), bool)
    for row in range(count):
        scenes = group_of(split, start + row, seed)
        for at, scene in enumerate(scenes):
            pixels[row, at] = np.asarray(draw(scene))
            said = make_sentences(scene, SENTENCES - 1, seed=seed, options=DETAIL)
            said += make_sentences(scene, 1, seed=seed, options=FULL)
            for number, sentence in enumerate(said):
                tokens = [t for word in sentence.text.split() for t in tokens_of[word]]
                ids[row, at, number, : len(tokens) + 2] = [49406, *tokens, 49407]
                facts = sentence.graph.facts()
                true[row, :, at, number] = [facts <= other.truths for other in scenes]
    return pixels, ids, true


def make_groups(split: Split, groups: int, plan: Plan) -> Made:
    """Make groups in many processes; sentence 6 of each scene says everything."""
    from open_clip import SimpleTokenizer

    from fuse_index.demo import vocabulary

    tokenizer = SimpleTokenizer(context_length=CONTEXT)
    tokens_of = {word: tokenizer.encode(word) for word in vocabulary()}
    jobs = [
        (split, start, min(CHUNK, groups - start), plan.seed, tokens_of)
        for start in range(0, groups, CHUNK)
    ]
    parts = spread(_make, jobs, plan.workers)
    pixels, ids, true = (np.concatenate(column) for column in zip(*parts, strict=True))
    return pixels, ids, true


def train_clip(folder: Path, plan: Plan) -> dict[str, Any]:
    """Train a model of open_clip with the contrastive loss, and write it as open_clip does."""
    import open_clip
    from safetensors.torch import save_file

    train = make_groups(Split.TRAIN, plan.scenes(SCENES) // GROUP, plan)
    held = make_groups(Split.VALIDATION, plan.scenes(1000), plan)
    save_json(folder / "open_clip_config.json", {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS})
    torch.manual_seed(plan.seed)
    module: Any = open_clip.CLIP(**CONFIG).to(plan.device)
    pixels, ids, true = (torch.from_numpy(array).to(plan.device) for array in train)
    check = [torch.from_numpy(array).to(plan.device) for array in held]
    used = torch.zeros(CONFIG["text_cfg"]["vocab_size"], dtype=torch.bool)
    used[torch.from_numpy(np.unique(train[1])).long()] = True
    generator = torch.Generator().manual_seed(plan.seed)
    groups = 512 if plan.device.type == "cuda" else 4

    def loss_of(step: int) -> torch.Tensor:
        chosen = torch.randint(len(pixels), (groups,), generator=generator).to(plan.device)
        number = torch.randint(SENTENCES, (groups, GROUP), generator=generator).to(plan.device)
        return contrastive(module, pixels[chosen], ids[chosen], true[chosen], number)

    def score_of() -> float:
        return near_miss_accuracy(module, check[0], check[1][:, :, -1], check[2][..., -1])

    report = fit(module, loss_of, score_of, Recipe(steps=2400, rate=1.5e-3, decay=0.1), plan)
    with torch.no_grad():
        # rows that no sentence uses: an average word rather than noise (and they compress well)
        table = module.token_embedding.weight
        table[~used.to(table.device)] = table[used.to(table.device)].mean(dim=0)
    state = {k: v.half().contiguous().cpu() for k, v in module.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return report | {"validation_near_miss_accuracy": report["best"]}


def to_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(..., h, w, 3) uint8 -> (n, 3, h, w) as the model's own preprocessing makes them."""
    flat = pixels.flatten(0, -4).permute(0, 3, 1, 2)
    return flat.float().div(255).sub(0.5).div(0.5)


def features(module: Any, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[Any, Any]:
    """Unit features of n pictures and n sentences, (n, d) each."""
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        images = module.encode_image(to_pixels(pixels), normalize=False)
        texts = module.encode_text(ids.flatten(0, -2).long(), normalize=False)
    normalize = torch.nn.functional.normalize
    return normalize(images.float(), dim=-1), normalize(texts.float(), dim=-1)


def contrastive(
    module: Any, pixels: torch.Tensor, ids: torch.Tensor, true: torch.Tensor, number: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross entropy; a near miss of which the sentence is also true is no negative.

    Args:
        module: the model.
        pixels: (g, 4, h, w, 3) uint8.
        ids: (g, 4, s, L).
        true: (g, 4, 4, s), picture, owner of the sentence, sentence.
        number: (g, 4), which sentence of each scene is used.
    """
    groups = len(pixels)
    chosen = ids.gather(2, number[..., None, None].expand(-1, -1, 1, CONTEXT).long())
    images, texts = features(module, pixels, chosen[:, :, 0])
    logits = module.logit_scale.exp().clamp(max=100) * images @ texts.T
    also = true.gather(3, number[:, None, :, None].expand(-1, GROUP, -1, 1))[..., 0]
    also = also & ~torch.eye(GROUP, dtype=torch.bool, device=also.device)
    blocks = torch.arange(groups, device=also.device)
    mask = torch.zeros(groups, GROUP, groups, GROUP, dtype=torch.bool, device=also.device)
    mask[blocks, :, blocks] = also
    logits = logits.masked_fill(mask.reshape(groups * GROUP, -1), float("-inf"))
    target = torch.arange(groups * GROUP, device=logits.device)
    loss = torch.nn.functional.cross_entropy
    return (loss(logits, target) + loss(logits.T, target)) / 2


def near_miss_accuracy(
    module: Any, pixels: torch.Tensor, ids: torch.Tensor, true: torch.Tensor
) -> float:
    """Share of pictures whose own full sentence beats those of its three near misses.

    Args:
        module: the model.
        pixels: (g, 4, h, w, 3) uint8.
        ids: (g, 4, L), full sentences.
        true: (g, 4, 4), which are true; those of others that are true too do not count.
    """
    right = []
    for start in range(0, len(pixels), 500):
        part = slice(start, start + 500)
        images, texts = features(module, pixels[part], ids[part])
        groups = len(images) // GROUP
        scores = torch.einsum(
            "gad,gbd->gab", images.view(groups, GROUP, -1), texts.view(groups, GROUP, -1)
        )
        own = torch.eye(GROUP, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(true[part] & ~own, -1)
        right.append(scores.argmax(2) == torch.arange(GROUP, device=scores.device))
    return float(torch.cat(right).float().mean())
