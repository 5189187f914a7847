"""Every command of README and docs: carried out word for word, or listed with the test that does the same in small.

:data:`COMMANDS` has a row for each; a command that no row matches fails, and so does a row that matches no command.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import mini_run
import pytest
from PIL import Image
from typer.testing import CliRunner

from mllmu.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = ("reference/commands.md",)

# What carries a command out:
HERE = "test_a_command_that_needs_no_run"
SMALL = "test_a_command_on_a_small_run: runs/demo is there, made small and with the models of the demo"
TUTORIAL = "test_the_commands_of_a_tutorial_in_their_order (slow)"
# or why it is not carried out word for word; what it does is tested by the file that is named:
SHELL = "not ours: installs, keys, folders"
MINUTES = "takes minutes; the same command in small: "
HUB = "needs the hub, published weights and a GPU; in small: "
CLUSTER = "needs a cluster, or an extra that is not installed in every environment: "
ENDPOINT = "needs an endpoint or weights of a judge; with a server on loopback: "
PEOPLE = "needs the files of the commands before it on its page, which take minutes; in small: "
FORM = "a form with placeholders; filled in: "

COMMANDS: tuple[tuple[str, str], ...] = (
    ("make *", "the Makefile; CI runs it"),
    ("pip install *", SHELL),
    ("python3 -m venv *", SHELL),
    ("openssl *", SHELL),
    ("chmod *", SHELL),
    ("printf *", SHELL),
    ("export *", SHELL),
    ("cp -r *", SHELL),
    ("rm -rf *", SHELL),
    ("cd /shared *", CLUSTER + "tests/unit/test_parallel_engines.py"),
    ("inspect view *", "not ours: inspect_ai's own viewer"),
    ("tensorboard *", "not ours: TensorBoard's own viewer"),
    ("lmms_eval *", "not ours: another evaluator, which needs the hub"),
    ("python -m benchmarks.gpu", "needs a GPU: tests/unit/test_benchmarks_gpu.py"),
    ("python -m benchmarks.engine", "ten minutes of timing; not run by tests"),
    ("torchrun *", CLUSTER + "tests/pipeline/test_pipeline_processes.py"),
    ("accelerate launch *", CLUSTER + "tests/pipeline/test_pipeline_processes.py"),
    ("for seed in *", MINUTES + "tests/pipeline/test_pipeline_seeds.py"),
    # tutorials, slow
    ("mllmu run smoke --out runs/*", TUTORIAL),
    ("mllmu score smoke --out runs/my-*", TUTORIAL),
    ("mllmu report smoke --out runs/my-*", TUTORIAL),
    ("mllmu ls methods my_method:Unlikelihood", HERE),
    # without a run
    ("mllmu --version", HERE),
    ("mllmu ls runs", SMALL),
    ("mllmu ls *", HERE),
    ("mllmu init *", HERE),
    ("mllmu validate paper_grid", HUB + "tests/unit/test_config_grid.py"),
    ("mllmu validate *", HERE),
    ("mllmu plan *", HUB + "tests/unit/test_planning_plan.py"),
    ("mllmu doctor smoke", "loads the model and looks at 960 prompts: tests/pipeline/test_pipeline_doctor.py"),
    # on a run that is there
    ("mllmu status *", SMALL),
    ("mllmu ask *", SMALL),
    ("mllmu export-model runs/demo forget_25/* exported/* --push *", HUB + "tests/unit/test_core_hub.py"),
    ("mllmu export-model runs/demo *", SMALL),
    ("mllmu export-tasks runs/demo logs --for inspect", CLUSTER + "tests/pipeline/test_pipeline_other_tools.py"),
    ("mllmu export-tasks *", SMALL),
    ("mllmu data demo --export datasets --export-dir exported --push *", HUB + "tests/unit/test_core_hub.py"),
    ("mllmu view *", "serves until it is stopped: tests/unit/test_explorer_server.py"),
    ("mllmu pool runs/demo runs/t1 *", MINUTES + "tests/pipeline/test_pipeline_seeds.py"),
    ("mllmu pool *", SMALL),
    ("mllmu board *", SMALL),
    ("mllmu layers demo", MINUTES + "tests/pipeline/test_pipeline_layers.py"),
    ("mllmu attack *", MINUTES + "tests/pipeline/test_pipeline_attacks.py"),
    # runs
    ("mllmu run smoke", MINUTES + "tests/pipeline/test_pipeline_whole.py"),
    ("mllmu run smoke --set seed=1 --out runs/alone", CLUSTER + "tests/pipeline/test_pipeline_sweep.py"),
    ("mllmu run smoke --set finetune.micro_batch_size=4 *", MINUTES + "tests/unit/test_training_loop.py"),
    ("mllmu run smoke --set model.path=/models/*", HUB + "tests/contract/test_families_contract.py"),
    ("mllmu run demo --log-with *", CLUSTER + "tests/pipeline/test_pipeline_tracking.py"),
    ("mllmu run demo*", MINUTES + "tests/pipeline/test_pipeline_variants.py"),
    ("mllmu run attacks", MINUTES + "tests/pipeline/test_pipeline_attacks.py"),
    ("mllmu run protocol_effects", MINUTES + "tests/pipeline/test_pipeline_protocols.py"),
    ("mllmu paper *", MINUTES + "tests/pipeline/test_pipeline_paper.py"),
    ("mllmu tune *", MINUTES + "tests/pipeline/test_pipeline_tune.py"),
    ("mllmu trust *", MINUTES + "tests/pipeline/test_pipeline_trust.py"),
    ("mllmu run llava15_7b_forget05 *", HUB + "tests/unit/test_models_vllm.py"),
    ("cmp runs/sweep/*", CLUSTER + "tests/pipeline/test_pipeline_sweep.py"),
    ("mllmu sweep *", CLUSTER + "tests/pipeline/test_pipeline_sweep.py"),
    # data
    ("mllmu data demo --export datasets *", MINUTES + "tests/pipeline/test_pipeline_other_tools.py"),
    ("mllmu data demo --contact-sheet", MINUTES + "tests/unit/test_portraits_contact_sheet.py"),
    ("mllmu data demo --set data.source.num_people=20 *", MINUTES + "tests/unit/test_data_published_export.py"),
    ("mllmu data my.yaml --dry-run", FORM + "tests/pipeline/test_pipeline_factory.py"),
    ("mllmu data my.yaml *", FORM + "tests/pipeline/test_pipeline_factory.py"),
    ("mllmu run my.yaml", FORM + "tests/pipeline/test_pipeline_factory.py"),
    ("mllmu data review runs/mine", FORM + "tests/unit/test_data_review.py"),
    ("mllmu data people --contact-sheet", PEOPLE + "tests/pipeline/test_pipeline_people.py"),
    ("mllmu data search *", PEOPLE + "tests/pipeline/test_pipeline_people.py"),
    ("mllmu data reveal *", PEOPLE + "tests/pipeline/test_pipeline_people.py"),
    ("mllmu data review runs/people", PEOPLE + "tests/unit/test_data_review.py"),
    ("mllmu run people*", PEOPLE + "tests/pipeline/test_pipeline_people.py"),
    ("mllmu data RECIPE --export mllmu-bench *", FORM + "tests/unit/test_data_published_export.py"),
    ("mllmu evaluate *", FORM + "tests/unit/test_published_parity.py"),
    ("mllmu export-model runs/published *", HUB + "tests/pipeline/test_pipeline_export_model.py"),
    ("mllmu get smol*", "fetches 93 MB: tests/unit/test_models_smol.py"),
    ("mllmu get mllmu-bench --from COPY", FORM + "tests/unit/test_data_text_copy.py"),
    ("mllmu run mllmu_bench *", FORM + "tests/unit/test_data_source_mllmu_bench.py"),
    ("mllmu run published*", HUB + "tests/unit/test_data_source_published.py"),
    ("mllmu run paper_grid*", HUB + "tests/pipeline/test_pipeline_grid.py"),
    # judges
    ("mllmu judge smoke", MINUTES + "tests/unit/test_judge_run.py"),
    ("mllmu judge smoke --judge *", ENDPOINT + "tests/unit/test_judge_run.py"),
    # requests for deletion, one after the other
    ("mllmu run deletion --only finetune --out deployed", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
    ("mllmu export-model deployed target model", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
    ("mllmu export-model requests deployed *", PEOPLE + "tests/pipeline/test_pipeline_forget_base.py"),
    ("mllmu forget model *", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
    ("mllmu forget requests *", PEOPLE + "tests/pipeline/test_pipeline_forget_twice.py"),
    ("mllmu verify *", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
    ("mllmu requests *", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
    ("mllmu rollback *", PEOPLE + "tests/pipeline/test_pipeline_forget.py"),
)
"""Pattern of a command -> what carries it out; the first that matches counts."""


class Command(NamedTuple):
    """A command of a page as words, without variables of the environment and the path of the program."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def row(self) -> tuple[str, str] | None:
        """The first row of the table that matches."""
        return next((row for row in COMMANDS if fnmatchcase(self.text, row[0])), None)


