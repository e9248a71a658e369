"""Predictions of a build: its words, files, time and memory."""
