"""Connections: listening, limits, encryption, signatures, addresses."""
