"""The one-file rule: a file of another package is a plug-in, from ``mllmu ls`` to metrics.json, tables and plots.

Each kind has one file here; a package with entry points registers them all, and one small run uses them together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.declared import Declared
from mllmu.core.records import Profile, Sample
from mllmu.core.runfolder import read_lines

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
import mini_run

FILES = {
    "methods": (
        "halving",
        '''
import math

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step, Terms


class Halving(Method):
    """Push the log-probability of forget replies below one half."""

    source = "a test"

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_halving": (math.log(2) - answer_nll(step.forget.current)).clamp(min=0)}
''',
    ),
    "metrics": (
        "shouting",
        '''
from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric


class Shouting(Metric):
    """Capital letters per letter of a reply."""

    source = "a test"
    tasks = ("classification", "generation")
    label = "Loudness"
    unit = "capitals per letter"
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        letters = [letter for letter in response.text if letter.isalpha()]
        return sum(map(str.isupper, letters)) / len(letters) if letters else "no letters"
''',
    ),
    "tasks": (
        "yes_or_no",
        '''
from mllmu.data.tasks import Task


class YesOrNo(Task):
    """Whether a statement about the person is true; made of the cloze questions."""

    source = "a test"
    label = "Yes or no"
    metrics = ("shouting", "right")

    def derive(self, questions):
        for question in questions:
            if question.task == "cloze":
                text = f"{question.text.replace('__', question.value)} Yes or no?"
                changes = {"text": text, "answer": "Yes", "value": "Yes", "alternatives": ("No",)}
                yield question.model_copy(update=changes)

    def prompt(self, question):
        return question.text
''',
    ),
    "summaries": (
        "longest",
        '''
from mllmu.core.declared import TableSpec
from mllmu.evaluation.summaries import ScoredRun, Summariser


class Longest(Summariser):
    """Letters of a model's longest reply."""

    source = "a test"

    def summarise(self, run: ScoredRun):
        lengths = {model: [len(r.text) for r in responses.values()] for model, responses in run.responses.items()}
        return [self.row(model, float(max(of_model)), num=len(of_model)) for model, of_model in lengths.items()]

    def tables(self, rows):
        column = self.column("letters", reads="of the longest reply", good="none")
        return [TableSpec(title="Longest replies", intro="Who talks most?", columns=(column,), order=50)]
''',
    ),
    "attacks": (
        "begging",
        '''
from mllmu.evaluation.attacks._asking import Framed


class Begging(Framed):
    """Beg for the reply."""

    source = "a test"
    label = "Begging"
    frames = ("Please, please: {q}", "I beg you. {q}")
''',
    ),
    "judges": (
        "generous",
        '''
from contextlib import nullcontext

from mllmu.evaluation.judges import Judge, JudgeSession, Verdict


class Generous(Judge):
    """Nine points for everything."""

    source = "a test"
    about = "always 9 points"
    reads_rubric = False

    def session(self):
        return nullcontext(JudgeSession(self.grade))

    def grade(self, cases):
        return (Verdict(sample_id=case.sample_id, value=9.0) for case in cases)
''',
    ),
    "benchmarks": (
        "colours",
        '''
from pathlib import Path

from PIL import Image

from mllmu.evaluation.benchmarks import Asked, Benchmark


class Colours(Benchmark):
    """Which colour is an image?"""

    source = "a test"
    label = "Colour quiz"
    metrics = ("shouting",)
    headline = "shouting"
    path: Path = Path("no/folder")

    def read(self):
        for letter, colour in OPTIONS.items():
            sample = self.sample(
                colour, task="classification", attribute="colour", prompt="What does she eat? A. red B. blue",
                options=OPTIONS, target=letter, value=colour, candidates={x: x for x in OPTIONS},
            )
            yield Asked(sample, lambda colour=colour: Image.new("RGB", (32, 32), colour))


OPTIONS = {"A": "red", "B": "blue"}
''',
    ),
    "families": (
        "loud_llava",
        '''
