"""Token ids of one model to those of another."""
