"""Options of a fit: grouping, ridge, hold-out and limits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import SkipValidation

from fuse_index.common.bounds import MAX_NUMBER
from fuse_index.common.options import Count, Seed, options
from fuse_index.errors import OptionError

Ridge = float | Literal["auto"]


class Grouping(str, Enum):
    """What decides which adapter a word uses."""

    PAIR = "pair"
    """The numbers of tokens in the source and in the target, ``(p, q)``."""
    TARGET = "target"
    """The number of tokens in the target alone, ``q`` (as the paper's own code does it)."""


class MapKind(str, Enum):
    """The kind of the maps."""

    CIRCULANT = "circulant"
    """The t-product of the paper, through the origin."""
    AFFINE = "affine"
    """The t-product with an intercept."""
    BLOCK = "block"
    """Any matrix from all source tokens to all target tokens, with an intercept, as have all."""
    LOW_RANK = "low-rank"
    """Reduced-rank regression."""
    ORTHOGONAL = "orthogonal"
    """A scale times a partial isometry (Procrustes)."""
    LOCAL = "local"
    """Kernel ridge regression on the words themselves."""
    MLP = "mlp"
    """A matrix and a hidden layer."""
    AUTO = "auto"
    """For every group the kind with the least cross-validated error."""

    @property
    def is_product(self) -> bool:
        """Whether the maps are t-products."""
        return self in (MapKind.CIRCULANT, MapKind.AFFINE)


@options()
class FitOptions:
    """Options of :func:`fuse_index.adapter.fit.fit.fit_adapter`.

    Attributes:
        grouping: what decides which adapter a word uses.
        ridge: Tikhonov penalty in units of the group's mean squared singular value
            ``||X||^2 / width``, so that one number suits groups of any size; ``0`` is the
            minimum-norm least-squares solution; ``"auto"`` minimizes the generalized
            cross-validation score of each group.
        min_words: groups with fewer words to fit on use the fallback adapter.
        max_words: at most this many words of a group are fitted on, a seeded sample that does not
            depend on the order of the words; ``None`` means all.
        holdout: share of the words kept out of the fit and used for the quality report.
        seed: decides which words are held out and which are sampled.
        chunk_words: words that are embedded at a time; ``None`` lets the widths decide.
        kind: of the maps of all groups with enough words; the fallback is a t-product.
        landmarks: of ``local``: most words of a group that it is fitted on, the most frequent.
    """

    grouping: Grouping = Grouping.PAIR
    ridge: Annotated[Ridge, SkipValidation] = "auto"
    min_words: Count = 10
    max_words: Count | None = None
    holdout: float = 0.1
    seed: Seed = 0
    chunk_words: Count | None = None
    kind: MapKind = MapKind.CIRCULANT
    landmarks: Count = 8192

    def __post_init__(self) -> None:
        ridge = self.ridge
        valid = ridge == "auto"
        if not isinstance(ridge, (str, bool)):
            valid = 0 <= ridge <= MAX_NUMBER
        if not valid:
            raise OptionError(
                f"ridge={ridge!r}",
                expected='a finite number >= 0 or "auto"',
                remedy="0 is plain least squares",
            )
        if not 0.0 <= self.holdout < 1.0:
            raise OptionError(
                f"holdout={self.holdout!r}", expected="a share of the words, 0 <= holdout < 1"
            )
        if self.max_words is not None and self.max_words < self.min_words:
            raise OptionError(
                f"max_words={self.max_words}", expected=f"at least min_words={self.min_words}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options under the names that a manifest gives them."""
        found = {stored: getattr(self, name) for stored, name in _STORED.items()}
        new = {name: getattr(self, name) for name in _LATER}
        return found | {name: own for name, own in new.items() if own != _LATER[name]}

    def replacing(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that a manifest holds, with those of its fit replaced by these."""
        kept = {name: own for name, own in stored.items() if name not in _LATER}
        return kept | self.to_dict()

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FitOptions:
        """Return the options that a manifest holds, among others.

        Raises:
            KeyError: one is missing.
            OptionError: one is out of range.
        """
        given = {name: stored[key] for key, name in _STORED.items()}
        return cls(**given, **{name: stored.get(name, own) for name, own in _LATER.items()})


_STORED = {
    "chunk_words": "chunk_words",
    "grouping": "grouping",
    "holdout": "holdout",
    "max_words_per_group": "max_words",
    "min_words_per_group": "min_words",
    "ridge": "ridge",
    "seed": "seed",
}
_LATER: dict[str, Any] = {"kind": MapKind.CIRCULANT, "landmarks": 8192}
"""Options that came later, with what bundles were fitted with that do not name them."""
