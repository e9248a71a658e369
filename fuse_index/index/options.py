"""Options of a word index: kind, metric, representation."""

from __future__ import annotations

from enum import Enum

from fuse_index.common.options import Positive, Seed, Share, Width, options


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
    scan; the best candidates are scored again exactly."""

    @property
    def exact(self) -> bool:
        """Whether nothing is approximated."""
        return self in (Kind.FLAT, Kind.TOKENS)


@options()
class IndexOptions:
    """Options of :meth:`fuse_index.index.WordIndex.build`.

    Attributes:
        kind: see :class:`Kind`.
        metric: the metric of :meth:`~fuse_index.index.WordIndex.search`; others are answered too,
            exactly.
        representation: see :class:`Representation`.
        recall: least share of the truly best ``top_k`` words that product quantization must find,
            on held-out queries.
        top_k: how many best words the recall is about.
        memory: most bytes an index may hold, in units of the float32 word vectors.
        seed: of what is sampled and trained.
    """

    kind: Kind = Kind.AUTO
    metric: Metric = Metric.INNER_PRODUCT
    representation: Representation = Representation.MEAN
    recall: Share = 0.95
    top_k: Width = 100
    memory: Positive = 1.3
    seed: Seed = 0
