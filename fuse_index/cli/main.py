"""``fuse-index``: the command tree, exit codes and error lines.

The tree is a small static table, and a verb's module is imported only when the verb is used, so
``fuse-index --help`` answers at once. Exit codes: 0, 2 for invalid input (one line on stderr), 1
for an internal error, 130 for an interrupt, 143 for SIGTERM. With ``--json`` an error is one JSON
object on stdout too: ``{"error": {"type", "message", "exit_code"}}``.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command, get_group

import fuse_index
from fuse_index.cli import _console
from fuse_index.errors import FuseIndexError

PROGRAM = "fuse-index"
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, wherever it lives
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What errors of torch say."""
_HOISTED = ("--debug", "--verbose", "--quiet")
_SETTINGS = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        module: where its function is.
        function: the typer command, a plain annotated function.
        summary: one line for the list of verbs; the function's docstring is the full help.
        has_fields: whether ``--section.field VALUE`` is short for ``--set section.field=VALUE``.
        defaults: options that may stand without a value, with the value they get.
    """

    module: str
    function: str
    summary: str
    has_fields: bool = False
    defaults: tuple[tuple[str, str], ...] = ()


_SUMMARIES = {
    "demo": "Caption pictures with the models of the package; offline.",
    "build": "Build an adapter bundle from text and two models.",
    "fit": "Fit the adapters of a bundle again from its group tensors; no model is loaded.",
    "inspect": "Show what is in a bundle and how good it is; verify its checksums.",
    "verify": "Check every file of a bundle; build it again and compare the bytes.",
    "diff": "Show what changed from one bundle to another.",
    "push": "Publish a bundle on the Hub or in a bucket.",
    "pull": "Fetch a bundle from the Hub or a bucket.",
    "index": "Build a word index and put it into a bundle.",
    "search": "Show the words of a bundle nearest to words.",
    "states": "Compute the hidden states of a bundle's words ahead of time.",
    "validate": "Measure how well a bundle's gradients predict changes of a loss.",
    "evaluate": "Score captions against references: BLEU, METEOR, ROUGE, CIDEr, SPICE, CLIPScore.",
    "optimize": "Optimize a prompt against several models, from a run file and flags.",
    "caption": "Describe images: fluent for a language model, alike for CLIP.",
    "doctor": "Check this installation, or look at two models before a build.",
}
VERBS = {
    name: Verb(
        f"fuse_index.cli.{name}",
        f"{name}_command",
        summary,
        has_fields=name in ("optimize", "caption"),
        defaults=(("--ray", "auto"),) if name == "build" else (),
    )
    for name, summary in _SUMMARIES.items()
}


class LazyCommand(TyperCommand):
    """A verb that is known by name and summary until it is used."""

    def __init__(self, name: str, verb: Verb) -> None:
        super().__init__(name=name, help=verb.summary, short_help=verb.summary)
        self._verb = verb

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Import the verb and let it parse its own arguments."""
        if self._verb.has_fields:
            args = settings_of_fields(args)
        for option, value in self._verb.defaults:
            args = with_value(args, option, value)
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """Import the verb's module and make its command."""
        function: Callable[..., Any] = getattr(
            import_module(self._verb.module), self._verb.function
        )
        application = typer.Typer(add_completion=False, rich_markup_mode=None)
        application.command(self.name, context_settings=_SETTINGS)(function)
        return get_command(application)


