"""Attacks on a finished mini run: units, numbers, report and command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mini_run
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import attacks_tiny
from mllmu.cli.app import app
from mllmu.cli.attack import attacked_recipe
from mllmu.config.load import load, parse
from mllmu.core.attacked import AttackReply, AttackResults
from mllmu.core.content import sha256
from mllmu.core.errors import PluginError, RecipeError, RunStoreError
from mllmu.core.lock import held
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import dump_lines, read_json, read_lines, seal, write_json
from mllmu.evaluation.attacks import AttackPoint
from mllmu.evaluation.attacks._images import Depicting
from mllmu.pipeline.attacks import AttackStudy, attack_jobs
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.of_models import fingerprints
from mllmu.pipeline.reading import ReadingStore
from mllmu.pipeline.report import studies
from mllmu.pipeline.run import Run
from mllmu.studies.verify import recount_attacks

ATTACKS = "evaluate.attacks=[{name: relearn_forget, steps: 2}, remove_prompt]"


@pytest.fixture(scope="module")
def root(base: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, evaluated once more with attacks."""
    folder = tmp_path_factory.mktemp("attacks") / "run"
    shutil.copytree(finished, folder)
    return mini_run.run(base, folder, ATTACKS)


def results(root: Path) -> AttackResults:
    return AttackResults.model_validate(read_json(root / "eval/forget_40/attacks.json", sealed=True))


def test_every_attack_has_a_row_for_every_model(root: Path) -> None:
    found = results(root)
    assert [(row.model, row.attack) for row in found.rows] == [
        (model, attack) for model in mini_run.MODELS for attack in ("plain", "relearn_forget", "remove_prompt")
    ]
    assert {(row.model, row.access) for row in found.worst} == {
        (model, access) for model in mini_run.MODELS for access in ("black box", "white box")
    }
    done = [row for row in found.rows if not row.reason]
    assert all(row.after is not None and row.unit == "facts" and row.num == 16 for row in done)
    assert {row.model for row in found.rows if row.reason} == {"ga", "npo"}, "they put nothing beside the weights"
    assert all(len(row.curve) == 3 for row in found.rows if row.attack == "relearn_forget")


def test_the_scores_as_one_file_give_the_same_numbers(root: Path) -> None:
    text = attacks_tiny.export(root)
    rows, worst = attacks_tiny.results(attacks_tiny.read(text))
    assert (tuple(rows), tuple(worst)) == (results(root).rows, results(root).worst)
    shown = attacks_tiny.tables(text)
    assert "n. s." in shown and "- `remove_prompt` on ga, npo: the method changed the weights" in shown


def test_the_retain_model_and_its_copy_have_no_excess(root: Path) -> None:
    rows = [row for row in results(root).rows if row.model in ("retain_model", "retrain")]
    assert len(rows) == 6 and {row.excess for row in rows} == {0.0}


def test_a_second_attack_on_the_copy_gives_the_points_of_the_retain_model(root: Path, base: Path) -> None:
    """Not taken over, but attacked again: the same seed and budget give the same numbers under another name."""
    study = AttackStudy(Run(parse(mini_run.settings(base, ATTACKS)), root, SilentProgress()), "40")
    study.attack("relearn_forget", "retrain")
    one, two = (study.unit("relearn_forget", m).folder / "points.jsonl" for m in ("retrain", "retain_model"))
    assert read_lines(one, AttackPoint) == read_lines(two, AttackPoint)


def test_a_model_whose_prompt_forgets_is_the_target_again_without_it(root: Path) -> None:
    by_place = {(row.model, row.attack): row for row in results(root).rows}
    assert by_place["prompting", "remove_prompt"].after == by_place["target", "plain"].after


def test_finished_attacks_are_not_repeated_and_the_report_shows_them(root: Path, base: Path) -> None:
    before = mini_run.unit_times(root)
    assert sum(name.startswith("attacks/forget_40/small/") for name in before) >= 3 * 5, "retrain is the retain_model"
    mini_run.run(base, root, ATTACKS)
    assert {name: time for name, time in mini_run.unit_times(root).items() if name in before} == before
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert 'id="attacks"' in page and "Relearn: forget facts" in page
    assert "no longer behaviourally accessible under these attacks" in page
    assert (root / "report/plots/attacks.png").is_file()


