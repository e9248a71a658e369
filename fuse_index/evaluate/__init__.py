"""Measuring the gradient signal."""
