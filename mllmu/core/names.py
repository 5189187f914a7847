"""Names that every part of a run agrees on."""

import re
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


def is_hub_name(path: Path) -> bool:
    """Whether a path can only mean a repository of the hub: two plain parts, and nothing of that name here.

    >>> is_hub_name(Path("MLLMMU/MLLMU-Bench")), is_hub_name(Path("data/train.jsonl")), is_hub_name(Path("/a/b"))
    (True, False, False)
    """
    text = path.as_posix()
    suffixed = path.suffix.lower() in (".jsonl", ".json", ".parquet", ".csv")
    return bool(_HUB_NAME.fullmatch(text)) and not suffixed and not path.exists() and not path.parent.exists()
