"""Fitting adapters, the adapter itself, the autograd bridge, the quality report."""
