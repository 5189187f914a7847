"""The user's cache folder: what can be made or fetched again."""

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder ``mllmu/<name>`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mllmu" / name
