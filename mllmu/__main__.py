"""``python -m mllmu`` is the command ``mllmu``."""

from mllmu.cli import main

if __name__ == "__main__":
    main()
