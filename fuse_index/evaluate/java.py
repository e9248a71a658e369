"""Running the Java programs that come with pycocoevalcap."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fuse_index.errors import MissingDependencyError


def require_java(what: str) -> str:
    """Return the path of a Java runtime that starts.

    Args:
        what: what needs it, for the message.

    Raises:
        MissingDependencyError: there is none on the PATH, or it does not start.
    """
    path = shutil.which("java")
    if path is None:
        reason = "there is no 'java' on the PATH"
    else:
        try:
            done = subprocess.run([path, "-version"], capture_output=True, check=False)
        except OSError as error:
            reason = f"{path} does not start: {error}"
        else:
            if not done.returncode:
                return path
            reason = f"{path} does not start: {last_line(done.stderr)}"
    raise MissingDependencyError(
        f"{what} needs Java, and {reason}",
        remedy="install a Java runtime (for example 'apt install default-jre-headless')",
    )


def run_java(what: str, arguments: Sequence[str], text: str) -> str:
    """Run a Java program on a text.

    Args:
        what: what needs it, for the messages.
        arguments: of ``java``.
        text: for its standard input, as UTF-8.

    Returns:
        What it wrote to its standard output.

    Raises:
        MissingDependencyError: Java is missing, or the program failed.
    """
    path = require_java(what)
    done = subprocess.run(
        [path, *arguments], input=text.encode("utf-8"), capture_output=True, check=False
    )
    if done.returncode:
        raise MissingDependencyError(
            f"{what} failed: java ended with code {done.returncode} ({last_line(done.stderr)})",
            remedy="try another Java runtime, or do without",
        )
    return done.stdout.decode("utf-8", errors="replace")


def last_line(output: bytes) -> str:
    """Return the last line that is not blank, cut to 200 characters."""
    lines = [line.strip() for line in output.decode("utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no message")[:200]


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send standard output, of child processes too, to standard error for a while.

    Standard output is for results, and the programs that are started write there freely.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
