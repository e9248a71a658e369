"""What the flags of ``build``, ``fit`` and ``doctor`` set: the words, and how they are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fuse_index.cli import _flags
from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.words.corpus.words import CorpusOptions
    from fuse_index.words.table import TableOptions


@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """The flags that say which words a bundle has."""

    corpus: _flags.Corpus = None
    words: _flags.Words = None
    flat: Annotated[
        bool, typer.Option("--flat", help="Leave out the folders in a folder of the corpus.")
    ] = False
    encoding: Annotated[str, typer.Option(help="Encoding of the text.")] = "utf-8"
    min_count: Annotated[
        int | None,
        typer.Option(help="Leave out words seen fewer times.  [default: 2; 1 with --words]"),
    ] = None
    max_words: Annotated[
        int | None,
        typer.Option(help="Keep so many words, the most frequent.  [default: all]"),
    ] = None
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Lower-case every word.")] = False
    max_tokens: Annotated[
        int,
        typer.Option(help="Leave out words of more tokens in either model."),
    ] = 4

    def options(self) -> tuple[CorpusOptions, TableOptions]:
        """Turn the flags into options."""
        from fuse_index.build import DEFAULT_MIN_COUNT
        from fuse_index.words.corpus.words import CorpusOptions
        from fuse_index.words.table import TableOptions

        least = self.min_count
        if least is None:
            least = DEFAULT_MIN_COUNT if self.words is None else 1
        corpus = CorpusOptions(self.encoding, self.lowercase, least, self.max_words)
        return corpus, TableOptions(self.max_tokens)


def fit_changes(
    *,
    kind: str | None,
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
    from fuse_index.adapter import Grouping, MapKind
    from fuse_index.common.reading import choose

    given = {
        "kind": None if kind is None else choose(MapKind, kind, "--kind"),
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
