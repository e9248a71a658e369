"""What the flags of ``build``, ``fit`` and ``doctor`` set: the words, and how they are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fuse_index.errors import OptionError

if TYPE_CHECKING:
    from fuse_index.words.corpus.words import CorpusOptions


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
