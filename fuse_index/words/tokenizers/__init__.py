"""Words to token ids, for each family of tokenizers."""
