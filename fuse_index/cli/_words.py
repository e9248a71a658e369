"""Flags that ``build``, ``fit`` and ``doctor`` share: which words, and how they are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.words.corpus.words import CorpusOptions

CorpusFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        "-c",
        metavar="PATH",
        help="Text, gzip or Parquet: file, folder, pattern or fsspec URL (s3://...); '-' is "
        "standard input. Can be repeated.",
    ),
]
WordsFlag = Annotated[
    Path | None,
    typer.Option("--words", help="A list of words, one a line, instead of a corpus."),
]
EncodingFlag = Annotated[str, typer.Option(help="Encoding of the text.")]
MinCountFlag = Annotated[
    int | None,
    typer.Option(help="Leave out words seen fewer times.  [default: 2; 1 with --words]"),
]
MaxWordsFlag = Annotated[
    int | None, typer.Option(help="Keep so many words, the most frequent.  [default: all]")
]
LowercaseFlag = Annotated[bool, typer.Option("--lowercase", help="Lower-case every word.")]
MaxTokensFlag = Annotated[int, typer.Option(help="Leave out words of more tokens in either model.")]
GroupsFlag = Annotated[
    bool, typer.Option("--groups/--no-groups", help="Write the group tensors, too.")
]
GroupingFlag = Annotated[
    str | None,
    typer.Option(help="Words that share an adapter: same (p, q): pair; same q: target."),
]
RidgeFlag = Annotated[
    str | None, typer.Option(help="Penalty, relative; or 'auto' by generalized cross-validation.")
]
MinGroupFlag = Annotated[
    int | None, typer.Option(help="Groups with fewer words use the fallback adapter.")
]
MaxGroupFlag = Annotated[
    int | None, typer.Option(help="Fit on so many words of a group, sampled; 0: on all.")
]
HoldoutFlag = Annotated[
    float | None, typer.Option(help="Share of words kept for the quality report.")
]
SeedFlag = Annotated[int | None, typer.Option(help="Seed of the hold-out and of sampling.")]
WorkDirFlag = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder for unfinished work.  [default: beside BUNDLE]"),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")]
ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Continue the same work, which was interrupted.")
]
OfflineFlag = Annotated[bool, typer.Option("--offline", help="Never ask the Hub.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def corpus_options(
    words: Path | None,
    *,
    encoding: str,
    min_count: int | None,
    max_words: int | None,
    lowercase: bool,
) -> CorpusOptions:
    """Turn the flags of the text into options."""
    from fuse_index.build import DEFAULT_MIN_COUNT
    from fuse_index.words.corpus.words import CorpusOptions

    if min_count is None:
        min_count = DEFAULT_MIN_COUNT if words is None else 1
    return CorpusOptions(encoding, lowercase, min_count, max_words)


def fit_changes(
    *,
    grouping: str | None,
    ridge: str | None,
    min_group: int | None,
    max_group: int | None,
    holdout: float | None,
    seed: int | None,
) -> dict[str, Any]:
    """Turn the flags of the fit into fields of ``FitOptions``; those not given are left out.

    Raises:
        OptionError: a flag is no choice or no number.
    """
    from fuse_index.adapter import Grouping
    from fuse_index.common.reading import choose

    given = {
        "grouping": None if grouping is None else choose(Grouping, grouping, "--grouping"),
        "ridge": None if ridge is None else _ridge(ridge),
        "min_words": min_group,
        "max_words": max_group,
        "holdout": holdout,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return changes | ({"max_words": None} if max_group == 0 else {})


def _ridge(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--ridge {text}", expected="a number of at least 0, or auto") from None
