"""Experiments: each answers one question by training models; run from the repository's root."""
