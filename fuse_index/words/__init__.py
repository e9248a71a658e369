"""Corpus to words, words to token ids under each tokenizer."""
