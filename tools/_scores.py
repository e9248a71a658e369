"""What the benchmarks of captions share: figures with intervals, paired differences, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fuse_index.evaluate.interval import Score, paired_bootstrap


def figures(scores: Mapping[str, Score], names: Iterable[str]) -> dict[str, Any]:
    """Means with intervals, for the JSON; what was not computed is left out."""
    found: dict[str, Any] = {}
    for name in names:
        if name in scores:
            interval = scores[name].interval()
            ends = None if interval is None else [interval.low, interval.high]
            found[name] = {"mean": scores[name].value, "interval": ends}
    return found


def differences(
    pairs: Iterable[tuple[str, str]],
    scores: Mapping[str, Mapping[str, Score]],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """Paired differences of cases on the same items, first less second, with their intervals."""
    rows = []
    for first, second in pairs:
        for metric in metrics:
            if metric not in scores.get(first, {}) or metric not in scores.get(second, {}):
                continue
            found = paired_bootstrap(scores[first][metric], scores[second][metric])
            measured = {"metric": metric, "difference": found.value, "p": found.p_value}
            ends = [found.interval.low, found.interval.high]
            rows.append({"first": first, "second": second, **measured, "interval": ends})
    return rows


def difference_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The differences as a Markdown table; nothing where there is none."""
    if not rows:
        return []
    lines = ["", "| first | second | metric | first less second | p |", "|" + " --- |" * 5]
    for item in rows:
        low, high = item["interval"]
        lines.append(
            f"| {item['first']} | {item['second']} | {item['metric']} | "
            f"{item['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {item['p']:.3f} |"
        )
    return lines


def cell(score: Score | None, digits: int = 2) -> str:
    """A mean with its interval, for a table."""
    if score is None or math.isnan(score.value):
        return "-"
    interval = score.interval()
    if interval is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"
