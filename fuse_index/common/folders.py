"""Which files of a folder are read: one rule for texts, images and weights.

Names that begin with a dot are hidden and passed over, files and folders alike (``.DS_Store``,
``._photo.jpg``, ``.git``). Links are followed, and what they lead to is read once, under its own
place where that is in the folder too; a link to a folder around it leads nowhere. Only regular
files are read.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

_HIDDEN, _REPEATED = "hidden", "linked twice"
_BROKEN, _SPECIAL, _LOCKED = "broken link", "not a regular file", "not readable"
_BELOW = "folder in it"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Attributes:
        files: those to read, sorted by path.
        passed_over: how many entries are not read, by reason.
    """

    files: tuple[Path, ...]
    passed_over: dict[str, int]

    @property
    def folders(self) -> int:
        """Folders that were not entered."""
        return self.passed_over.get(_BELOW, 0)

    def __str__(self) -> str:
        """What is passed over, such as ``2 hidden, 1 folder in it``; empty if there is nothing."""
        plural = {_BELOW: "folders in it", _BROKEN: "broken links"}
        return ", ".join(
            f"{count} {plural.get(reason, reason) if count > 1 else reason}"
            for reason, count in self.passed_over.items()
        )


def list_files(
    folder: str | os.PathLike[str], *, nested: bool, suffixes: Collection[str] = ()
) -> FolderFiles:
    """List the files of a folder by the rule of this module.

    Args:
        folder: it may be hidden or a link itself.
        nested: whether folders in it are entered.
        suffixes: of the files wanted, in lower case; of all files if there is none.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    root = Path(folder)
    os.scandir(root).close()
    walk = _Walk(nested, frozenset(suffixes))
    walk.entered.update(map(_identity, [*root.resolve().parents]))
    walk.run(root)
    files, linked = list(walk.own), sorted(walk.linked)
    read = {os.path.realpath(path) for path in files} if linked else set()
    for path in linked:
        if os.path.realpath(path) in read:
            walk.passed_over[_REPEATED] += 1
        else:
            read.add(os.path.realpath(path))
            files.append(path)
    order = (_HIDDEN, _BELOW, _REPEATED, _BROKEN, _SPECIAL, _LOCKED)
    counts = {reason: walk.passed_over[reason] for reason in order if walk.passed_over[reason]}
    return FolderFiles(tuple(sorted(files)), counts)


@cache
def _tell(line: str) -> None:
    logger.warning("%s", line)


def tell_passed_over(folder: str | os.PathLike[str], found: FolderFiles, remedy: str = "") -> None:
    """Say once how many files of a folder are read and what is passed over, if anything is.

    Args:
        folder: the folder.
        found: what was listed.
        remedy: what to do about folders that were not entered.
    """
    if found.passed_over:
        end = f" ({remedy})" if remedy and found.folders else ""
        _tell(f"{os.fspath(folder)}: {len(found.files)} files to read; passed over: {found}{end}")


def visible_files(folder: str | os.PathLike[str], pattern: str) -> list[Path]:
    """Return the files of a folder whose names match a pattern and are not hidden, sorted."""
    found = sorted(Path(folder).glob(pattern))
    return [path for path in found if not path.name.startswith(".") and path.is_file()]


@dataclass
class _Walk:
    """A walk through folders: first those that lie in the root, then those that links lead to."""

    nested: bool
    suffixes: frozenset[str]
    own: list[Path] = field(default_factory=list)
    linked: list[Path] = field(default_factory=list)
    entered: set[tuple[int, int]] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)

    def run(self, root: Path) -> None:
        links = list(self._enter(root, self.own))
        while links:
            link = links.pop(0)
            if _identity(link) in self.entered:
                self.passed_over[_REPEATED] += 1
            else:
                links = sorted([*links, *self._enter(link, self.linked)])

    def _enter(self, top: Path, found: list[Path]) -> Iterator[Path]:
        """Collect the files from a folder down; yield the links to folders."""
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                self.entered.add(_identity(folder))
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self.passed_over[_LOCKED] += 1
                continue
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    self.passed_over[_HIDDEN] += 1
                elif _leads_to(entry.is_dir):
                    if not self.nested:
                        self.passed_over[_BELOW] += 1
                    elif entry.is_symlink():
                        yield path
                    else:
                        waiting.append(path)
                elif self.suffixes and path.suffix.lower() not in self.suffixes:
                    continue
                elif _leads_to(entry.is_file):
                    (self.linked if entry.is_symlink() else found).append(path)
                else:
                    self.passed_over[_BROKEN if entry.is_symlink() else _SPECIAL] += 1


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry, or what it links to, is of a kind; a link in a circle is of none."""
    try:
        return kind()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
