"""``python -m mllmu`` is the command ``mllmu``."""

from __future__ import annotations

from mllmu.cli import main

if __name__ == "__main__":
    main()
