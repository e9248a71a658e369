"""Scene-graph F1 where both graphs are known: SPICE's score without its parser."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from fuse_index.errors import ShapeError
from fuse_index.evaluate.interval import Score, mean_score

Fact = tuple[str, ...]
"""An object ``(name,)``, its attribute ``(name, value)``, or a relation ``(name, how, name)``."""

Facts = Set[Fact]

KINDS = {1: "objects", 2: "attributes", 3: "relations"}
"""What a fact is, by the number of its words."""


@dataclass(frozen=True)
class Agreement:
    """How far a caption's facts agree with a scene.

    Attributes:
        precision: share of the caption's facts that are true of the scene.
        recall: share of the scene's own graph that the caption says.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def fact_agreement(said: Facts, wanted: Facts, truths: Facts | None = None) -> Agreement:
    """Compare what a caption says with a scene, fact by fact.

    It is SPICE's F-score (Anderson et al. 2016, equations 3 to 5) on exact tuples.

    Args:
        said: the caption's facts.
        wanted: the scene's own graph, what a full caption says.
        truths: everything true of the scene, ``wanted`` included: precision is taken over it, so
            that saying more than a full caption is no mistake. None takes ``wanted``.
    """
    true = wanted if truths is None else truths
    precision = len(said & true) / len(said) if said else 0.0
    recall = len(said & wanted) / len(wanted) if wanted else 0.0
    return Agreement(precision, recall)


def score_graphs(
    said: Sequence[Facts], wanted: Sequence[Facts], truths: Sequence[Facts] | None = None
) -> dict[str, Score]:
    """Score captions' facts against scenes' facts.

    Args:
        said: facts of every caption.
        wanted: facts of every scene's own graph.
        truths: everything true of every scene; None takes ``wanted``.

    Returns:
        "graph F1", "graph precision" and "graph recall", and F1 of the facts of one kind: "objects
        F1", "attributes F1", "relations F1". Each is the mean of its items; an item has no value
        (NaN) where neither caption nor scene has facts of the kind.

    Raises:
        ShapeError: the sequences are not of one length, or empty.
    """
    true = wanted if truths is None else truths
    if not len(said) == len(wanted) == len(true) or not said:
        raise ShapeError(
            f"{len(said)} captions, {len(wanted)} graphs and {len(true)} sets of truths",
            expected="as many of each, and at least one",
        )
    triples = list(zip(said, wanted, true, strict=True))
    whole = [fact_agreement(*triple) for triple in triples]
    scores = [
        mean_score("graph F1", [item.f1 for item in whole]),
        mean_score("graph precision", [item.precision for item in whole]),
        mean_score("graph recall", [item.recall for item in whole]),
    ]
    for length, kind in KINDS.items():
        items = [_f1_of(length, *triple) for triple in triples]
        scores.append(mean_score(f"{kind} F1", items))
    return {score.name: score for score in scores}


def _f1_of(length: int, said: Facts, wanted: Facts, truths: Facts) -> float:
    """F1 of the facts of one kind; NaN where there are none, or nothing false is said of none."""
    own, graph, true = (
        {fact for fact in facts if len(fact) == length} for facts in (said, wanted, truths)
    )
    if not graph and own <= true:
        return float("nan")
    return fact_agreement(own, graph, true).f1
