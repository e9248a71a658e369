"""Flags that several verbs share, each declared once, and what those of run files set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fuse_index.cli import _console
from fuse_index.common.bounds import MAX_COUNT, MAX_SEED, MAX_WIDTH
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.run.files import FieldPath

MODEL_HELP = "Hub id[@revision], folder, open_clip:ARCH[/PRETRAINED or file], or demo:NAME."
_MOVED = "Where the {} is now, if not where it was built from."

BatchSize = Annotated[int, typer.Option(max=MAX_WIDTH, help="Rows of one forward pass.")]
Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A folder that 'fuse-index build' made.")
]
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        "-c",
        metavar="PATH",
        help="Text, gzip or Parquet: file, folder, pattern or fsspec URL (s3://...); '-' is "
        "standard input. Can be repeated.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Where models run.  [default: the GPU if there is one]")
]
FitSeed = Annotated[int | None, typer.Option(help="Seed of the hold-out and of sampling.")]
Grouping = Annotated[
    str | None,
    typer.Option(help="Words that share an adapter: same (p, q): pair; same q: target."),
]
Groups = Annotated[
    bool, typer.Option("--groups/--no-groups", help="With the group tensors, or without.")
]
Holdout = Annotated[float | None, typer.Option(help="Share of words kept for the quality report.")]
Index = Annotated[
    bool, typer.Option("--index/--no-index", help="With the word indexes, or without.")
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="Maps: circulant, affine, block, low-rank, orthogonal, local, mlp or auto.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
MaxGroup = Annotated[
    int | None,
    typer.Option(help="Fit on so many words of a group, sampled; 0: on all."),
]
MinGroup = Annotated[
    int | None,
    typer.Option(help="Groups with fewer words use the fallback adapter."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use what the caches hold; no network access.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a bundle at a URL or in a folder.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the same work, which was interrupted.")
]
Ridge = Annotated[
    str | None, typer.Option(help="Penalty, relative; or 'auto' by generalized cross-validation.")
]
Seed = Annotated[int, typer.Option(max=MAX_SEED, help="Decides every random draw.")]
SourcePlace = Annotated[str | None, typer.Option(help=_MOVED.format("source"))]
Storage = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="KEY=VALUE",
        help="Option of a URL's file system, such as anon=true. Can be repeated.",
    ),
]
TargetPlace = Annotated[str | None, typer.Option(help=_MOVED.format("target"))]
Vectors = Annotated[str, typer.Option(help="Over whose vectors: source, target or joint.")]
Words = Annotated[
    Path | None,
    typer.Option("--words", help="A list of words, one a line, instead of a corpus."),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder for unfinished work.  [default: beside BUNDLE]"),
]


def storage_options(given: Sequence[str] | None) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` items; a value is JSON where it can be read so, else text.

    Raises:
        OptionError: an item has no key or no ``=``.
    """
    from fuse_index.common.markup import MarkupError, load_json

    options: dict[str, Any] = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not key.isidentifier() or not equals:
            raise OptionError(
                f"--storage {key}",
                expected="KEY=VALUE, such as anon=true or endpoint_url=http://...",
            )
        try:
            options[key] = load_json(value)
        except MarkupError as error:
            if error.expected:
                given = f"--storage {key}: {error.problem}"
                raise OptionError(given, expected=error.expected) from None
            options[key] = value
    return options


