"""What the documentation says about the code is true: generated pages, commands, recipes, settings, paths, counts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import mllmu
from mllmu.cli.app import app
from mllmu.config.load import load_all
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.records import Response, Sample
from mllmu.evaluation.bootstrap import with_intervals
from mllmu.evaluation.summaries import ScoredRun
from mllmu.report.inputs import ModelRow
from mllmu.report.numbers import TradeoffRow
from tools import generate_docs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = {generate_docs.FOLDER / name for name in generate_docs.PAGES}
DOORS = ("tutorials", "how-to", "reference", "explanation")
PAGES = sorted({ROOT / "README.md", *DOCS.rglob("*.md")} - GENERATED)
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def texts(pattern: str) -> Iterator[tuple[Path, str]]:
    """Every match of a pattern in the pages that people write, with its page."""
    for page in PAGES:
        for found in re.finditer(pattern, page.read_text(encoding="utf-8")):
            yield page.relative_to(ROOT), found[1]


@pytest.mark.parametrize("name", generate_docs.PAGES)
def test_a_generated_page_is_what_the_code_says_today(name: str) -> None:
    text = (generate_docs.FOLDER / name).read_text(encoding="utf-8")
    assert text == generate_docs.PAGES[name](), f"{name} is out of step: run `python -m tools.generate_docs`"


def test_every_page_is_two_clicks_from_the_index() -> None:
    reached = {DOCS / "index.md"}
    for page in ("index.md", *(f"{door}/index.md" for door in DOORS)):
        links = re.findall(r"\]\(([^)#]+\.md)[^)]*\)", (DOCS / page).read_text(encoding="utf-8"))
        reached |= {((DOCS / page).parent / link).resolve() for link in links}
    assert sorted(set(DOCS.rglob("*.md")) - reached) == []


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_page_of_methods_advises_on_every_method(name: str) -> None:
    assert f"`{name}`" in (DOCS / "explanation" / "methods.md").read_text(encoding="utf-8")


def test_the_page_of_the_report_explains_every_word_that_keeps_a_model_off_the_front() -> None:
    """Each of these two rows has all faults that it can have; a number in a word is N on the page."""
    prompted = ModelRow(name="prompting", role="unlearned", declines={"text": 0.0}, of_target="it keeps 8 of 24")
    rows = [
        TradeoffRow(1, prompted, "text", "", kept=0.1, same=1.0, noise_retain=1.0),
        TradeoffRow(2, ModelRow(name="npo", role="unlearned"), "text", "", progress=0.0),
    ]
    page = (DOCS / "reference" / "report.md").read_text(encoding="utf-8")
    words = [re.sub(r"\d+ %", "N %", word) for row in rows for word in row.faults]
    assert len(words) == 6
    assert [word for word in words if f"| {word.replace('it keeps 8 of 24', '...')} |" not in page] == []


@pytest.mark.parametrize("recipe", [path.name for path in RECIPES])
def test_every_recipe_has_a_row(recipe: str) -> None:
    assert f"`{recipe.removesuffix('.yaml')}`" in (DOCS / "reference" / "recipes.md").read_text(encoding="utf-8")


def test_the_page_of_the_python_interface_has_every_public_name() -> None:
    said = re.findall(r"auto\w+:: mllmu\.(\w+)", (DOCS / "reference" / "api.md").read_text(encoding="utf-8"))
    assert sorted(said) == sorted(set(mllmu.__all__) - {"__version__"})


def test_counts_are_those_of_today() -> None:
    said = list(texts(r"(\d+ (?:methods|metrics|model families))\b"))
    kinds = {"methods": "methods", "metrics": "metrics", "model families": "families"}
    wrong = [
        (str(page), count)
        for page, count in said
        if int(count.split(" ", 1)[0]) != len(plugins.names(kinds[count.split(" ", 1)[1]]))
    ]
    assert said and not wrong


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after ``mllmu`` call, and the words that are left."""
    command = command_line()
    while hasattr(command, "get_command"):
        context = typer.Context(command)
        if any(parameter.param_type_name == "argument" for parameter in command.params):  # mllmu requests DIR list
            words = words[1:]
        if inner := command.get_command(context, words[0]) if words else None:
            command, words = inner, words[1:]
        elif default := command.get_command(context, "make"):  # mllmu data RECIPE is mllmu data make RECIPE
            command = default
        else:
            break
    return command, words


