"""Hypothesis strategies for words no corpus has."""

from __future__ import annotations

from hypothesis import strategies as st

ODD_WORDS = (
    *("▁", "▁a", "Ġ", "Ġthe", "##x", "</w>", "a</w>", "\N{BRAILLE PATTERN BLANK}"),
    *("[MASK]", "[UNK]", "<|endoftext|>", "<|startoftext|>", "<s>", "</s>", "<unk>", "<pad>"),
    *("<end_of_text>", "<start_of_text>", "<extra_id_0>", "photo", "photophoto"),
    *("'s", "n't", "don't", "they've", "I'LL", "7", "2024", "3.14", "1,000", "a1b2"),
    *("&amp;", "&lt;b&gt;", "&amp;amp;lt;", "&eacute;", "&", "<b>", "a<b", "_", "__", "a_b", "`"),
    *("Ã©", "â€™", "Ã", "Â", "voilÃ", "é", "e\u0301", "\u0301", "ﬁ", "①", "½", "¨", "ª"),
    *("İ", "ı", "ß", "ẞ", "Σ", "ΑΣ", "ς", "ǅ", "“q”", "…", "—", "\ufffd", "\u00ad"),
    *("中文", "日本語", "한국어", "か゚", "😀", "👩‍👩‍👧", "🇫🇷", "שלום", "हिन्दी", "ก็", "𝒳", "\u0600x"),
    *("\u200b", "\u200d", "\ufeff", "\x00", "\x07", "\x1b[0m", "\x7f", "\u2060", "\ue000"),
)

characters = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from("abzAZ019'&<>;_.,-!▁Ġ#é中😀\u0301"),
)


def _without_space(text: str) -> str:
    return "".join(text.split())


words = (
    st.one_of(st.sampled_from(ODD_WORDS), st.text(characters, min_size=1, max_size=6))
    .map(_without_space)
    .filter(bool)
)

word_lists = st.lists(words, min_size=1, max_size=8, unique=True)
