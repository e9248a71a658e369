"""What an index is asked for: its kind, its metric, what stands for a word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fuse_index.errors import OptionError


class Metric(str, Enum):
    """How a query and a word are compared; a higher score is always better."""

    INNER_PRODUCT = "ip"
    """``q . x``: with the negative gradient as query, the words that lower the loss most."""
    COSINE = "cosine"
    """``q . x / (|q| |x|)``."""
    L2 = "l2"
    """``-|q - x|^2``, so that the nearest word scores highest."""


class Representation(str, Enum):
    """What stands for a word of several tokens."""

    MEAN = "mean"
    """The mean of its tokens' embeddings, ``(d,)``."""
    PADDED = "padded"
    """All of them, padded with zeros to the longest word's k tokens, ``(k * d,)``."""


class Kind(str, Enum):
    """How words are searched."""

    AUTO = "auto"
    """The fastest of those below that reaches the recall asked for, measured."""
    FLAT = "flat"
    """Every word vector, exactly (FAISS)."""
    TOKENS = "tokens"
    """Every token is scored once and a word adds its tokens' scores up, exactly; no word vectors
    are stored."""
    PQ = "pq"
    """Product quantization with 4 bits for every two dimensions, all words scanned by FAISS' fast
    scan; the best are compared again exactly."""
    IVF_PQ = "ivf-pq"
    """The same in inverted lists, of which some are scanned."""
    IVF_SQ = "ivf-sq"
    """Inverted lists of 8-bit scalars."""
    RABITQ = "rabitq"
    """One bit a dimension after a random rotation, in inverted lists."""
    HNSW = "hnsw"
    """A graph of small worlds over 8-bit scalars."""

    @property
    def exact(self) -> bool:
        """Whether nothing is approximated."""
        return self in (Kind.FLAT, Kind.TOKENS)


@dataclass(frozen=True)
class IndexOptions:
    """Options of :meth:`fuse_index.index.WordIndex.build`.

    Attributes:
        kind: see :class:`Kind`.
        metric: the metric of :meth:`~fuse_index.index.WordIndex.search`; others are answered too,
            exactly.
        representation: see :class:`Representation`.
        recall: least share of the truly best ``top_k`` words that an approximate kind must find,
            on queries held out.
        top_k: how many best words the recall is about.
        memory: most bytes a kind may hold, in units of the float32 word vectors.
        seed: of what is sampled and trained.
    """

    kind: Kind = Kind.AUTO
    metric: Metric = Metric.INNER_PRODUCT
    representation: Representation = Representation.MEAN
    recall: float = 0.95
    top_k: int = 100
    memory: float = 1.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("kind", Kind),
            ("metric", Metric),
            ("representation", Representation),
        ):
            object.__setattr__(self, name, choose(kind, getattr(self, name), name))
        if not (math.isfinite(self.recall) and 0.0 < self.recall <= 1.0):
            raise OptionError(f"recall={self.recall!r}", expected="a share, 0 < recall <= 1")
        if not self.memory > 0.0:
            raise OptionError(f"memory={self.memory!r}", expected="more than 0")
        for name, least in (("top_k", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name}={value!r}", expected=f"an integer of at least {least}")


def choose(kind: type[Any], value: Any, name: str) -> Any:
    """Turn a value into a member of an enum.

    Raises:
        OptionError: it is none; the message lists them.
    """
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(member.value) for member in kind)
        raise OptionError(f"{name}={value!r}", expected=f"one of {names}") from None