def documented_commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``mllmu ...`` line of a code block, continuation lines joined, comments left out."""
    for page in PAGES:
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"; (?:do )?", line):
                    words = shlex.split(part.replace("$seed", "0"), comments=True)
                    while words and ("=" in words[0] or words[0] in ("torchrun", "accelerate")):
                        words = words[words.index("-m") + 1 :] if "-m" in words else words[1:]
                    if words and words[0].rpartition("/")[2] == "mllmu":
                        yield str(page.relative_to(ROOT)), words[1:]


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in documented_commands()]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_documented_command_exists_with_its_options(words: list[str]) -> None:
    command, left = command_of(words)
    assert not hasattr(command, "get_command") or words[0].startswith("-"), f"no command '{words[0]}'"
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    assert [word for word in left if word.startswith("--") and word.partition("=")[0] not in known] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_a_documented_recipe_takes_its_settings(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    recipe = next((word for word in words if word.startswith("recipes/")), "")
    overrides = [after for word, after in pairwise(words) if word == "--set"]
    if recipe and words[0] != "judge":
        assert load_all(Path(recipe), overrides)


def settings_in(model: type[BaseModel], key: str) -> bool:
    """Whether a dotted key leads to a setting; what lies in a plug-in or a mapping is taken as it is."""
    name, _, rest = key.partition(".")
    if name not in model.model_fields:
        return False
    inner = [each for each in parts(model.model_fields[name].annotation) if issubclass(each, BaseModel)]
    strict = [each for each in inner if each.model_config.get("extra") != "allow"]
    return not rest or not strict or any(settings_in(each, rest) for each in strict)


def parts(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from parts(part)


@pytest.mark.parametrize("section", ["data", "model", "finetune", "unlearn", "evaluate", "report"])
def test_a_setting_in_the_text_is_one_of_the_recipe(section: str) -> None:
    said = list(texts(rf"`({section}\.[a-z_]+(?:\.[a-z_]+)*)\b(?!\.?/)"))
    unknown = {(str(page), key) for page, key in said if not settings_in(Recipe, key)}
    files = {"data.json", "report.html", "model.json"}
    assert {(page, key) for page, key in unknown if key not in files} == set()


def test_a_path_in_the_text_exists() -> None:
    said = texts(r"`((?:mllmu|tests|recipes|examples|tools|constraints|docs)/[A-Za-z0-9_./*-]+)`")
    assert [(str(page), path) for page, path in said if not list(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize(
    ("page", "kind", "name"),
    [
        ("your-own-method", "methods", "my_method:Unlikelihood"),
        ("your-own-metric", "metrics", "my_metric:LengthError"),
        ("your-own-summary", "summaries", "my_summary:PeopleExposed"),
        ("your-own-benchmark", "benchmarks", "my_benchmark:ColourQuiz"),
        ("your-own-task", "tasks", "my_task:TrueOrFalse"),
    ],
)
def test_a_tutorial_shows_its_example_file_which_is_a_plugin(
    page: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    text = (DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    block = re.findall(r"(?ms)^```python\n(.*?)^```", text)[0]
    lines = (ROOT / "examples" / f"{name.partition(':')[0]}.py").read_text(encoding="utf-8").splitlines()
    assert [line for line in block.splitlines() if line.removesuffix('"""') not in lines and line not in lines] == []
    plugin = plugins.build(kind, name, {})
    assert plugin.source
    assert plugins.name_of(type(plugin)) == name


def asked(number: int) -> Sample:
    about = {"id": f"s{number}", "question_id": "q", "profile_id": f"p{number}", "attribute": "job", "value": "nurse"}
    how = {"split": "forget", "task": "generation", "modality": "text", "prompt": "?", "max_new_tokens": 8}
    return Sample.model_validate({**about, **how, "target": "She is a nurse."})


def test_the_metric_of_the_tutorial_is_best_at_the_true_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    metric = plugins.build("metrics", "my_metric:LengthError", {})

    def value(text: str) -> float:
        found = metric.value(asked(0), Response(sample_id="s0", text=text, num_tokens=1, finished=True))
        assert isinstance(found, float)
        return found

    best, silent, twice, rambles = map(value, ("A nurse in Riga.", "", "a b c d e f g h", "word " * 40))
    assert (metric.better, best, silent, twice, rambles) == ("lower", 0, 1, 1, 9)


def test_the_share_of_the_tutorial_has_an_interval_of_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    samples = {sample.id: sample for sample in map(asked, range(3))}
    right = {"right": {"s0": 1.0, "s1": 0.0, "s2": 0.0}}
    run = ScoredRun(samples=samples, values={"m": right}, responses={"m": {}}, average=list)
    (row,) = with_intervals([plugins.build("summaries", "my_summary:PeopleExposed", {})], run)
    assert row.low is not None and row.high is not None
    assert 0 <= row.low < 1 / 3 < row.high <= 1