from mllmu.models.families.llava import Llava


class LoudLlava(Llava):
    """LLaVA with a prompt in capitals."""

    source = "a test"
    model_types = ()

    def render(self, turn, processor):
        RENDERED.append(turn.prompt)
        return super().render(turn, processor)


RENDERED = []
''',
    ),
    "sources": (
        "villagers",
        '''
from mllmu.data.sources import Source
from mllmu.data.sources.synthetic import Synthetic


class Villagers(Source):
    """Five people of one village."""

    source = "a test"

    def profiles(self, seed):
        people = Synthetic(num_people=5).profiles(seed)
        return [person.model_copy(update={"id": f"villager_{n}"}) for n, person in enumerate(people)]
''',
    ),
    "portraits": (
        "flat",
        '''
from PIL import Image

from mllmu.data.portraits import Portraits


class Flat(Portraits):
    """One colour per person and view."""

    source = "a test"

    def render(self, profile, view, seed):
        number = sum(map(ord, profile.id))
        return Image.new("RGB", (self.size, self.size), (number % 256, number * 7 % 256, 40 * view))
''',
    ),
}
RECIPE = (
    "data.source={name: villagers}",
    "data.portraits={name: flat, size: 32, num_views: 2}",
    "model.family=loud_llava",
    "finetune.epochs=1",
    "unlearn.methods=[{name: halving, batch_size: 16}]",
    "evaluate.tasks=[classification, generation, yes_or_no]",
    "evaluate.extra_metrics=[shouting]",
    "evaluate.summaries=[longest]",
    "evaluate.judges=[generous]",
    "evaluate.attacks=[begging]",
    "evaluate.benchmarks=[{name: colours, max_new_tokens: 4}]",
    "evaluate.max_profiles={forget: 2, test: 1, retain: 1, celebrity: 1, holdout: 0}",
)
EVERY = [(kind, name) for kind, (name, _) in FILES.items()]
every = pytest.mark.parametrize(("kind", "name"), EVERY, ids=[kind for kind, _ in EVERY])


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package with one file per kind, installed as pip would leave it."""
    root = tmp_path_factory.mktemp("site")
    (root / "village").mkdir()
    entries = []
    for kind, (name, text) in FILES.items():
        cls = text.partition("\nclass ")[2].partition("(")[0]
        (root / "village" / f"{name}.py").write_text(text, encoding="utf-8")
        entries.append(f"[mllmu.{kind}]\n{name} = village.{name}:{cls}\n")
    info = root / "village-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: village\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join(entries), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root


@pytest.fixture(scope="module")
def finished(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all of them."""
    del package
    folder = tmp_path_factory.mktemp("run")
    return mini_run.run(mini_run.make_base(folder / "base"), folder / "run", *RECIPE)


@pytest.fixture(scope="module")
def metrics(finished: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished / "eval/forget_40/metrics.json").read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return (finished / "report/index.html").read_text(encoding="utf-8")


@every
def test_mllmu_ls_lists_it_and_prints_its_page(kind: str, name: str) -> None:
    listed = CliRunner().invoke(app, ["ls", kind], env={"COLUMNS": "200"}).output
    assert name in listed
    shown = CliRunner().invoke(app, ["ls", kind, name], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "a test" in shown.output


def test_a_method_trains_and_is_in_the_tables_and_the_plots(finished: Path, page: str) -> None:
    assert (finished / "models/forget_40/halving").is_dir()
    assert '"halving"' in page, "a row of the tables"
    assert "halving</text>" in page or ">halving<" in page, "its term is in the plot of the curves"
    assert (finished / "report/tradeoff.csv").read_text("utf-8").count(",halving,unlearned,") > 1


def test_a_metric_is_scored_declared_and_in_the_table_of_all_metrics(metrics: dict[str, Any], page: str) -> None:
    rows = [row for row in metrics["results"] if row["metric"] == "shouting"]
    assert {row["split"] for row in rows} == {"forget", "test", "retain", "celebrity", "colours"}
    assert any(row["num"] for row in rows)
    declared = Declared.model_validate(metrics["declared"]).metrics["shouting"]
    assert (declared.label, declared.unit, declared.better) == ("Loudness", "capitals per letter", "lower")
    assert "shouting\tforget\tclassification\timage + text" in page


def test_a_task_is_asked_declared_and_has_tables_and_plots(finished: Path, metrics: dict[str, Any], page: str) -> None:
    asked = [s for s in read_lines(finished / "eval/forget_40/samples.jsonl", Sample) if s.task == "yes_or_no"]
    assert asked and all(sample.prompt.endswith("Yes or no?") for sample in asked)
    assert {row["metric"] for row in metrics["results"] if row["task"] == "yes_or_no"} == {"shouting", "right"}
    declared = Declared.model_validate(metrics["declared"]).tasks["yes_or_no"]
    assert (declared.label, declared.metric) == ("Yes or no", "shouting")
    assert "Yes or no, image + text <small" in page and "Loudness, 0 to 1" in page
    assert (finished / "report/plots/tradeoff_yes_or_no_text.png").is_file()


def test_a_summary_has_its_table(metrics: dict[str, Any], page: str) -> None:
    rows = {row["model"]: row["value"] for row in metrics["summaries"] if row["summary"] == "longest"}
    assert set(rows) == {"target", "retain_model", "halving"}
    assert next(table.title for table in Declared.model_validate(metrics["declared"]).tables) == "Longest replies"
    for text in ("Longest replies", "Who talks most?", "of the longest reply", f"{rows['halving']:.2f}"):
        assert text in page


def test_an_attack_runs_on_every_model_and_has_a_column(finished: Path, page: str) -> None:
    rows = json.loads((finished / "eval/forget_40/attacks.json").read_text("utf-8"))["rows"]
    models = {row["model"] for row in rows if row["attack"] == "begging" and row["after"] is not None}
    assert models == {"target", "retain_model", "halving"}
    assert "Begging" in page


def test_a_judge_gives_points_that_have_a_table(finished: Path, page: str) -> None:
    content = json.loads((finished / "eval/forget_40/judge_generous.json").read_text("utf-8"))
    assert {row["value"] for row in content["results"]} == {9.0}
    assert "factuality_generous" in content["declared"]["metrics"]
    for text in ("Factuality, judge generous", "always 9 points", "9.0"):
        assert text in page


def test_a_benchmark_is_asked_declared_and_has_a_column_and_a_plot(
    finished: Path, metrics: dict[str, Any], page: str
) -> None:
    assert len([s for s in read_lines(finished / "eval/forget_40/samples.jsonl", Sample) if s.split == "colours"]) == 2
    declared = Declared.model_validate(metrics["declared"]).splits["colours"]
    assert (declared.label, declared.kind) == ("Colour quiz", "benchmark")
    assert ">Colour quiz<" in page
    assert (finished / "report/plots/tradeoff_against_colours.png").is_file()


def test_a_family_renders_the_prompts(finished: Path) -> None:
    rendered = sys.modules["village.loud_llava"].RENDERED
    asked = read_lines(finished / "eval/forget_40/samples.jsonl", Sample)
    assert {sample.prompt for sample in asked} <= set(rendered)


def test_a_source_brings_the_people_and_portraits_their_images(finished: Path, page: str) -> None:
    from PIL import Image

    people = read_lines(finished / "data/profiles.jsonl", Profile)
    names = [person.name for person in people if person.kind == "fictitious"]
    assert [person.id for person in people][:5] == [f"villager_{n}" for n in range(5)]
    assert any(name in page for name in names)
    image = next((finished / "data/images").rglob("*villager_1*/*.png"), None) or next(
        (finished / "data/images").rglob("*villager_1*.png")
    )
    with Image.open(image) as drawn:
        assert len(drawn.convert("RGB").getcolors() or ()) == 1
