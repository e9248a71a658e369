"""Training of the demo's CLIP: pictures and sentences in groups of four near misses.

The contrastive loss with soft answers: the share of a text in the answer to a picture grows with
what is true in it (``exp(20 F1)`` of their scene graphs), and sentences stand beside versions that
were spoiled as a search spoils them. So the model says *how* true a text is, also of texts that no
grammar makes, which is what a search asks. With the plain loss a search finds captions that the
model prefers to every true sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from _demo_groups import CONTEXT, GROUP, SENTENCES, make_groups
from _demo_spoil import f1
from _demo_training import Plan, Recipe, fit, save_json

from fuse_index.demo import Split
from fuse_index.demo.drawing import PIXELS

WEIGHTS = "open_clip_model.safetensors"
SCENES = 240_000
STEPS = 5000
SHARPNESS = 20.0
"""Of the answers: how many times likelier, in powers of e, a text is for one more of F1."""
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": PIXELS,
        "patch_size": 12,
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


def train_clip(folder: Path, plan: Plan) -> dict[str, Any]:
    """Train a model of open_clip with the contrastive loss, and write it as open_clip does."""
    import open_clip
    from safetensors.torch import save_file

    train = make_groups(Split.TRAIN, plan.scenes(SCENES) // GROUP, plan)
    held = make_groups(Split.VALIDATION, plan.scenes(300), plan)
    save_json(folder / "open_clip_config.json", {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS})
    torch.manual_seed(plan.seed)
    module: Any = open_clip.CLIP(**CONFIG).to(plan.device)
    data = [torch.from_numpy(array).to(plan.device) for array in train]
    check = [torch.from_numpy(array).to(plan.device) for array in held]
    used = torch.zeros(CONFIG["text_cfg"]["vocab_size"], dtype=torch.bool)
    used[torch.from_numpy(np.unique(train[2])).long()] = True
    generator = torch.Generator().manual_seed(plan.seed)
    groups = 256 if plan.device.type == "cuda" else 4

    def loss_of(step: int) -> torch.Tensor:
        chosen = torch.randint(len(data[0]), (groups,), generator=generator).to(plan.device)
        number = torch.randint(SENTENCES, (groups, GROUP), generator=generator).to(plan.device)
        pixels, seen, ids, facts = (column[chosen] for column in data)
        return graded(module, pixels, seen, one_of(ids, number), one_of(facts, number))

    def score_of() -> float:
        return chosen_f1(module, *check)

    report = fit(module, loss_of, score_of, Recipe(steps=STEPS, rate=1.5e-3, decay=0.1), plan)
    with torch.no_grad():
        # rows that no sentence uses: an average word rather than noise (and they compress well)
        table = module.token_embedding.weight
        table[~used.to(table.device)] = table[used.to(table.device)].mean(dim=0)
    state = {k: v.half().contiguous().cpu() for k, v in module.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return report | {"validation_f1_of_the_chosen": report["best"]}


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


def one_of(versions: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Take one sentence of every scene, in all its versions.

    Args:
        versions: (g, 4, s, v, n).
        number: (g, 4), which sentence.

    Returns:
        (g * 4 * v, n).
    """
    at = number[..., None, None, None].expand(-1, -1, 1, *versions.shape[3:])
    return versions.gather(2, at).flatten(0, 3)


def graded(
    module: Any, pixels: torch.Tensor, seen: torch.Tensor, ids: torch.Tensor, facts: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross entropy to answers that grow with what is true of a picture.

    Args:
        module: the model.
        pixels: (g, 4, h, w, 3) uint8.
        seen: (g, 4, 2, BYTES), facts of the scenes.
        ids: (n, L), texts.
        facts: (n, BYTES), what they say.
    """
    images, texts = features(module, pixels, ids)
    logits = module.logit_scale.exp().clamp(max=100) * images @ texts.T
    wanted = SHARPNESS * f1(seen.flatten(0, 1), facts)
    loss = torch.nn.functional.cross_entropy
    to_texts = loss(logits, wanted.softmax(dim=1))
    to_images = loss(logits.T, wanted.T.softmax(dim=1))
    return (to_texts + to_images) / 2


def chosen_f1(
    module: Any,
    pixels: torch.Tensor,
    seen: torch.Tensor,
    ids: torch.Tensor,
    facts: torch.Tensor,
) -> float:
    """Mean F1 of the text that is likest to a picture, of all those of its group.

    Args:
        module: the model.
        pixels: (g, 4, h, w, 3) uint8.
        seen: (g, 4, 2, BYTES), facts of the scenes.
        ids: (g, 4, s, v, L), texts.
        facts: (g, 4, s, v, BYTES), what they say.
    """
    found = []
    for start in range(0, len(pixels), 100):
        part = slice(start, start + 100)
        images, texts = features(module, pixels[part], ids[part].flatten(0, 3))
        groups = len(images) // GROUP
        scores = images.view(groups, GROUP, -1) @ texts.view(groups, -1, texts.shape[1]).mT
        for own, scene, told in zip(scores, seen[part], facts[part], strict=True):
            true = f1(scene, told.flatten(0, 2))
            found.append(true.gather(1, own.argmax(1, keepdim=True)))
    return float(torch.cat(found).mean())