def commands() -> Iterator[Command]:
    """Every command in a shell block of every page."""
    for page in PAGES:
        name = page.relative_to(DOCS if DOCS in page.parents else ROOT).as_posix()
        if name in GENERATED:
            continue
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words and not words[0].startswith("--"):  # a line of further options
                    yield Command(name, (words[0].rpartition("bin/")[2], *words[1:]))


EVERY = list(commands())


def carried_out(by: str) -> list[Command]:
    return list(dict.fromkeys(c._replace(page="") for c in EVERY if c.row and c.row[1] == by))


def test_every_command_is_carried_out_or_says_why_not() -> None:
    unknown = [f"{command.page}: {command.text}" for command in EVERY if command.row is None]
    assert not unknown, "add a row to COMMANDS"


def test_every_row_of_the_table_has_a_command_and_its_test_is_there() -> None:
    used = {command.row for command in EVERY}
    assert [pattern for pattern, how in COMMANDS if (pattern, how) not in used] == []
    named = {path for _, how in COMMANDS for path in re.findall(r"tests/\S+\.py", how)}
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_packaged_recipes_are_named_as_they_are_named_after_an_installation() -> None:
    """``mllmu run demo`` works in every folder, ``recipes/demo.yaml`` in that of a clone alone."""
    assert [f"{c.page}: {c.text}" for c in EVERY if c.words[0] == "mllmu" and "recipes/" in c.text] == []


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples of a clone; packaged recipes are found by their names."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return tmp_path


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text[:60]) for c in carried_out(HERE)])
def test_a_command_that_needs_no_run(clone: Path, command: Command) -> None:
    done = CliRunner().invoke(app, command.words[1:])
    assert done.exit_code == 0 and done.output.strip(), done.output


