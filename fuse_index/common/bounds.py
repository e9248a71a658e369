"""The largest numbers that options take: beyond them a library below fails, or memory does."""

from __future__ import annotations

MAX_COUNT = (1 << 63) - 1
"""Largest number of anything: what 64 bits hold."""
MAX_WIDTH = 1 << 24
"""Largest number of what is held in memory at once, such as the candidates of a step."""
MAX_SEED = (1 << 64) - 1
"""Largest seed that every generator of random numbers takes."""
MAX_WORD_TOKENS = 1024
"""Most tokens of a word in a bundle."""
MAX_NUMBER = 1e12
"""Largest factor or scale: float32 holds its products with losses and gradients."""
MIN_TEMPERATURE = 1e-30
"""Temperature below which sampling is taking the best: float32 holds what is divided by it."""
