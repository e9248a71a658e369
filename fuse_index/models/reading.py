"""How a tokenizer reads a prompt between fixed texts."""

from __future__ import annotations

from dataclasses import dataclass

from fuse_index.words.tokenizers.continued import continuing, view
from fuse_index.words.tokenizers.probes import probe_prompts
from fuse_index.words.tokenizers.tokenization import WordTokenizer


@dataclass(frozen=True)
class Reading:
    """How a tokenizer reads a prompt between fixed texts.

    Attributes:
        continued: whether as text behind other text, not as the beginning of a text.
        carry: white space at the end of the text before that the prompt's tokens take in.
        drop: what is taken off the decoded tokens for the text of the prompt.
        add: what is put before them.
        bare: whether a prompt begins without a space, as where a chat template takes it off.
    """

    continued: bool = False
    carry: str = ""
    drop: str = ""
    add: str = ""
    bare: bool = False

    def encoder(self, words: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer of ``carry`` and a prompt's text."""
        return continuing(words) if self.continued else words

    def texts(self, words: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer that decodes to a prompt's text."""
        return view(words, continued=self.continued, drop=self.drop, add=self.add)

    def read(self, texts: WordTokenizer) -> WordTokenizer:
        """Return the tokenizer that decodes to what :meth:`encoder` encodes.

        Args:
            texts: decodes to a prompt's text.
        """
        return view(texts, drop=" " if self.bare else "", add=self.carry)

    def encode(self, words: WordTokenizer, text: str) -> list[int]:
        """Tokenize a prompt as it stands, without looking at what comes after it."""
        text = text.removeprefix(" ") if self.bare else text
        return self.encoder(words).encode_text(self.carry + text)

    def rows(self, words: WordTokenizer) -> list[list[int]]:
        """Return everyday prompts as the model's tokens."""
        texts = probe_prompts(words.backend)
        if self.bare:
            return self.encoder(words).encode_texts(texts).to_lists()
        return words.encode_running(texts).to_lists()
