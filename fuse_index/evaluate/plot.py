"""A picture of a fidelity report."""

from __future__ import annotations

import os
from dataclasses import astuple
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuse_index.common.files import write_out
from fuse_index.errors import MissingDependencyError, StorageError
from fuse_index.evaluate.ranking import ranks

if TYPE_CHECKING:
    from fuse_index.evaluate.fidelity import FidelityReport


def plot_fidelity(report: FidelityReport, path: str | os.PathLike[str], title: str) -> None:
    """Draw correlation, shares of the best found, and predicted against true ranks.

    Args:
        report: what was measured.
        path: a picture file; its ending says the format.
        title: one line above the panels.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    try:
        from matplotlib import colormaps  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed", remedy="pip install 'fuse-index[plot]'"
        ) from error
    colours = dict(zip(report.spearman, colormaps["tab20"](range(20)), strict=False))
    figure = Figure(figsize=(14.5, 4.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, 3)
    _draw_spearman(axes[0], report, colours)
    _draw_shares(axes[1], report, colours)
    _draw_ranks(axes[2], report)
    try:
        buffer = BytesIO()
        figure.savefig(buffer, format=Path(path).suffix.lstrip(".") or "png", dpi=120)
        write_out(path, buffer.getvalue())
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the plot {os.fspath(path)!r} cannot be written: {error}",
            expected="a writable path ending in .png, .svg or .pdf",
        ) from error


def _draw_spearman(axes: Any, report: FidelityReport, colours: dict[str, Any]) -> None:
    means, errors = zip(*map(astuple, report.spearman.values()), strict=True)
    names = list(report.spearman)
    axes.bar(names, means, yerr=errors, color=[colours[name] for name in names], capsize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("Spearman correlation with the true change")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")


def _draw_shares(axes: Any, report: FidelityReport, colours: dict[str, Any]) -> None:
    for name, colour in colours.items():
        among, estimates = zip(*sorted(report.share[name].items()), strict=True)
        means, errors = zip(*map(astuple, estimates), strict=True)
        style = {"color": colour, "marker": "o", "capsize": 3, "label": name}
        axes.errorbar(among, means, yerr=errors, **style)
    axes.set_xlabel("predicted best candidates looked at")
    axes.set_ylabel(f"share of the true best {report.options.best} among them")
    axes.set_ylim(0, 1)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_ranks(axes: Any, report: FidelityReport) -> None:
    name = max(report.spearman, key=lambda own: report.spearman[own].mean)
    predicted = np.concatenate([ranks(s.predicted[name]) / len(s.change) for s in report.samples])
    true = np.concatenate([ranks(s.change) / len(s.change) for s in report.samples])
    axes.hist2d(predicted, true, bins=20, cmap="Blues")
    axes.set_xlabel(f"rank predicted by '{name}' (0: best)")
    axes.set_ylabel("true rank (0: best)")
