"""Names that every part of a run agrees on."""

import re
from math import inf
from pathlib import Path

TARGET = "target"
"""The model fine-tuned on all people, whose facts are to be forgotten."""
RETAIN_MODEL = "retain_model"
"""The model fine-tuned on all people but those to be forgotten: what unlearning aims at."""
BASELINES = ("chance", "best_constant", "majority")
"""Names among results that are no models: answers by luck, and always the most frequent value."""
FOLDER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$"
"""What names a folder or file of a run: one part of a path, never hidden, above itself, or an option."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def ratio_order(key: str) -> tuple[float, str]:
    """By what forget ratios in percent are sorted, or folders named after them: the smallest first.

    >>> sorted(["10", "5", "12.5", "100", "odd"], key=ratio_order)
    ['5', '10', '12.5', '100', 'odd']
    """
    number = key.removeprefix("forget_")
    return (float(number) if number.replace(".", "", 1).isdecimal() else inf, key)


def is_hub_name(path: Path) -> bool:
    """Whether a path can only mean a repository of the hub: two plain parts, and nothing of that name here.

    >>> is_hub_name(Path("MLLMMU/MLLMU-Bench")), is_hub_name(Path("data/train.jsonl")), is_hub_name(Path("/a/b"))
    (True, False, False)
    """
    text = path.as_posix()
    suffixed = path.suffix.lower() in (".jsonl", ".json", ".parquet", ".csv")
    return bool(_HUB_NAME.fullmatch(text)) and not suffixed and not path.exists() and not path.parent.exists()
