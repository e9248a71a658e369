"""Fixtures shared by all tests; the real models and corpora are optional."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each process, and for what it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.demo_models import (
    _models,
    build_adapter,
    clip,
    clip_adapter,
    clip_only,
    image,
    image_path,
    lm,
    lm_problem,
    models_once,
    problem,
    sentiment,
    sentiment_adapter,
    three_models,
)

__all__ = [
    "_models",
    "build_adapter",
    "clip",
    "clip_adapter",
    "clip_only",
    "image",
    "image_path",
    "lm",
    "lm_problem",
    "models_once",
    "problem",
    "sentiment",
    "sentiment_adapter",
    "three_models",
]


settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

# Tokenizers and libraries are millions of objects; walking them often costs a seventh of the run.
gc.set_threshold(20_000, 20, 20)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(relative: str) -> Path:
    """Return a path under the optional folder of real data, or skip the test."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"real data not found: {path} (optional; see README, section Tests)")
    return path


@pytest.fixture(scope="session")
def gpt2_dir() -> Path:
    """The real causal LM with GPT-2's byte-level BPE."""
    return shared_path("models/gpt2-bpe-lm-18m")


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """The real sentence classifier with BERT's WordPiece."""
    return shared_path("models/minilm-sentiment")


@pytest.fixture(scope="session")
def captions_file() -> Path:
    """Image captions, one a line."""
    return shared_path("corpora/flickr8k-captions.txt")


@pytest.fixture(scope="session")
def wikitext_file() -> Path:
    """Encyclopaedia prose."""
    return shared_path("corpora/wikitext-2-valid.txt")


@pytest.fixture(scope="session")
def polarity_file() -> Path:
    """Film-review sentences with labels."""
    return shared_path("corpora/sentence-polarity.tsv")
