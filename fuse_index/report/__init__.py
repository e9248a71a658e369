"""Reports for people: one HTML file that needs nothing else."""

from fuse_index.report.html import report_html
from fuse_index.report.page import Alternative, Card, Entry, Page, Table, alternatives_of, curve_of
from fuse_index.report.words import WordEffects, word_effects

__all__ = [
    "Alternative",
    "Card",
    "Entry",
    "Page",
    "Table",
    "WordEffects",
    "alternatives_of",
    "curve_of",
    "report_html",
    "word_effects",
]
