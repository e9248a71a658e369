"""Measuring the gradient signal."""

from fuse_index.evaluate.fidelity import FidelityOptions, FidelityReport, measure_fidelity
from fuse_index.evaluate.losses import Loss

__all__ = ["FidelityOptions", "FidelityReport", "Loss", "measure_fidelity"]