def with_value(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """Give an option its value where it stands alone: at the end, or before another option."""
    found: list[str] = []
    for position, item in enumerate(arguments):
        found.append(item)
        if item == option and (
            position + 1 == len(arguments) or arguments[position + 1].startswith("-")
        ):
            found.append(value)
    return found


def settings_of_fields(arguments: Sequence[str]) -> list[str]:
    """Write ``--section.field VALUE`` as ``--set section.field=VALUE``, and with ``=`` likewise.

    What follows ``--`` stays as it is, and so does a field without a value.
    """
    rest = list(arguments)
    found: list[str] = []
    while rest and rest[0] != "--":
        item = rest.pop(0)
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or "." not in name or (not equals and not rest):
            found.append(item)
            continue
        found += ["--set", f"{name}={value if equals else rest.pop(0)}"]
    return found + rest


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {fuse_index.__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; log everything.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no warnings, only errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Gradients across tokenizers: build, inspect and measure FUSE adapters.

    A model is named by a Hub id, a local folder, open_clip:ARCH[/PRETRAINED], or demo:NAME (lm,
    clip, sentiment, judge: they come with the package).

    Every verb has --help and --json: one JSON object on stdout, also for an error
    ({"error": {"type", "message", "exit_code"}}); progress, logs and error lines go to stderr. Exit
    codes: 0, 2 for invalid input, 1 for an internal error, 130 for an interrupt, 143 for SIGTERM.
    """
    _console.set_up(debug=debug, verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def command_tree() -> Any:
    """Make the command with all verbs, none of which is imported."""
    application = typer.Typer(name=PROGRAM, rich_markup_mode=None, add_completion=False)
    application.callback(invoke_without_command=True, context_settings=_SETTINGS)(_root)
    group = get_group(application)
    for name, verb in VERBS.items():
        group.add_command(LazyCommand(name, verb))
    return group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; ``None`` takes the process's.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    failure = partial(_failure, json="--json" in options, debug="--debug" in options)
    ended: list[int] = []
    # The common switches work before and after the verb.
    front = [flag for flag in _HOISTED if flag in options]
    rest = [item for item in options if item not in _HOISTED] + given[len(options) :]
    try:
        with _terminable(ended):
            code = command_tree().main([*front, *rest], prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort) as error:
        return failure(error, "interrupted", _stopped(ended))
    except _console.StoppedEarlyError as error:
        return _failure(error, str(error), _stopped(ended))  # the results are on stdout already
    except BrokenPipeError:
        # The reader of the output is gone; Python must not flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FuseIndexError as error:
        return failure(error, str(error), 2)
    except _USAGE_ERROR as error:
        return failure(error, _usage_message(error), 2)
    except Exception as error:
        return failure(error, _internal_message(error), 1)
    if code == INTERRUPTED:  # newer typer turns the interrupt into this code by itself
        return failure(KeyboardInterrupt(), "interrupted", _stopped(ended))
    return code if isinstance(code, int) else 0


def _failure(
    error: BaseException, message: str, code: int, *, json: bool = False, debug: bool = False
) -> int:
    """Say what happened, once on stderr and, with ``--json``, once on stdout; return the code."""
    if debug and code not in (INTERRUPTED, TERMINATED):
        lines = "".join(traceback.format_exception(error)).split("\n")
        sys.stderr.write("\n".join(map(_console.clean, lines)))
    line = _console.one_line(message)
    _console.error(line)
    if json:
        said = {"type": type(error).__name__, "message": line, "exit_code": code}
        result = getattr(error, "result", None)  # what a run that failed had found so far
        kept = {} if result is None else {"result": _as_json(result)}
        _console.print_json({"error": said, **kept})
    return code


def _as_json(result: Any) -> Any:
    return result if isinstance(result, dict) else result.to_json()


def _usage_message(error: Any) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else PROGRAM
    return f"{error.format_message()} (see '{where} --help')"


def _internal_message(error: Exception) -> str:
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        return (
            "out of memory; use a smaller corpus, vocabulary, width or batch, or a machine with "
            "more memory"
        )
    return (
        f"internal error: {type(error).__name__}: {error}; this is a bug of fuse_index: please "
        f"report it with the output of '{PROGRAM} doctor --json' and of this command with --debug"
    )


@contextmanager
def _terminable(ended: list[int]) -> Iterator[None]:
    """Treat SIGTERM as an interrupt, whatever an interrupt does at that moment.

    So a run gives its best so far, and no temporary stays.

    Args:
        ended: gets the signal when it comes.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        ended.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # ignored, as in the background of a shell script
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(ended: list[int]) -> int:
    """The exit code after an interrupt, or after the signal that stood for one."""
    return TERMINATED if ended else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
