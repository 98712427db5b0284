"""Weights: loading them, and what is stored beside them."""
