"""The tables and texts that come with the package, as YAML files beside their readers."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def packaged_yaml(name: str) -> Any:
    """The content of a YAML file below ``mllmu/data``, read once; callers must not change it."""
    return yaml.safe_load(files("mllmu.data").joinpath(name).read_text(encoding="utf-8"))
