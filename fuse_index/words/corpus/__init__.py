"""Text to words and their counts."""
