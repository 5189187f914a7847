"""What a reader sees first, can tell apart, and takes away: the answer, safe colours, small pages, exact CSV files."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers_report import DECLARED
from PIL import Image

from mllmu.core.csvrows import as_written, harmless
from mllmu.core.process import rng
from mllmu.core.records import MetricResult
from mllmu.report import Example, ModelRow, Portrait, ReportInput, render
from mllmu.report.inputs import ToldFact
from mllmu.report.numbers import Numbers, tradeoff_rows
from mllmu.report.printing import csv_cell, csv_of, show, show_span
from mllmu.report.verdict import verdict

STYLE = Path(__file__).parents[2] / "mllmu" / "report" / "templates" / "style.css"
ROLES = {"target": "target", "retain_model": "retain_model"}
SCORES = {
    "target": (0.9, 0.8),
    "retain_model": (0.2, 0.8),
    "near": (0.25, 0.7),
    "alike": (0.3, 0.68),
    "far": (0.7, 0.3),
}
"""Score on forget and on retain and celebrity; every interval reaches 0.06 to either side."""


def results(scores: dict[str, tuple[float, float]], people: int = 20) -> tuple[MetricResult, ...]:
    found = []
    for model, (forget, kept) in scores.items():
        for split, value in (("forget", forget), ("retain", kept), ("celebrity", kept)):
            for modality in ("image_text", "text"):
                row = {"metric": "accuracy", "split": split, "task": "classification", "modality": modality}
                found.append(
                    MetricResult(
                        model=model, value=value, ci_low=value - 0.06, ci_high=value + 0.06, num=40,
                        num_unparsed=0, num_profiles=people, **row,
                    )
                )  # fmt: skip
    return tuple(found)


def report(scores: dict[str, tuple[float, float]] | None = None, people: int = 20, **more: object) -> ReportInput:
    scores = scores or SCORES
    models = tuple(ModelRow(name=name, role=ROLES.get(name, "unlearned")) for name in scores)
    return ReportInput(title="t", models=models, results=results(scores, people), declared=DECLARED, **more)


def answer(scores: dict[str, tuple[float, float]] | None = None, people: int = 20) -> tuple[str, str, str, str]:
    one = report(scores, people)
    found = verdict(Numbers(one), tradeoff_rows(one))
    assert found is not None
    return found


# --- the answer


def test_the_answer_names_the_nearest_sound_method_its_price_and_what_cannot_be_told_from_it() -> None:
    model, method, price, sure = answer()
    assert model == "near"
    assert "its score on them is 25.0 in image + text (target 90.0, retain model 20.0) and 25.0 in text only" in method
    assert price.startswith("Price: utility (retain and celebrity) is 10.0 points less in image + text and")
    assert sure == (
        "How sure: with 20 people to forget, its intervals lie clear of the target's score; "
        "alike cannot be told from it by the 95 % intervals."
    )


def test_the_answer_says_where_nothing_is_shown_and_of_whom_it_speaks() -> None:
    idle = {**{name: SCORES[name] for name in ROLES}, "idle": (0.86, 0.8)}
    assert answer(idle, people=2)[0] == ""
    weak = {**{name: SCORES[name] for name in ROLES}, "weak": (0.85, 0.8)} | {"retain_model": (0.5, 0.8)}
    _, _, _, sure = answer(weak, people=1)
    assert "with 1 person to forget, it is not shown to forget" in sure and "this person's questions alone" in sure


def test_without_intervals_nothing_is_said_to_lie_clear_of_the_target() -> None:
    one = report()
    bare = tuple(r.model_copy(update={"ci_low": None, "ci_high": None}) for r in one.results)
    one = one.model_copy(update={"results": bare})
    found = verdict(Numbers(one), tradeoff_rows(one))
    assert found is not None and "20 people to forget, no interval says whether it forgets; " in found.sure


def test_without_a_method_that_works_none_is_recommended() -> None:
    broken = {**{name: SCORES[name] for name in ROLES}, "ga": (0.0, 0.1)}
    assert answer(broken)[1].startswith("No method can be recommended")
    only = report({name: SCORES[name] for name in ROLES})
    assert verdict(Numbers(only), tradeoff_rows(only)) is None


@pytest.mark.parametrize("size", ["1280,800", "390,844"])
def test_the_answer_and_the_plot_are_on_the_first_screen(tmp_path: Path, size: str) -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    page = render(report(facts="4 of 16 people forgotten (25 %), tiny, seed 0"), tmp_path).read_text(encoding="utf-8")
    look = (
        "<script>document.title = JSON.stringify([innerWidth, document.documentElement.scrollWidth, "
        "...[...document.querySelectorAll('.verdict, #tradeoff .pair svg')].slice(0, 4).map("
        "e => Math.round(e.getBoundingClientRect().bottom))])</script>"
    )
    driven = tmp_path / "driven.html"
    driven.write_text(re.sub(r"<meta http-equiv=.Content-Security.*?>", "", page).replace("</body>", look + "</body>"))
    flags = f"--headless=new --no-sandbox --disable-gpu --window-size={size} --dump-dom"
    done = subprocess.run([chromium, *flags.split(), driven.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.findall(r"<title>(\[.*?\])</title>", done.stdout)[0]
    width, scrolled, method, sure, *plots = (int(number) for number in re.findall(r"\d+", title))
    assert scrolled <= width
    assert method < sure < 800
    if size == "1280,800":
        assert max(plots) <= 800


def test_a_table_that_was_sorted_says_what_the_numbers_before_the_names_are(tmp_path: Path) -> None:
    """Clicked once, twice and three times; the ranks stay with their models, and the third click undoes the others."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    page = render(report(facts="4 of 16 people forgotten"), tmp_path).read_text(encoding="utf-8")
    look = (
        "<script>const t = document.querySelector('table.sortable'), seen = [];"
        "const head = [...t.tHead.querySelectorAll('th')].find(e => e.tabIndex === 0);"
        "const note = () => (t.parentNode.nextElementSibling || {textContent: ''}).textContent;"
        "const rows = () => [...t.tBodies[0].querySelectorAll('tr.unlearned th')].map("
        "e => e.querySelector('.rank').textContent + ' ' + e.dataset.name);"
        "seen.push([rows(), '']); for (let i = 0; i < 3; i++) { head.click(); seen.push([rows(), note()]); }"
        "const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen);"
        "document.body.append(out)</script>"
    )
    driven = tmp_path / "driven.html"
    driven.write_text(re.sub(r"<meta http-equiv=.Content-Security.*?>", "", page).replace("</body>", look + "</body>"))
    flags = "--headless=new --no-sandbox --disable-gpu --dump-dom"
    done = subprocess.run([chromium, *flags.split(), driven.as_uri()], capture_output=True, text=True, timeout=120)
    first, up, down, undone = json.loads(html.unescape(re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout)[0]))
    by_name = sorted(first[0], key=lambda text: text.partition(" ")[2])
    assert [text.partition(" ")[0] for text in first[0]] == ["3", "4", "5"], "behind the target and the retain model"
    assert up[0] == by_name and down[0] == by_name[::-1] and undone == first
    assert "Sorted by model, lowest first. The numbers before the names stay those of the first order" in up[1]
    assert "highest first" in down[1]


