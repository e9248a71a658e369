"""Fitting adapters by streaming least squares."""
