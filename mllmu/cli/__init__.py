"""The command line, one file per command. Heavy libraries are imported inside commands, so ``--help`` is instant."""

from mllmu.cli.app import main

__all__ = ["main"]
