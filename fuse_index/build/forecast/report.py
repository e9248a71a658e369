"""The report of a pre-flight, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuse_index.build.forecast.sampling import WordSample
from fuse_index.build.forecast.size import Footprint
from fuse_index.models.embeddings import Embeddings
from fuse_index.ops import native_status

TIME_FACTOR = 2.0
"""Within which measured builds were of the predicted time, on a machine that does nothing else."""
MEMORY_FACTOR = 1.3
"""Within which measured builds were of the predicted memory."""


@dataclass(frozen=True)
class LeftOut:
    """Words that will not be in the bundle.

    Attributes:
        reason: as the manifest will have it.
        words: expected number.
        examples: the most frequent of them.
    """

    reason: str
    words: float
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Preflight:
    """The predicted bundle and build of two models.

    Attributes:
        source: the source's embeddings and tokenizer.
        target: the target's.
        sample: the words that were tried, and how many each stands for.
        left_out: words that do not align, by reason.
        footprint: of the bundle.
        seconds: of the build, by stage.
        build_bytes: the largest resident set of the build.
        work_bytes: of the disk while it is built, the bundle included.
        weights: bytes of both models' weights as they are stored; ``None`` where not known.
        states: bytes of the words' hidden states in both models; ``None`` where not known.
        retokenizer: how rows of ids will be converted: ``native``, ``python`` or ``tokenizers``.
        identity: whether both are the same model, so that nothing needs to be fitted.
    """

    source: Embeddings
    target: Embeddings
    sample: WordSample
    left_out: tuple[LeftOut, ...]
    footprint: Footprint
    seconds: dict[str, float]
    build_bytes: float
    work_bytes: float
    weights: tuple[int | None, int | None]
    states: tuple[int | None, int | None]
    retokenizer: str
    identity: bool

    @property
    def words(self) -> float:
        """Expected words of the bundle."""
        return sum(group.words for group in self.footprint.groups)

    @property
    def bundle_bytes(self) -> float:
        """Expected bytes of the bundle."""
        return sum(self.footprint.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        native = native_status()
        return {
            "source": _side(self.source, self.weights[0]),
            "target": _side(self.target, self.weights[1]),
            "identity": self.identity,
            "words": {
                "from": self.sample.origin.value,
                "counted": round(self.sample.total),
                "extrapolated": not self.sample.whole,
                "tried": len(self.sample.counts),
                "kept": round(self.words),
                "corpus_bytes": self.sample.corpus_bytes,
                "read_bytes": self.sample.read_bytes,
            },
            "left_out": [
                {"reason": item.reason, "words": round(item.words), "examples": [*item.examples]}
                for item in self.left_out
            ],
            "groups": [
                {"group": g.name, "words": round(g.words), "tube": g.tube, "own_adapter": g.own}
                for g in self.footprint.groups
            ],
            "bundle": {
                "bytes": round(self.bundle_bytes),
                "files": {name: round(size) for name, size in self.footprint.files.items()},
            },
            "build": {
                "seconds": round(sum(self.seconds.values()), 1),
                "stages": {name: round(value, 2) for name, value in self.seconds.items()},
                "memory_bytes": round(self.build_bytes),
                "disk_bytes": round(self.work_bytes),
                "time_factor": TIME_FACTOR,
                "memory_factor": MEMORY_FACTOR,
            },
            "run_time": {
                "adapter_bytes": round(self.footprint.adapter_bytes),
                "words_bytes": round(self.footprint.words_bytes),
                "weights_bytes": _sum(self.weights),
                "states_bytes": _sum(self.states),
            },
            "native": {
                "core": native.native,
                "cuda": native.cuda,
                "reason": native.reason,
                "pull_back": self._pull_back(native.native, native.cuda),
                "retokenizer": self.retokenizer,
            },
            "notes": list(self._notes()),
        }

    def _pull_back(self, native: bool, cuda: bool) -> dict[str, str]:
        if self.identity:
            return {"cpu": "not needed", "cuda": "not needed"}
        return {"cpu": "native" if native else "torch", "cuda": "native" if cuda else "torch"}

    def _notes(self) -> list[str]:
        notes = []
        if self.identity:
            notes.append("source and target are the same model: the adapter will be the identity")
        for model in (self.source, self.target):
            if model.unused_rows:
                notes.append(f"{model.name}: {model.unused_rows} rows of the table are not used")
        fallbacks = [group.name for group in self.footprint.groups if not group.own]
        if fallbacks:
            notes.append(f"the fallback adapter will serve {', '.join(fallbacks)}: too few words")
        if self.words < self.sample.total / 2:
            notes.append("more than half of the words are left out; see the reasons")
        if not self.sample.whole:
            notes.append(
                f"{self.sample.read_bytes / 1e6:,.0f} of {self.sample.corpus_bytes / 1e6:,.0f} MB "
                "of the corpus were read: the number of words is continued by Heaps' law"
            )
        return notes


def _sum(sizes: tuple[int | None, int | None]) -> int | None:
    return None if None in sizes else sum(filter(None, sizes))


def _side(model: Embeddings, weights: int | None) -> dict[str, Any]:
    return {
        "model": model.name,
        "tokenizer": model.words.family,
        "after": "an anchor word" if model.words.anchored else repr(model.words.lead),
        "vocabulary": len(model.table),
        "width": model.table.shape[1],
        "unused_rows": model.unused_rows,
        "weights_bytes": weights,
    }
