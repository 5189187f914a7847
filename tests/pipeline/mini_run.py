"""A whole run in seconds: five people with small portraits, a random LLaVA, and the same few questions to everybody."""

from __future__ import annotations

import hashlib
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from mllmu.config.load import apply_override, parse
from mllmu.core.process import Progress
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic
from mllmu.pipeline.pipeline import Pipeline
from tools.pretrain_tiny.build import build_model, build_processor, build_tokenizer

JOBS = ("ga", "npo", "prompting", "retrain")
MODELS = ("target", "retain_model", *JOBS)
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def make_base(folder: Path) -> Path:
    """Save a random model whose tokenizer knows the words of the questions, so that sequences are short."""
    questions = build(Synthetic(num_people=3).profiles(0), QuestionOrder(seed=0, train_wordings=2))
    texts = [part for q in questions for part in (q.text, q.answer, "USER: ASSISTANT: A B C D", *q.alternatives)]
    tokenizer = build_tokenizer(texts, vocab_size=1000)
    torch.manual_seed(0)
    model = build_model(tokenizer, width=32, layers=2, vision_width=32)
    model.get_input_embeddings().weight.data.mul_(8)  # tied to the output: or every token stays equally likely
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def settings(base: Path, *overrides: str) -> dict[str, Any]:
    """The recipe as plain values, with ``a.b=value`` changes."""
    raw: dict[str, Any] = {
        "name": "mini",
        "data": {
            "source": {"name": "synthetic", "num_people": 5},
            "celebrities": {"name": "celebrities", "num_people": 6},
            "portraits": {"name": "dicebear", "size": 32, "num_views": 2},
            "splits": {"forget_ratios": [0.4], "holdout": 1},
            "train_wordings": 1,
        },
        "model": {"path": str(base), "device": "cpu"},
        "finetune": {"epochs": 2, "learning_rate": 0.01, "batch_size": 16, "modality": "both", "lora": LORA},
        "gate": False,
        "unlearn": {"lora": LORA, "methods": ["ga", {"name": "npo", "batch_size": 8}, "prompting", "retrain"]},
        "evaluate": {
            "batch_size": 16,
            "max_profiles": {"forget": 2, "test": 1, "retain": 1, "celebrity": 1, "holdout": 1},
        },
        "report": {"num_examples": 2},
    }
    for override in overrides:
        apply_override(raw, override)
    return raw


def write_recipe(path: Path, base: Path, *overrides: str) -> Path:
    """Save the recipe as a file for the command line."""
    path.write_text(yaml.safe_dump(settings(base, *overrides)), encoding="utf-8")
    return path


def run(
    base: Path, root: Path, *overrides: str, only: str | None = None, progress: Progress | None = None, **how: bool
) -> Path:
    """Run the recipe in this process; returns the run folder."""
    Pipeline(parse(settings(base, *overrides)), root, progress=progress, **how).run(only)
    return root


def fingerprints(root: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of every file that matches, by its path in the run folder."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob(pattern))
        if path.is_file()
    }


def launches(processes: int) -> list[dict[str, str]]:
    """What a launcher puts into the environment of each process of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [address | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def session_lives(leader: int) -> bool:
    """Whether any process of the session that this one leads is alive."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                return True
    return False


def unit_times(root: Path) -> dict[str, int]:
    """When every unit of the run folder was finished."""
    return {path.parent.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("unit.json")}


def without_digests(unit: Path) -> Path:
    """Take the digests of a unit's files away, as in runs of earlier versions, so that a test may change them."""
    path = unit / "unit.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in record.items() if key not in ("files", "record_digest")}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return unit
