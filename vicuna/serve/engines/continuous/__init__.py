"""Continuous batching over a paged cache of keys and values."""