# --- colours


def css_colours(scheme: int) -> dict[str, tuple[float, ...]]:
    """Panel, good and bad of a scheme: 0 light, 1 dark."""
    text = STYLE.read_text(encoding="utf-8").split("@media (prefers-color-scheme: dark)")[scheme]
    found = dict(re.findall(r"--(panel|good|bad): #([0-9a-f]{6})", text))
    return {name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, value in found.items()}


EYES = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""What eyes without one kind of cone see, in linear RGB: Machado, Oliveira and Fernandes 2009, severity 1."""


def lab(colour: tuple[float, ...], eye: str) -> tuple[float, float, float]:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    r, g, b = (min(1.0, max(0.0, sum(k * c for k, c in zip(row, linear, strict=True)))) for row in EYES[eye])
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("eye", EYES)
def test_the_best_and_the_worst_shade_are_far_apart_for_every_eye(scheme: int, eye: str) -> None:
    colours = css_colours(scheme)
    strong = 0.34
    best, worst = (
        tuple(strong * c + (1 - strong) * p for c, p in zip(colours[name], colours["panel"], strict=True))
        for name in ("good", "bad")
    )
    assert sum((a - b) ** 2 for a, b in zip(lab(best, eye), lab(worst, eye), strict=True)) ** 0.5 >= 25


def test_a_shade_has_a_sign_and_a_chip_says_its_word(tmp_path: Path) -> None:
    page = render(report({**SCORES, "broken": (0.1, 0.2)}), tmp_path).read_text(encoding="utf-8")
    assert '<span class="sign" title="good">++</span>' in page or '<span class="sign" title="good">+</span>' in page
    assert '<span class="chip front">front</span>' in page
    assert '<span class="chip collapsed">destroyed</span>' in page


# --- plots and images


def test_a_plot_is_an_image_with_a_title_and_its_dots_say_their_values(tmp_path: Path) -> None:
    page = render(report(), tmp_path).read_text(encoding="utf-8")
    assert page.count("<svg") == page.count('role="img"><title>') > 2
    assert re.search(r'<g id="[^"]*dot-3"><title>near 65\.0 forgotten, utility 70\.0</title>', page)


def noise(side: int, seed: int) -> bytes:
    """A photograph's worth of bytes."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), rng(seed, "noise").randbytes(3 * side * side)).save(out, "PNG")
    return out.getvalue()


