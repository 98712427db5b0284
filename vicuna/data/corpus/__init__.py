"""A raw sample corpus, written by the project itself: chat pages that a tiny model can learn something true from."""
