"""What a build is asked for, and the stages it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fuse_index.adapter.options import FitOptions
from fuse_index.build.indexing import IndexModel
from fuse_index.index import IndexOptions
from fuse_index.words.corpus import CorpusOptions
from fuse_index.words.table import TableOptions

DEFAULT_MIN_COUNT = 2
"""Words seen once are mostly names and typing errors; leaving them out makes the adapter's
prediction better (docs/benchmarks.md, section "Defaults of the build")."""


class Stage(str, Enum):
    """A stage of a build; its value is what a progress bar calls it."""

    COUNT = "counting words"
    LOAD = "loading embeddings"
    TOKENIZE = "tokenizing words"
    FIT = "fitting adapters"
    INDEX = "building the word index"
    """Only where one is asked for."""
    WRITE = "writing the bundle"


@dataclass(frozen=True)
class BuildOptions:
    """Options of :func:`fuse_index.build.build_bundle`.

    Attributes:
        corpus: how text becomes words.
        table: which words enter the table.
        fit: how the adapters are fitted.
        groups: whether the third-order group tensors are written too.
        index: the word index to build, or ``None`` for none.
        index_model: over whose vectors that is.
    """

    corpus: CorpusOptions = field(
        default_factory=lambda: CorpusOptions(min_count=DEFAULT_MIN_COUNT)
    )
    table: TableOptions = field(default_factory=TableOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    groups: bool = True
    index: IndexOptions | None = None
    index_model: IndexModel = IndexModel.TARGET

    def to_dict(self) -> dict[str, Any]:
        """Return the options as the manifest stores them: one flat object."""
        corpus, fit = self.corpus, self.fit
        return {
            "chunk_words": fit.chunk_words,
            "encoding": corpus.encoding,
            "groups": self.groups,
            "grouping": fit.grouping,
            "holdout": fit.holdout,
            "lowercase": corpus.lowercase,
            "max_tokens": self.table.max_tokens,
            "max_words": corpus.max_words,
            "max_words_per_group": fit.max_words,
            "min_count": corpus.min_count,
            "min_words_per_group": fit.min_words,
            "ridge": fit.ridge,
            "seed": fit.seed,
        }
