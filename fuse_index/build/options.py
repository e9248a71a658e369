"""Options, resources, stages and results of builds and fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fuse_index.adapter.fit.options import FitOptions
from fuse_index.build.indexing import IndexModel
from fuse_index.bundle import Manifest
from fuse_index.common.options import Count, options
from fuse_index.index import IndexOptions
from fuse_index.words.corpus.words import CorpusOptions
from fuse_index.words.table import TableOptions

DEFAULT_MIN_COUNT = 2
"""Words seen once are mostly names and typing errors; leaving them out makes the adapter's
prediction better (docs/benchmarks.md, section "Defaults of the build")."""


class Stage(str, Enum):
    """A stage of a build or a fit; its value is what a progress bar calls it."""

    VERIFY = "verifying the bundle"
    """Only of a fit."""
    COUNT = "counting words"
    LOAD = "loading embeddings"
    TOKENIZE = "tokenizing words"
    FIT = "fitting adapters"
    INDEX = "building the word index"
    """Only with an index."""
    WRITE = "writing the bundle"

    @property
    def unit(self) -> str:
        """What its progress counts."""
        counts = {
            Stage.VERIFY: "bytes",
            Stage.COUNT: "bytes",
            Stage.TOKENIZE: "words",
            Stage.FIT: "words",
            Stage.WRITE: "bytes",
        }
        return counts.get(self, "")


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
        return {
            **asdict(self.corpus),
            **asdict(self.table),
            **self.fit.to_dict(),
            "groups": self.groups,
        }


@options()
class Resources:
    """Memory, folders and machines of a build; nothing here changes the bundle.

    Attributes:
        max_memory: bytes of resident memory that the process keeps to; ``None`` sets no limit,
            though every stage but a word index takes a fixed amount whatever the number of words.
        work_dir: folder for what is kept while the build is under way; beside the output if not
            given.
        resume: whether to continue a build that was interrupted.
        ray: address of a Ray cluster for the shards; ``"auto"`` takes a running one or starts one
            here; ``None`` runs everything in this process.

    Raises:
        OptionError: ``max_memory`` is below 1.
    """

    max_memory: Count | None = None
    work_dir: Path | None = None
    resume: bool = False
    ray: str | None = None


@dataclass(frozen=True)
class BuildResult:
    """The result of a build or a fit.

    Attributes:
        path: the bundle.
        manifest: its manifest.
        counted: distinct words that were counted and passed the corpus options.
        seconds: time by stage, in the order of the stages.
        notes: what the user should know: unused table rows, groups that use the fallback.
    """

    path: Path
    manifest: Manifest
    counted: int
    seconds: dict[Stage, float]
    notes: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """Time of all stages together, without the imports before them."""
        return sum(self.seconds.values())


def fallback_notes(manifest: Manifest) -> tuple[str, ...]:
    """Name the groups that use the fallback adapter."""
    served = [group for group in manifest.fallbacks if group not in manifest.group_names]
    text = f"served by the fallback adapter, having too few words: {', '.join(served)}"
    return (text,) if served else ()
