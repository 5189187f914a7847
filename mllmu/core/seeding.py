"""Randomness that depends on what an item is, never on the order in which items are visited."""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *keys: str | int) -> int:
    """Derive a 63-bit seed from a base seed and the identity of an item.

    seed' = first 8 bytes of SHA-256(seed / key1 / key2 ...), top bit cleared.
    The same keys give the same number on every machine and in any order of calls.
    """
    text = "\x1f".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *keys: str | int) -> random.Random:
    """A private generator for one item; see :func:`derive`."""
    return random.Random(derive(seed, *keys))  # noqa: S311 - reproducibility, not secrecy
