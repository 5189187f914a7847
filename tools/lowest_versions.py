"""Print the lowest versions that ``pyproject.toml`` allows, as constraints for pip: ``name==version``, a line each.

``python tools/lowest_versions.py [NAME==VERSION ...]``: versions given are printed in place of the lowest ones.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions(others: list[str]) -> list[str]:
    """The lower bound of every library that is always installed.

    Raises:
        ValueError: a requirement has none; names it.
    """
    names = {Requirement(other).name for other in others}
    wanted = map(Requirement, tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"])
    lowest = [(one.name, next((part.version for part in one.specifier if part.operator == ">="), "")) for one in wanted]
    if missing := [name for name, version in lowest if not version]:
        raise ValueError(f"{PROJECT}: no lower bound: {', '.join(missing)}. Expected >= in every requirement.")
    return [*others, *(f"{name}=={version}" for name, version in lowest if name not in names)]


if __name__ == "__main__":
    print("\n".join(lowest_versions(sys.argv[1:])))  # noqa: T201
