"""Torch operators: schema, fake, pure-torch reference, native backends, registration."""