_PATHS = {
    "method": "method.type",
    "search": "search.type",
    "steps": "budget.steps",
    "seconds": "budget.seconds",
    "forward_passes": "budget.forward_passes",
    "flops": "budget.flops",
    "target_loss": "budget.target_loss",
    "seed": "options.seed",
    "initial": "initial.texts",
}
"""Short flags by the path of the field that they set."""


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The flags that verbs with a run file share; see :func:`with_flags`."""

    initial: Annotated[
        list[str] | None, typer.Option(help="Text to begin from. Can be repeated.")
    ] = None
    method: Annotated[
        str | None, typer.Option(help="How candidates are proposed; --fields lists all.")
    ] = None
    search: Annotated[
        str | None, typer.Option(help="Which prompts are kept; --fields lists all.")
    ] = None
    steps: Annotated[str | None, typer.Option(help="Steps, at most; or none.")] = None
    seconds: Annotated[str | None, typer.Option(help="Wall time, at most.")] = None
    forward_passes: Annotated[str | None, typer.Option(help="Prompts scored, at most.")] = None
    flops: Annotated[
        str | None, typer.Option(help="Floating-point operations, at most: 2 N a token forward.")
    ] = None
    target_loss: Annotated[str | None, typer.Option(help="Total loss that is good enough.")] = None
    seed: Annotated[str | None, typer.Option(help="Decides every random draw.")] = None
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of the run file; --FIELD VALUE for short. Can be repeated.",
        ),
    ] = None
    fields: Annotated[
        bool, typer.Option("--fields", help="List every field of a run file, and leave.")
    ] = False
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of run files, and leave.")
    ] = False
    checkpoint_every: Annotated[
        int, typer.Option(max=MAX_COUNT, help="Steps between checkpoints.")
    ] = 10
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="One JSON object a step, as it happens."),
    ] = None
    offline: Offline = False
    json: Json = False

    def settings(self) -> list[tuple[str, Any]]:
        """Return what the flags say by the path of the field, the short ones first."""
        given = [(path, getattr(self, name)) for name, path in _PATHS.items()]
        return [item for item in given if item[1] not in (None, [])] + parse_settings(self.setting)

    def answered(self, *, captions: bool = False) -> bool:
        """Answer ``--fields`` and ``--schema``; return whether one was given."""
        if self.schema:
            from fuse_index.run import CaptionConfig, RunConfig
            from fuse_index.run.schema import run_schema

            _console.print_json(run_schema(CaptionConfig if captions else RunConfig))
        elif self.fields:
            show_fields(captions=captions, json=self.json)
        return self.schema or self.fields


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a dataclass, such as :class:`RunFlags`, where it takes one."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        item.name: item.annotation for item in own if is_dataclass(item.annotation)
    }
    parameters = []
    for item in own:
        hints = {item.name: item.annotation}
        members: Iterable[inspect.Parameter] = [item]
        if item.name in groups:
            hints = get_type_hints(item.annotation, include_extras=True)
            members = inspect.signature(item.annotation).parameters.values()
        parameters += [member.replace(annotation=hints[member.name]) for member in members]

    @wraps(command)
    def wrapper(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    parameters = [item.replace(kind=item.KEYWORD_ONLY) for item in parameters]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {item.name: item.annotation for item in parameters}
    del wrapper.__wrapped__  # typer is to see these parameters
    return wrapper


def parse_settings(texts: Iterable[str] | None) -> list[tuple[str, Any]]:
    """Turn ``FIELD=VALUE`` into settings.

    Raises:
        OptionError: there is no equals sign.
    """
    found = []
    for text in texts or ():
        path, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"--set {text}", expected="FIELD=VALUE, such as budget.steps=50")
        found.append((path, value))
    return found


def put(value: dict[str, Any], settings: Sequence[tuple[FieldPath, Any]]) -> None:
    """Put settings from the command line over what a file says, in place."""
    from fuse_index.common.reading import FlagText
    from fuse_index.run import override

    texts = [(path, FlagText(item) if isinstance(item, str) else item) for path, item in settings]
    override(value, texts)


def show_fields(*, captions: bool = False, json: bool = False) -> None:
    """Print every field of a run file with its type, default and meaning."""
    from fuse_index.run.describe import describe_captions, describe_fields

    names = ("field", "type", "default", "meaning")
    sections = describe_captions() if captions else describe_fields()
    if json:
        _console.print_json(
            {
                title: {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}
                for title, rows in sections
            }
        )
        return
    for title, rows in sections:
        _console.print_table(names, rows, title, justify="left")
