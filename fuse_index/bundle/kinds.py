"""Kinds of maps that a bundle holds, and the tensors of each.

Everything here is a constant or a pure function of shapes, so the writer and the strict reader
cannot disagree. What the tensors mean is in :mod:`fuse_index.adapter.maps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fuse_index.bundle.layout import FALLBACK, MAX_MAGNITUDE, MAX_TOKENS, parse_group
from fuse_index.errors import OptionError

CIRCULANT = "circulant"
AFFINE = "affine"
FACES = "adapter"
"""Name of the faces of a t-product, among the tensors of a group."""

_FACTOR = 1e15
"""Largest absolute value of a factor: a product of two of them is an adapter's."""
_BOUNDED = 1e6


@dataclass(frozen=True)
class Field:
    """A tensor of a map.

    Attributes:
        shape: one letter a dimension: ``S`` and ``T``, all source or target entries of a word;
            ``s``, ``t`` and ``q``, source and target width, and target tokens; others are free, at
            least 1, and the same wherever they occur in a group.
        most: largest absolute value.
    """

    shape: str
    most: float = MAX_MAGNITUDE


_INTERCEPT = Field("qt")
FIELDS: dict[str, dict[str, Field]] = {
    CIRCULANT: {},
    AFFINE: {"intercept": _INTERCEPT},
    "block": {"intercept": _INTERCEPT, "matrix": Field("ST")},
    "orthogonal": {"intercept": _INTERCEPT, "matrix": Field("ST")},
    "low-rank": {
        "intercept": _INTERCEPT,
        "left": Field("Sr", _FACTOR),
        "right": Field("rT", _FACTOR),
    },
    "local": {
        "intercept": _INTERCEPT,
        "centre": Field("S", _BOUNDED),
        "landmarks": Field("mS", 1.001),
        "coefficients": Field("mT", _BOUNDED),
        "shared": Field("st"),
        "sharpness": Field("1", 1e3),
    },
    "mlp": {
        "intercept": _INTERCEPT,
        "matrix": Field("ST"),
        "centre": Field("S", _BOUNDED),
        "inner": Field("Sh", _BOUNDED),
        "bias": Field("h", _BOUNDED),
        "outer": Field("hT", _BOUNDED),
    },
}
"""The tensors of every kind by name, beside the faces of those that are t-products."""


def has_faces(kind: str) -> bool:
    """Whether the maps of a kind are t-products, whose faces are stored as ``adapter.{group}``."""
    return kind in (CIRCULANT, AFFINE)


def tensor_names(kind: str) -> list[str]:
    """Return the names of the tensors of a kind, as they stand before the group's."""
    return [*([FACES] if has_faces(kind) else []), *FIELDS[kind]]


def check_kinds(kinds: Mapping[str, str], groups: tuple[str, ...]) -> None:
    """Refuse kinds that no reader knows, or of groups that are not there.

    Raises:
        OptionError: naming the group.
    """
    for group, kind in kinds.items():
        if group not in groups:
            raise OptionError(f"kinds names the group {group!r}", expected=f"one of {[*groups]}")
        known = [CIRCULANT, AFFINE] if group == FALLBACK else [*FIELDS]
        if kind not in known:
            raise OptionError(f"group {group!r} has maps of kind {kind!r}", expected=f"{known}")


def fields_problem(
    kind: str, group: str, shapes: Mapping[str, tuple[int, ...]], widths: tuple[int, int]
) -> tuple[str, str] | None:
    """Return the tensor of a group whose shape is wrong, and what is wrong; else ``None``.

    Args:
        kind: of the map.
        group: its name.
        shapes: by name of the tensor, exactly those of ``FIELDS[kind]``.
        widths: of source and target embeddings.
    """
    key = parse_group(group)
    q = max(key.target_count, 1)
    sizes = {"q": q, "s": widths[0], "t": widths[1], "T": q * widths[1], "1": 1}
    if key.source_count:
        sizes["S"] = key.source_count * widths[0]
    for name, field in FIELDS[kind].items():
        shape = shapes[name]
        for letter, size in zip(field.shape, shape, strict=False):
            sizes.setdefault(letter, size)
        wanted = tuple(sizes.get(letter, 1) for letter in field.shape)
        if shape != wanted or not all(shape):
            return name, f"has shape {shape}, expected {wanted}"
    tokens, rest = divmod(sizes.get("S", widths[0]), widths[0])
    if rest or not 1 <= tokens <= MAX_TOKENS:
        name = next(name for name, field in FIELDS[kind].items() if "S" in field.shape)
        return name, f"takes {sizes['S']} entries, expected tokens of {widths[0]} each"
    return None


def tube_length(group: str, entries: int, width: int) -> int:
    """Return the most tokens of a word that a map without faces serves, of either model.

    Args:
        group: its name.
        entries: source entries of a word, ``S``.
        width: of the source's embeddings.
    """
    return max(parse_group(group).target_count, entries // width)