WIDE = {"COLUMNS": "160"}
"""A terminal in which no heading is broken into lines."""


def test_the_command_attacks_a_finished_run(root: Path) -> None:
    done = CliRunner().invoke(app, ["attack", str(root), "--attacks", "remove_prompt", "--budget", "full"], env=WIDE)
    assert done.exit_code == 0, done.output
    assert "over retain" in done.output and "report:" in done.output
    assert results(root).budget == "full"
    assert (root / "attacks/forget_40/full/remove_prompt/npo/points.jsonl").is_file()
    assert (root / "attacks/forget_40/small/remove_prompt/npo/points.jsonl").is_file(), "the other budget stays"


HOW = (
    "finetune.micro_batch_size=3", "finetune.checkpoint_every_s=10", "unlearn.micro_batch_size=3",
    "unlearn.reference_mib=0", "evaluate.batch_size=2", "model.gradient_checkpointing=false", "report.num_examples=1",
)  # fmt: skip


def test_how_it_is_computed_makes_no_other_unit(root: Path, base: Path) -> None:
    before = mini_run.unit_times(root)
    mini_run.run(base, root, ATTACKS, *HOW)
    assert mini_run.unit_times(root) == before


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Everything in a folder: when it was written, and what is in it."""
    files = mini_run.fingerprints(root, "**/*")
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return {name: ((root / name).stat().st_mtime_ns, files.get(name, "")) for name in paths}


@pytest.fixture(scope="module")
def once(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose recipe names no attacks, attacked with the larger budget."""
    folder = tmp_path_factory.mktemp("attacked") / "run"
    shutil.copytree(finished, folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    done = CliRunner().invoke(app, ["attack", str(folder), "--attacks", "remove_prompt", "--budget", "full"])
    assert done.exit_code == 0, done.output
    assert torch.get_num_threads() == read_json(folder / "run.json")["hardware"]["threads"] == 1
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def attacked(once: Path, tmp_path: Path) -> Path:
    shutil.copytree(once, tmp_path / "run")
    return tmp_path / "run"


def test_verify_counts_the_attacks_that_were_made_and_writes_nothing(attacked: Path, base: Path) -> None:
    assert load(attacked / "recipe.yaml").evaluate.attacks == ()
    assert (results(attacked).attacks, results(attacked).budget) == (({"name": "remove_prompt"},), "full")
    before = tree(attacked)
    done = CliRunner().invoke(app, ["verify", str(attacked)])
    assert done.exit_code == 0 and "12 results of attacks computed again" in done.output, done.output
    assert tree(attacked) == before
    with held(attacked):
        mini_run.run(base, attacked, "unlearn.methods=[ga]")
    done = CliRunner().invoke(app, ["verify", str(attacked)])
    assert done.exit_code == 0 and "12 results of attacks computed again" in done.output, done.output


def test_verify_names_a_changed_result_of_an_attack_and_an_attack_that_is_gone(attacked: Path) -> None:
    path = attacked / "eval/forget_40/attacks.json"
    record = read_json(path, sealed=True)
    record["rows"][1]["num"] += 1
    write_json(path, seal(record))
    with pytest.raises(RunStoreError, match=r"rows\.1\.num: 17 is stored, computed again it is 16"):
        recount_attacks(reading(attacked), "40")
    record["attacks"] = [{"name": "remove_prompt"}, {"name": "paraphrase"}]
    write_json(path, seal(record))
    before = tree(attacked)
    with pytest.raises(RunStoreError, match="paraphrase/target is not there, and this command only reads"):
        recount_attacks(reading(attacked), "40")
    assert tree(attacked) == before
    for odd, said in ((3, "attacks: "), ([{"name": 3}], "name: ")):
        write_json(path, seal(record | {"attacks": odd}))
        with pytest.raises(RunStoreError, match=rf"attacks\.json: damaged \({said}"):
            recount_attacks(reading(attacked), "40")


def test_verify_judges_the_replies_of_attacks_again(root: Path, tmp_path: Path) -> None:
    """A score that its reply does not give is found, whether it stands beside the reply, at the end, or is right."""
    shutil.copytree(root, tmp_path / "run")
    unit = tmp_path / "run/attacks/forget_40/small/relearn_forget/npo"
    points, replies = (
        read_lines(unit / n, k) for n, k in (("points.jsonl", AttackPoint), ("replies.jsonl", AttackReply))
    )
    said = recount_attacks(reading(tmp_path / "run"), "40")
    assert int(said.split(", from ")[1].split()[0]) >= 5 * len(replies), "of plain questions and of 5 models"
    name, value = next(iter(points[-1].values.items()))
    better = points[-1].model_copy(update={"values": {**points[-1].values, name: 1 - value}})
    first, told = replies[0], replies[0].value
    changes = {
        f"points.jsonl: {name}: {1 - value} is stored, computed again it is {value}": ([better], replies),
        f"replies.jsonl: {first.sample_id}: value: {1 - told} is stored, computed again it is {told}": (
            points, [first.model_copy(update={"value": 1 - told}), *replies[1:]]),
        "replies.jsonl: forget/nobody is no question": (
            points, [first.model_copy(update={"sample_id": "forget/nobody"}), *replies[1:]]),
    }  # fmt: skip
    for said, (some, others) in changes.items():
        forge(unit, {"points.jsonl": dump_lines(some), "replies.jsonl": dump_lines(others)})
        with pytest.raises(RunStoreError, match=re.escape(said)):
            recount_attacks(reading(tmp_path / "run"), "40")


def forge(unit: Path, texts: dict[str, str]) -> None:
    """Write files of a unit anew, and their digests with them."""
    record = read_json(unit / "unit.json", sealed=True)
    for name, text in texts.items():
        (unit / name).write_text(text)
        record["files"][name] = sha256(unit / name)
    write_json(unit / "unit.json", seal(record))


def test_a_file_that_does_not_say_which_attacks_is_compared_with_those_of_the_recipe(
    root: Path, base: Path, attacked: Path
) -> None:
    """As earlier versions wrote it."""
    mini_run.run(base, root, ATTACKS)
    for folder in (root, attacked):
        record = read_json(folder / "eval/forget_40/attacks.json", sealed=True)
        del record["attacks"]
        write_json(folder / "eval/forget_40/attacks.json", seal(record))
        assert results(folder).attacks is None
    assert recount_attacks(reading(root), "40").startswith("40 %: 18 results of attacks computed again, from ")
    said = recount_attacks(reading(attacked), "40")
    assert "not computed again: attacks.json does not say which; 'mllmu attack' writes it anew" in said


def reading(root: Path) -> Run:
    run = Run(load(root / "recipe.yaml"), root, SilentProgress())
    run.store = ReadingStore(root)
    return run


def test_a_folder_without_a_run_and_an_unknown_attack_are_told(root: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["attack", str(tmp_path)])
    assert done.exit_code == 2 and "no run in this folder" in done.output
    done = CliRunner().invoke(app, ["attack", str(root), "--attacks", "relearn_forgot"])
    assert done.exit_code == 2 and "relearn_forget" in done.output


def test_attacks_of_a_recipe_are_checked_and_numbered(base: Path) -> None:
    recipe = parse(mini_run.settings(base, "evaluate.attacks=[relearn_forget, {name: relearn_forget, adapters: full}]"))
    assert [job.name for job in attack_jobs(recipe.evaluate.attacks)] == ["plain", "relearn_forget", "relearn_forget_2"]
    every = parse(mini_run.settings(base, "evaluate.attacks=[all]"))
    assert "remove_prompt" in [job.name for job in attack_jobs(every.evaluate.attacks)]
    with pytest.raises(
        RecipeError, match=r"evaluate\.attacks\.step: unknown setting of 'relearn_forget'\. Did you mean"
    ):
        parse(mini_run.settings(base, "evaluate.attacks=[{name: relearn_forget, step: 1}]"))
    with pytest.raises(PluginError, match="attacks: no 'relearn'"):
        parse(mini_run.settings(base, "evaluate.attacks=[relearn]"))


def test_pictures_of_attacks_are_of_the_people_of_today(finished: Path, base: Path, tmp_path: Path) -> None:
    """The data of a run are made anew with another seed: nothing that was drawn of the earlier people is shown."""
    folder = shutil.copytree(finished, tmp_path / "run")

    def pictures(*overrides: str) -> set[bytes]:
        """All that attacks show, on the run as it is now."""
        chosen = "evaluate.attacks=[changed_picture, typographic]"
        run = Run(parse(mini_run.settings(base, chosen, *overrides)), folder, SilentProgress())
        study = AttackStudy(run, "40")
        victim = study._victim(study.unit("plain", "target"), "plain", run.ref("40", "target"))
        shown = set()
        for job in study.jobs.values():
            if isinstance(job.attack, Depicting):
                shown |= {Path(one.image).read_bytes() for s in study.samples for one in job.attack.samples(victim, s)}
        return shown

    before = pictures()
    assert pictures() == before
    mini_run.run(base, folder, "seed=1", only="data", force=True)
    after = pictures("seed=1")
    assert before and after and not before & after


def test_earlier_attacks_stay_beside_a_further_one_as_long_as_the_models_are_the_same(
    root: Path, base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(root, tmp_path / "run")
    mini_run.run(base, folder, ATTACKS)
    before = results(folder)
    units = {name: time for name, time in mini_run.unit_times(folder).items() if "forget_40/small/" in name}
    done = CliRunner().invoke(app, ["attack", str(folder), "--attacks", "in_context"], env=WIDE)
    assert done.exit_code == 0, done.output
    both = results(folder)
    assert both.attacks == (*(before.attacks or ()), {"name": "in_context"})
    assert [row for row in both.rows if row.attack != "in_context"] == list(before.rows)
    assert {name: time for name, time in mini_run.unit_times(folder).items() if name in units} == units
    assert recount_attacks(Run(parse(mini_run.settings(base)), folder, SilentProgress()), "40").endswith("again")
    write_json(folder / "eval/forget_40/attacks.json", seal({**both.model_dump(mode="json"), "models": {"npo": "x"}}))
    again = [spec.name for spec in attacked_recipe(folder, "remove_prompt", None).evaluate.attacks]
    assert again == ["remove_prompt"], "the others were on another model"


def test_what_was_found_of_models_that_were_replaced_is_left_out_with_a_warning(
    root: Path, base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(root, tmp_path / "run")
    evaluation = Evaluation(Run(parse(mini_run.settings(base, ATTACKS)), folder, SilentProgress()), "40")
    attacks, now = results(folder).model_dump(mode="json"), fingerprints(evaluation.run, "40", mini_run.MODELS)
    assert attacks["models"] == now
    control = {
        "split": "forget", "modality": "text", "control": "options_only", "num": 1, "num_units": 1, "unit": "facts",
        **dict.fromkeys(("asked", "score", "difference", "low", "high", "p_value")),
    }  # fmt: skip
    rows = [{"model": model, **control} for model in ("npo", "gone")]
    trust = {"pool": 2, "bits": 4, "key": "40", "rows": []}

    def shown(**models: str) -> tuple[set[str], list[str]]:
        """The sections of the report where every record says that it was made of these models."""
        of = {"models": models} if models else {}
        write_json(folder / "eval/forget_40/attacks.json", seal({**attacks, "models": None, **of}))
        write_json(folder / "controls/forget_40/controls.json", seal({"rows": rows, **of}))
        write_json(folder / "trust/trust.json", seal({**trust, **of}))
        sections, warnings = studies(evaluation)
        assert "controls" not in sections or [row.model for row in sections["controls"].rows] == ["npo"]
        return set(sections), warnings

    every = {"attacks", "controls", "trust"}
    assert shown() == (every, []), "of earlier versions, which do not say"
    assert shown(**now) == (every, [])
    assert shown(**now, gone="f" * 16) == (every, []), "the recipe does not name it"
    sections, warnings = shown(**now | {"ga": "f" * 16})
    assert not sections and len(warnings) == 3
    assert warnings[0] == (
        "Attacks are not shown: these models were replaced since they were made: ga. Run 'mllmu attack' again."
    )
