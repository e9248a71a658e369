"""File names, tensor names, limits and group names of a bundle.

Everything here is a constant or a pure function of names, so the writer and the strict reader
cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from fuse_index.common.bounds import MAX_WORD_TOKENS
from fuse_index.errors import OptionError

FORMAT = "fuse_index bundle"
FORMAT_VERSION = 1
FORMAT_VERSION_OF_KINDS = 2
"""Of bundles whose maps are not all t-products without intercept."""

MANIFEST = "manifest.json"
WORDS = "words.safetensors"
GROUPS = "groups.safetensors"
ADAPTER = "adapter.safetensors"
CARD = "README.md"
INDEX_FOLDER = "index"
STATES_PREFIX = "states-"
"""Begins the names of files under ``index/`` that hold hidden states of words. What follows is a
hash of what they depend on, a point, and the name of one file of them."""

FALLBACK = "fallback"
"""Name of the group that serves every word whose own group has no adapter."""

MAX_MANIFEST_BYTES = 16 << 20
MAX_HEADER_BYTES = 16 << 20
MAX_TOKENS = MAX_WORD_TOKENS
"""Longest tube ``k`` and most tokens of one word that a bundle may hold."""
MAX_GROUPS = 1 << 14
MAX_FILES = 1 << 12
"""Most groups, and most files, that a manifest may list; counted before any is looked at."""
MAX_MAGNITUDE = 1e30
"""Largest absolute value of adapters and group tensors. Their products with gradients stay finite
in float32, whatever dtype they are stored in."""

MAX_FILE_BYTES = {
    WORDS: 16 << 30,
    ADAPTER: 256 << 30,
    GROUPS: 1 << 44,
    CARD: 16 << 20,
}
MAX_INDEX_BYTES = 1 << 44

_INDEX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PAIR = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
_TARGET = re.compile(r"x([1-9][0-9]{0,3})")


class Part(str, Enum):
    """A part of a bundle that can be read on its own."""

    WORDS = "words"
    ADAPTER = "adapter"
    GROUPS = "groups"

    @property
    def file(self) -> str:
        """The file that holds this part."""
        return {Part.WORDS: WORDS, Part.ADAPTER: ADAPTER, Part.GROUPS: GROUPS}[self]


@dataclass(frozen=True, order=True)
class GroupKey:
    """A parsed group name: ``1x2`` (p, q), ``x2`` (q only), or ``fallback`` (neither).

    Attributes:
        source_count: source tokens ``p`` of every word of the group; 0 where the group does not fix
            it.
        target_count: target tokens ``q``; 0 for the fallback group.
    """

    source_count: int
    target_count: int

    @property
    def smallest_tube(self) -> int:
        """The least tube length ``k`` that an adapter of this group can have."""
        return max(self.source_count, self.target_count, 1)

    @property
    def tube_is_fixed(self) -> bool:
        """Whether ``k`` follows from the name: ``max(p, q)`` for ``1x2``, 1 for ``fallback``."""
        return self.source_count > 0 or self.target_count == 0

    @property
    def name(self) -> str:
        """The group name this key was parsed from."""
        if self.target_count == 0:
            return FALLBACK
        return f"{self.source_count or ''}x{self.target_count}"


def parse_group(name: str) -> GroupKey:
    """Parse a group name.

    Raises:
        OptionError: the name is none of ``{p}x{q}``, ``x{q}`` and ``fallback``.
    """
    if name == FALLBACK:
        return GroupKey(0, 0)
    if pair := _PAIR.fullmatch(name):
        key = GroupKey(int(pair[1]), int(pair[2]))
    elif target := _TARGET.fullmatch(name):
        key = GroupKey(0, int(target[1]))
    else:
        raise OptionError(
            f"group name {name!r}", expected="'{p}x{q}', 'x{q}' or 'fallback'", remedy="rename it"
        )
    if key.smallest_tube > MAX_TOKENS:
        raise OptionError(
            f"group name {name!r}", expected=f"at most {MAX_TOKENS} tokens", remedy="leave it out"
        )
    return key


def order_groups(names: Iterable[str]) -> tuple[str, ...]:
    """Sort group names by (p, q), the fallback last, and refuse a mixture of both groupings.

    Raises:
        OptionError: a name is malformed or given twice, or ``{p}x{q}`` and ``x{q}`` are mixed.
    """
    keys = sorted(parse_group(name) for name in names)
    if len(set(keys)) != len(keys):
        raise OptionError("a group name is given twice", expected="distinct group names")
    grouped = [key for key in keys if key.target_count]
    if len({key.source_count > 0 for key in grouped}) > 1:
        raise OptionError(
            f"group names {grouped[0].name!r} and {grouped[-1].name!r}",
            expected="one grouping, either '{p}x{q}' or 'x{q}'",
        )
    fallback = [FALLBACK] if len(grouped) < len(keys) else []
    return (*(key.name for key in grouped), *fallback)


def is_member_name(name: str) -> bool:
    """Whether a manifest may list ``name``: a known file, or a plain file name under ``index/``."""
    if name in MAX_FILE_BYTES:
        return True
    folder, slash, rest = name.partition("/")
    return bool(slash) and folder == INDEX_FOLDER and _INDEX_NAME.fullmatch(rest) is not None


def size_limit(name: str) -> int:
    """Most bytes that the file ``name`` of a bundle may have."""
    return MAX_FILE_BYTES.get(name, MAX_INDEX_BYTES)
