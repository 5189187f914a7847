"""Pseudonyms for real people: what identifies them is replaced before anything is written."""
