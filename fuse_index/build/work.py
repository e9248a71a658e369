"""The folder of unfinished work, so that an interrupted build or fit can be resumed.

It lies beside the output, hidden, or in ``--work-dir``; a finished build removes it. Files in it
are complete or absent. ``plan.json`` identifies the build: only the same build of the same corpus
resumes from it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import fuse_index
from fuse_index.bundle.jsontext import plain
from fuse_index.bundle.staging import storage_error
from fuse_index.common.files import write_atomically
from fuse_index.errors import FuseIndexError, OptionError, StorageError
from fuse_index.words.corpus.reading import TextSource

logger = logging.getLogger(__name__)

_PLAN = "plan.json"
_LOCK = "lock"
_FORMAT = 2
_REMOVED = {"removed": True}  # the plan of a folder whose contents are being removed


def make_plan(
    models: Mapping[str, str], options: Mapping[str, Any], sources: Sequence[TextSource]
) -> dict[str, Any]:
    """Describe a build: everything that its result depends on.

    Args:
        models: names of source and target.
        options: of the build.
        sources: of the corpus, or the list of words.
    """
    corpus = {}
    for source in sources:
        stamp = None
        if source.path is not None:
            with suppress(OSError):
                stamp = source.path.stat().st_mtime_ns
        corpus[source.name] = {"size": source.size, "modified": stamp}
    return as_plan({**models, **options, "corpus": corpus})


def as_plan(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan as it is stored: JSON values, with the versions of package and format."""
    found = {**given, "version": fuse_index.__version__, "work_format": _FORMAT}
    return json.loads(json.dumps(plain(found)))  # type: ignore[no-any-return]


class Work:
    """The folder of one build; use as a context manager.

    When the block ends the folder is removed. When it raises, the folder stays if it holds a
    checkpoint (:meth:`checkpoint`), and is removed otherwise; an error of the disk becomes a
    :class:`StorageError`.

    Args:
        output: the bundle that is built.
        plan: of :func:`make_plan`.
        folder: where to put the folder; beside the output if not given.
        resume: whether to continue from what is there; otherwise it is removed.

    Raises:
        OptionError: it is to be resumed, but the plan has changed; the message names in what.
        StorageError: the folder cannot be made, or another build is at work in it.
    """

    def __init__(
        self,
        output: Path,
        plan: Mapping[str, Any],
        *,
        folder: Path | None = None,
        resume: bool = False,
    ) -> None:
        base = output.parent / f".{output.name}" if folder is None else folder / output.name
        self.root = base.with_name(base.name + ".work")
        self._output = output
        self._plan = plan
        self._resume = resume
        self._missing = [parent for parent in self.root.parents if not parent.exists()]
        self._kept = False
        self._lock = FileLock(str(self.root / _LOCK), timeout=0)

    def __enter__(self) -> Work:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._prepare()
        except Timeout:
            raise StorageError(
                f"another build is at work in {self.root}",
                expected="one build to one place at a time",
                remedy="wait for it, or choose another output",
            ) from None
        except OSError as error:
            raise storage_error(error, self.root) from error
        except OptionError:
            self._lock.release()
            raise
        return self

    def _prepare(self) -> None:
        path = self.root / _PLAN
        before = json.loads(path.read_text(encoding="ascii")) if path.exists() else None
        if self._resume and before not in (None, _REMOVED):
            self._compare(before)
            self._kept = True
            logger.info("going on from %s", self.root)
            return
        if self._resume:
            logger.info("nothing to go on from at %s: the build starts anew", self.root)
        self._check_made_by_build()
        self._empty()
        _write_json(path, self._plan)

    def _empty(self) -> None:
        """Remove all but the lock.

        The plan goes last and says before that the rest is being removed: killed in between, the
        folder is still known as the work of a build, and nothing goes on from half of it.
        """
        plan = self.root / _PLAN
        _write_json(plan, _REMOVED)
        for entry in self.root.iterdir():
            if entry.name not in {_LOCK, _PLAN}:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        plan.unlink()

    def _check_made_by_build(self) -> None:
        """Refuse to remove a folder that no build has made."""
        names = {entry.name for entry in self.root.iterdir()} - {_LOCK}
        names = {name for name in names if not name.startswith(f".{_PLAN}.")}
        if names and _PLAN not in names:
            raise StorageError(
                f"{self.root} is not the work of a build, so it is not replaced",
                expected="a folder that does not exist yet",
                remedy="choose another --work-dir, or delete it yourself",
            )

    def _compare(self, before: Mapping[str, Any]) -> None:
        names = sorted(set(before) | set(self._plan))
        changed = [
            _change(name, before.get(name), self._plan.get(name))
            for name in names
            if before.get(name) != self._plan.get(name)
        ]
        if changed:
            raise OptionError(
                f"--resume: {'; '.join(changed)}",
                expected="the options and the corpus of the build that was interrupted",
                remedy="give the same, or leave --resume out to start anew",
            )

    def folder(self, name: str, *, empty: bool = False) -> Path:
        """Return a folder inside; it is made if missing, and emptied with ``empty``."""
        path = self.root / name
        if empty:
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(exist_ok=True)
        return path

    def checkpoint(self) -> None:
        """Mark the folder as worth keeping."""
        self._kept = True

    def record(self, name: str, value: Any) -> Any:
        """Keep a small value under a name, or return the value kept before.

        Raises:
            OptionError: another value was kept: a model changed since the build was interrupted.
        """
        path = self.root / f"{name}.json"
        value = json.loads(json.dumps(plain(value)))
        if path.exists():
            before = json.loads(path.read_text(encoding="ascii"))
            if before != value:
                raise OptionError(
                    f"--resume: {name} changed since the build was interrupted",
                    expected=f"{json.dumps(before)[:160]}",
                    remedy="restore it, or leave --resume out to start anew",
                )
        else:
            _write_json(path, value)
        return value

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not self._kept:
            with suppress(OSError):
                self._empty()
            self._lock.release()
            shutil.rmtree(self.root, ignore_errors=True)
            for parent in self._missing:  # only those that are empty
                with suppress(OSError):
                    parent.rmdir()
        self._lock.release()  # a second time does nothing
        if error is None:
            return
        failure = storage_error(error, self.root) if isinstance(error, OSError) else error
        if self._kept:
            self._report_kept(failure)
        if failure is not error:
            raise failure from error

    def _report_kept(self, failure: BaseException) -> None:
        """Add to the error, or log, that the work is kept."""
        text = f"what was done is kept in {self.root}: the same command with --resume goes on"
        if isinstance(failure, FuseIndexError):
            failure.remedy = "; ".join(filter(None, [failure.remedy, text]))
            failure.args = (f"{failure}; {text}",)
        else:
            logger.warning("%s", text)


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode("ascii"))


def _change(name: str, before: Any, now: Any) -> str:
    if name == "corpus" and isinstance(before, Mapping) and isinstance(now, Mapping):
        for file in sorted(set(before) | set(now)):
            if file not in now:
                return f"{file} is no longer in the corpus"
            if file not in before:
                return f"{file} is new in the corpus"
            if before[file] != now[file]:
                return f"{file} changed"
    return f"{name} was {json.dumps(before)}, now {json.dumps(now)}"
