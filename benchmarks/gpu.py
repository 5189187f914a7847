"""The speed of one GPU at the shapes of LLaVA-1.5-7B: training, evaluation, model switches, and a slice of a run.

    python -m benchmarks.gpu                        # some eight minutes of a GPU; writes gpu_<card>_<yyyymm>
    python -m benchmarks.gpu --phases train         # one phase
    python -m benchmarks.gpu --shape tiny           # the same lines on a CPU, on a model of no use but to try them

Nothing is downloaded: the weights are random, with the shapes of LLaVA-1.5 and 576 image tokens. Every row is printed
as one line of JSON as soon as it is measured, so that a run that ends early keeps its rows.

    card        rate of a bfloat16 matrix product and of a copy in memory; all shares are of these
    switch      load the base, then models with other adapters
    train       fine-tuning steps as ``mllmu run`` makes them, and the published loop
    evaluate    greedy replies of 50 tokens, and the published loop
    methods     steps of unlearning methods with a frozen reference
    equality    the tests marked ``gpu``
    slice       fine-tune, unlearn and evaluate as one run, beside what ``mllmu plan`` says
    smoke       recipes/smoke.yaml, the embedded tiny model

Seconds are those of the clock, with the device synchronised at both ends. The share of the matmul rate counts 4
operations per weight of the language model's layers and unpadded token (forward, and backward to the activations; the
base is frozen) and per weight of the output layer and labelled token; adapters, attention, images and what is
recomputed are not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from benchmarks import gpu_work as work

Row = dict[str, Any]
PHASES = ("card", "switch", "train", "evaluate", "methods", "equality", "slice", "smoke")


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=work.SHAPES, default="7b")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--minutes", type=float, default=8, help="no phase starts later")
    parser.add_argument("--folder", type=Path, help="for the weights; 14 GB with --shape 7b; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of the two files")
    parser.add_argument("--profile", action="store_true", help="write where the time of a step goes, beside the rows")
    options = parser.parse_args(arguments)
    started, rows = time.monotonic(), []
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu_{card_name()}_{datetime.now(UTC):%Y%m}.json"
    with tempfile.TemporaryDirectory() as temporary:
        bench = work.Bench(options.folder or Path(temporary), work.SHAPES[options.shape], options.out, options.profile)
        for name in options.phases:
            spent = time.monotonic() - started
            if spent >= 60 * options.minutes:
                rows.append(show({"phase": name, "left out": f"after {spent:.0f} s"}))
                continue
            for row in measured(name, PHASE[name], bench):
                rows.append(show(row))
                path.write_text(json.dumps({"machine": machine(options), "rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(machine(options), rows))
    return rows


def measured(name: str, phase: Callable[[work.Bench], Iterator[Row]], bench: work.Bench) -> Iterator[Row]:
    """The rows of a phase; one that fails ends with a row that says why, and the next phase goes on."""
    start = time.monotonic()
    try:
        for row in phase(bench):
            yield {"phase": name, **row, "at_s": round(time.monotonic() - start, 1)}
    except Exception as error:  # noqa: BLE001 - the other phases are worth measuring all the same
        traceback.print_exc()
        yield {"phase": name, "failed": f"{type(error).__name__}: {error}"[:300]}


PHASE: dict[str, Callable[[work.Bench], Iterator[Row]]] = {name: getattr(work.Bench, name) for name in PHASES}


def machine(options: argparse.Namespace) -> Row:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {platform.machine()}",
        "memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if torch.cuda.is_available() else None,
        "shape": options.shape,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "commit": commit.stdout.strip() or None,
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
    }


def card_name() -> str:
    """The card as part of a file name: 'h200', or 'cpu'."""
    if not torch.cuda.is_available():
        return "cpu"
    words = torch.cuda.get_device_name().lower().split()
    return next((word for word in words if any(letter.isdigit() for letter in word)), words[-1])


def page(facts: Row, rows: list[Row]) -> str:
    """The rows as tables, one per phase."""
    lines = [
        f"# {facts['card']}, {facts['shape']} shapes",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
    ]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = [{k: v for k, v in row.items() if k != "phase"} for row in rows if row["phase"] == phase]
        columns = list(dict.fromkeys(key for row in own for key in row))
        lines += [f"## {phase}", "", table(columns), table(["---"] * len(columns))]
        lines += [table([row.get(key, "") for key in columns]) for row in own] + [""]
    return "\n".join(lines)


def table(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def show(row: Row) -> Row:
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
