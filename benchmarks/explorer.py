"""How long the explorer takes on a large run, and how much memory: ``mllmu view`` as a process, asked over its socket.

    python -m benchmarks.explorer /tmp/large --questions 20754 --models 20 --out benchmarks/explorer_202611.json

The run is made up (:mod:`benchmarks.explorer_run`) and stays in the folder. Times are from the start of the command to
the first page of questions, until the replies of all models have been read, and of single requests with random filters.
With playwright and Chromium the same is measured in the browser, up to what is drawn. On a machine that others use the
processor seconds (``*_cpu_s``, of the server, and in the browser of server and page) say what the wall clock cannot.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from benchmarks.explorer_run import write_run
from mllmu.explorer.replies import OUTCOMES

FILTERS = 200
"""Requests with random filters."""
CHOOSE = """split => new Promise(done => {
  const select = document.getElementById("field-split"), start = performance.now();
  new MutationObserver((_, seen) => {
    seen.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
  }).observe(document.getElementById("list"), {childList: true});
  select.value = split;
  select.dispatchEvent(new Event("change"));
})"""
"""Chooses a set on the page; milliseconds until the list has been drawn anew."""
CHROMIUM = shutil.which("chromium")


class Viewer(NamedTuple):
    """A running ``mllmu view``."""

    process: subprocess.Popen[str]
    started: float
    address: str

    def get(self, path: str, query: dict[str, Any]) -> Any:
        """A JSON answer, over a connection of its own."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.netloc, timeout=600)
        connection.request("GET", f"{place.path}run/0/{path}?{urlencode(query, doseq=True)}")
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def processor_s(self) -> float:
        """Processor seconds of the process so far, in all its threads."""
        used = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Peak resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def viewing(run: Path) -> Iterator[Viewer]:
    """``mllmu view`` of a run; ended with the block."""
    command = [sys.executable, "-u", "-m", "mllmu", "view", str(run), "--no-browser"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this program
        line = process.stdout.readline() if process.stdout else ""
        try:
            yield Viewer(process, started, line.split()[1])
        finally:
            process.terminate()


def draw_filter(draw: Random, about: dict[str, Any]) -> dict[str, Any]:
    """A random filter of one to three fields, up to two conditions, sometimes words or an order."""
    fields = draw.sample([name for name, values in about["fields"].items() if len(values) > 1], draw.randint(1, 3))
    query: dict[str, Any] = {name: draw.choice(about["fields"][name]) for name in fields}
    models = [*about["models"], "any", "all"]
    query["is"] = [f"{draw.choice(models)}:{draw.choice(OUTCOMES)}" for _ in range(draw.randint(0, 2))]
    if draw.random() < 0.25:
        query["words"] = f"{draw.choice(['riga', 'nurse', 'salary'])} {draw.randint(0, 99)}"
    if draw.random() < 0.25:
        query["forgotten"] = ":".join(draw.sample(about["models"], 2))
    return query


def measure_server(run: Path) -> dict[str, Any]:
    """Seconds and MiB of the server."""
    draw = Random(0)  # noqa: S311 - nothing secret
    with viewing(run) as viewer:
        about = viewer.get("api/run", {})
        found = viewer.get("api/questions", {"limit": 50})
        figures = {"first_view_s": time.monotonic() - viewer.started, "first_view_cpu_s": viewer.processor_s()}
        figures["questions"] = found["total"]
        while viewer.get("api/questions", {"limit": 50})["read"] < len(about["models"]):
            time.sleep(0.1)
        figures |= {"all_read_s": time.monotonic() - viewer.started, "models": len(about["models"])}
        figures |= {"filter_s": [], "filter_cpu_s": [], "question_s": []}
        for _ in range(FILTERS):
            start, used = time.monotonic(), viewer.processor_s()
            rows = viewer.get("api/questions", draw_filter(draw, about))["rows"]
            figures["filter_s"].append(time.monotonic() - start)
            figures["filter_cpu_s"].append(viewer.processor_s() - used)
            if rows:
                start = time.monotonic()
                viewer.get("api/question", {"id": draw.choice(rows)["id"]})
                figures["question_s"].append(time.monotonic() - start)
        return {**figures, "peak_mib": viewer.peak_mib()}


def measure_browser(run: Path) -> dict[str, Any]:
    """Seconds up to what is drawn in Chromium; nothing without it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if not CHROMIUM:
        return {}
    with viewing(run) as viewer, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        start = time.monotonic()
        page.goto(viewer.address)
        page.wait_for_selector("#list li")
        figures = {"browser_first_s": time.monotonic() - start, "browser_filter_s": [], "browser_filter_cpu_s": []}
        tab = page.context.new_cdp_session(page)
        tab.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.wait_for_selector("body[data-ready=yes]", timeout=600_000)
        for split in ("forget", "retain", "test", "", "celebrity", "holdout") * 3:
            used = page_s(tab) + viewer.processor_s()
            figures["browser_filter_s"].append(page.evaluate(CHOOSE, split) / 1000)
            figures["browser_filter_cpu_s"].append(page_s(tab) + viewer.processor_s() - used)
        browser.close()
    return figures


def page_s(tab: Any) -> float:
    """Processor seconds of the page's thread so far: scripts, layout and drawing."""
    found = {metric["name"]: metric["value"] for metric in tab.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """Lists as median, 95 % quantile and maximum."""
    found = {}
    for name, value in figures.items():
        if isinstance(value, list):
            ordered = sorted(value)
            found |= {f"{name}_median": median(ordered), f"{name}_q95": ordered[int(0.95 * (len(ordered) - 1))]}
            found[f"{name}_max"] = ordered[-1]
        else:
            found[name] = value
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Measure and print; with ``--out`` also as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=20_754)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = write_run(given.folder, questions=given.questions, models=given.models)
    figures = summary({**measure_server(run), **measure_browser(run), "load": os.getloadavg()[0]})
    text = json.dumps(figures, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