def test_a_page_stays_small_whatever_its_images_and_examples(tmp_path: Path) -> None:
    views = tuple(noise(700, seed) for seed in range(4))
    portraits = tuple(Portrait(id=f"p{i}", name=f"P {i}", role="forget", views=views) for i in range(30))
    replies = dict.fromkeys(SCORES, "word " * 400)
    example = Example(
        question="Q?", image=views[0], split="forget", task="classification", modality="image_text", truth="A",
        replies=replies,
    )  # fmt: skip
    page = render(report(portraits=portraits, examples=(example,) * 400), tmp_path)
    assert page.stat().st_size < 5_000_000
    text = page.read_text(encoding="utf-8")
    assert "data:image/webp" in text and "of 400, so that the page stays small" in text


def test_what_still_leaks_is_listed_by_person_and_word_for_word(tmp_path: Path) -> None:
    told = {"target": {"p1": (4, 4)}, "retain_model": {"p1": (1, 4)}, "near": {"p1": (3, 4)}}
    fact = ToldFact(
        person="p1", task="cloze", modality="text", question="Where <b>?", truth="Oslo", reply="In Oslo, I think."
    )
    page = render(report(names={"p1": "Ada Bell"}, told=told, leaks={"near": (fact,)}), tmp_path)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))
    assert "By person" in text and "3 of 4" in text and "Ada Bell" in text.replace("\u200b", "")
    assert "what near still says" in text and "In Oslo, I think." in text and "cloze, text only" in text
    assert "<b>?" not in page.read_text(encoding="utf-8")


# --- numbers


@pytest.mark.parametrize(
    ("value", "text"), [(7.82e-19, "7.82000e-19"), (3.2e-09, "3.20000e-09"), (0.0123456789, "0.0123457")]
)
def test_small_numbers_keep_their_digits_in_csv_files(value: float, text: str) -> None:
    assert csv_cell(value) == text and float(text) == pytest.approx(value, rel=1e-5)
    assert csv_cell(0.0) == "0.000000" and csv_cell(0.05) == "0.050000" and csv_cell(0.25) == "0.250000"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@x", "\t=1", "\r=1", "\n=SUM(1,2)", "\uff1d1", "\uff0b1"])
def test_no_cell_begins_a_formula_and_it_reads_back(text: str) -> None:
    cell = next(csv.reader(io.StringIO(csv_of(["a"], [{"a": text}]).partition("\n")[2], newline="")))[0]
    assert cell == harmless(text).replace("\r", "\n") and cell[0] == "'" and as_written(harmless(text)) == text
    assert as_written("'quoted'") == "'quoted'" and harmless("–") == "–"


ROUNDED = [(-0.0003, "percent", "0.0"), (-0.001, "decimal", "0.00"), (-0.0004, "signed", "0.0")]


@pytest.mark.parametrize(("value", "style", "text"), [*ROUNDED, (-0.001, "percent", "-0.1")])
def test_what_rounds_to_zero_has_no_sign(value: float, style: str, text: str) -> None:
    assert show(value, style, 2) == text


def test_a_range_of_negative_numbers_has_a_word_between_them() -> None:
    assert show_span(-4, -2, "decimal") == "-4.00 to -2.00"
    assert show_span(-0.001, 0.4, "decimal") == "0.00–0.40"
