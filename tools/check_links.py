"""``python tools/check_links.py``: every relative link of every Markdown file leads to a file and a heading.

Exit code 1 and one line per broken link otherwise. Addresses of the web are not asked.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"(?ms)^```.*?^```")


def markdown_files() -> list[Path]:
    """The Markdown files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return [ROOT / name for name in listed.stdout.split()]


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, spelled as GitHub and MyST do."""
    headings = re.findall(r"(?m)^#{1,6} (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain)


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"{page.relative_to(ROOT)}: {target}: no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            yield f"{page.relative_to(ROOT)}: {target}: no such heading"


if __name__ == "__main__":
    faults = [fault for page in markdown_files() for fault in broken_links(page)]
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    sys.exit(bool(faults))
