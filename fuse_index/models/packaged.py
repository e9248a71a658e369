"""Names and places of the tiny models that come with the package, such as ``demo:lm``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from fuse_index.errors import ModelError

FOLDER = Path(__file__).parents[1] / "demo" / "weights"
"""One folder a model."""
DEMO = "demo:"
"""How the name of a packaged model begins."""


class DemoModel(str, Enum):
    """A model of the package; the value is its folder."""

    LM = "lm"
    """GPT-2's architecture, byte-level BPE."""
    CLIP = "clip"
    """A model of open_clip with CLIP's own tokenizer."""
    SENTIMENT = "sentiment"
    """BERT's architecture, WordPiece; labels negative, neutral, positive."""
    JUDGE = "judge"
    """A second sentiment classifier, with another seed, size and tokenizer, to judge results by."""


def model_name(model: DemoModel, folder: Path | None = None) -> str:
    """Return the name that ``fuse_index.models.load_model`` takes.

    Args:
        model: which one.
        folder: where the models are; None is the package's own.
    """
    prefix = "open_clip:" if model is DemoModel.CLIP else ""
    return f"{prefix}{(folder or FOLDER) / model.value}"


def demo_model(text: str) -> DemoModel | None:
    """Return the packaged model that a name means; None for the name of any other model.

    Raises:
        ModelError: it begins with ``demo:``, but there is no such model.
    """
    if not text.startswith(DEMO):
        return None
    names = {DEMO + model.value: model for model in DemoModel}
    if text not in names:
        raise ModelError(f"model {text!r}", expected="one of " + ", ".join(names))
    return names[text]
