"""The tiny checkpoints of tests/models."""

from tests.models.conftest import loaded, open_clip_dir, saved

__all__ = ["loaded", "open_clip_dir", "saved"]
