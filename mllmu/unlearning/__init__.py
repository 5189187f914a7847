"""Unlearning: the base of all methods, and one file per method in ``methods``."""
