"""Fits of maps that are no t-products: one module a kind, all on words in memory."""