LIKE_THE_DEMO = (
    "name=demo", "data.splits.forget_ratios=[0.25]",
    "unlearn.methods=[{name: npo, modality: [image_text, text, both], epochs: 1}, prompting]",
)  # fmt: skip
"""Makes the models whose names the pages say, in seconds."""


@pytest.fixture(scope="module")
def demo(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with the models of the demo; do not write into it."""
    return mini_run.run(base, tmp_path_factory.mktemp("demo") / "demo", *LIKE_THE_DEMO)


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text[:60]) for c in carried_out(SMALL)])
def test_a_command_on_a_small_run(clone: Path, demo: Path, command: Command) -> None:
    """The runs that pages name differ in the seed, runs/paper-grid in a setting; the replies are those of one run."""
    for number, name in enumerate(("demo", "demo_0", "demo_1", "demo_2", "paper-grid")):
        shutil.copytree(demo, clone / "runs" / name)
        recipe = clone / "runs" / name / "recipe.yaml"
        text = re.sub(r"(?m)^seed: 0$", f"seed: {number}", recipe.read_text(encoding="utf-8"))
        recipe.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.02") if name == "paper-grid" else text)
    Image.new("RGB", (32, 32)).save(clone / "photo.png")
    done = CliRunner().invoke(app, command.words[1:])
    assert done.exit_code == 0 and done.output.strip(), done.output


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({c.page for c in EVERY if c.row and c.row[1] == TUTORIAL}))
def test_the_commands_of_a_tutorial_in_their_order(clone: Path, page: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    for command in (c for c in EVERY if c.page == page and c.row and c.row[1] in (TUTORIAL, HERE)):
        call = [sys.executable, "-m", *command.words]
        done = subprocess.run(call, cwd=clone, env=environment, capture_output=True, encoding="utf-8", timeout=1800)
        assert done.returncode == 0, f"{command.text}\n{done.stderr[-2000:]}"
