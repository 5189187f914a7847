"""Our engine, our plain path and the published loops side by side, in one run on this machine.

    python -m benchmarks.engine                     # about six minutes of one core; writes benchmarks/engine.json
    python -m benchmarks.engine --parts throughput  # one minute: the ratios alone
    python -m benchmarks.engine --parts questions   # the benchmark's own questions, zero-shot and as published

Three ways to do the same work on the same model, one after the other, with the same number of threads:

    engine      shared prefixes, image features once, logits at the labels only (what mllmu does); its evaluation is
                measured twice, ``anew`` and with the images that it remembers from other models of a run
    plain       one row per question (model.packing: off), otherwise the same
    published   own restatement of the loops of MLLMU-Bench: batches of 4 mixed questions, images prepared anew in
                every step, the whole prompt in the loss (image tokens left out, which favours it: with newer
                processors they are in it too), and evaluation one question at a time with 50 new tokens

Seconds are those of the processor, not of the clock, so that other work on the machine does not enter the ratios.

Nothing is downloaded: the large model is a random LLaVA of about 20 million parameters with LLaVA-1.5's image size
(336 pixels, 576 image tokens) and vocabulary (32,064).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import engine_evaluation as evaluation
from benchmarks import engine_work as work
from tools.pretrain_tiny.build import build_tokenizer

PARTS = ("throughput", "questions", "quality", "growth", "others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/engine.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts: dict[str, Any] = {"machine": machine(options.threads), "matmul_gflops": round(peak(), 1)}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("tiny", work.tiny), ("llava576", work.llava576)) if "throughput" in options.parts else ():
            show(f"\n{name}")
            case = make(Path(folder) / name)
            facts[name] = throughput(case, facts["matmul_gflops"])
        if "questions" in options.parts:
            facts["questions"] = questions(Path(folder) / "questions")
        if "quality" in options.parts:
            facts["time_to_quality"] = quality(Path(folder))
        if "growth" in options.parts:
            facts["growth"] = growth(Path(folder))
    if "others" in options.parts:
        facts |= {"scoring": work.scoring(20_754), "help_s": help_seconds()}
        show(f"\nscoring {facts['scoring']}\nmllmu --help {facts['help_s']} s")
    facts["peak_mib"] = work.peak_memory()
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


def throughput(case: work.Case, peak_gflops: float) -> dict[str, Any]:
    """Seconds a training question and a reply, and what they are times the published loop's."""
    result: dict[str, Any] = {"parameters": case.num_parameters, "questions": len(case.turns)}
    for kind, ways in (
        ("train", case.training()),
        (f"evaluate, {work.SHORT} tokens", case.evaluation(work.SHORT)),
        (f"evaluate, {work.NEW_TOKENS} tokens", case.evaluation(work.NEW_TOKENS)),
    ):
        rows = {name: measured(way) for name, way in ways.items()}
        for name, row in rows.items():
            row["times_published"] = round(rows["published"]["s_a_question"] / row["s_a_question"], 1)
            row["distinct_tokens_a_s"] = round(case.distinct_tokens(kind) / row["s_a_question"])
            if kind == "train":
                useful = case.training_gflop / row["s_a_question"]
                row["share_of_matmul_peak"] = round(useful / peak_gflops, 3)
            show(f"  {kind:20} {name:10}{row}")
        result[kind] = rows
        result["same_replies"] = kind == "train" or (result["same_replies"] and case.replies_agree())
    return result


def questions(folder: Path, people: int = 25, batch_size: int = 128) -> dict[str, Any]:
    """The benchmark's own questions in two protocols and three ways; the engine before and after the others."""
    folder.mkdir(parents=True)
    data, result = evaluation.dataset(folder, people, 336), {}
    texts = [one.prompt for protocol in evaluation.PROTOCOLS.values() for one in evaluation.asked(data, protocol, 1)]
    ready = work.random_llava(folder, build_tokenizer(texts, vocab_size=4000))
    for name, protocol in evaluation.PROTOCOLS.items():
        for tokens in (work.SHORT, work.NEW_TOKENS):
            case = evaluation.Evaluation(ready, folder, evaluation.asked(data, protocol, tokens), batch_size)
            rows = {"engine": [case.engine()], "published": [case.published()], "plain": [case.plain()]}
            rows["engine"].append(case.engine())
            found = {way: [round(row["s_a_question"], 4) for row in each] for way, each in rows.items()}
            times = [round(found["published"][0] / spent, 1) for spent in found["engine"]]
            facts = case.facts() | found | {"times_published": times, "same_replies": case.replies_agree()}
            result[f"{name}, {tokens} tokens"] = facts
            show(f"  questions {name}, {tokens} tokens: {facts}")
    return result


def measured(work_of: Callable[[], int]) -> dict[str, Any]:
    """Wall and processor seconds a question; the processor's are what the ratio is made of on a shared machine."""
    wall, own = time.perf_counter(), time.process_time()
    count = work_of()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return {"questions": count, "s_a_question": round(own / count, 5), "wall_s_a_question": round(wall / count, 5)}


def quality(folder: Path) -> dict[str, Any]:
    """Processor seconds until the replies are known, for several ways to fill a step."""
    result = {}
    for name, way in work.ways_to_teach().items():
        case = work.llava576(folder / "quality", people=2, questions=6, width=128, layers=2)
        result[name] = case.teach(way)
        show(f"  to quality {name}: {result[name]}")
    return result


def growth(folder: Path) -> dict[str, Any]:
    """Time and memory of one epoch and one evaluation with ten times as many people."""
    result: dict[str, Any] = {}
    for people in (6, 60):
        arguments = [sys.executable, "-m", "benchmarks.engine_work", str(folder / f"grow{people}"), str(people)]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)  # noqa: S603
        result[str(people)] = json.loads(done.stdout.splitlines()[-1])
    small, large = result["6"], result["60"]
    result["times_time"] = round(large["s"] / small["s"], 2)
    result["times_memory"] = round(large["peak_mib"] / small["peak_mib"], 2)
    show(f"  ten times the people: {result}")
    return result


def peak() -> float:
    """GFLOP/s of a large matrix product in processor time, the best of some: what one core can do."""
    a = torch.randn(1024, 1024)
    seconds = []
    for _ in range(20):
        start = time.process_time()
        torch.mm(a, a)
        seconds.append(time.process_time() - start)
    return 2 * 1024**3 / min(seconds) / 1e9


def help_seconds() -> float:
    """Processor seconds of ``mllmu --help``, the best of five."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mllmu", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(min(seconds), 3)


def machine(threads: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit.stdout.strip(),
        "command": " ".join(["python -m benchmarks.engine", *sys.argv[1:]]),
    }


def show(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
