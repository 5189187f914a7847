"""Attacks on the models of a run: every attack on every model is a unit, and their numbers are ``attacks.json``.

All models get the same questions, budget and seed. The questions are open ones about the people to forget (cloze and
sentences), put under the plain protocol whatever the recipe's: an attack must make the model say the fact, and gains
nothing by guessing among options.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, get_args

from mllmu.config.protocol import Protocol
from mllmu.config.recipe import Finetune, PluginSpec, Recipe
from mllmu.config.variants import HOW_COMPUTED, named_attacks
from mllmu.core.attacked import PLAIN, Access, AttackPoint, AttackResults, AttackRow, WorstCase
from mllmu.core.errors import UnfitPromptError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import Progress, derive, rng
from mllmu.core.records import ModelRef, Sample
from mllmu.core.runfolder import (
    RunFolder,
    Unit,
    digest,
    dump_lines,
    read_json,
    read_lines,
    seal,
    write_atomic,
    write_json,
)
from mllmu.evaluation import yardstick
from mllmu.evaluation.attacks import BUDGETS, Attack, NotAttackableError, Victim
from mllmu.evaluation.attacks._searching import Searching
from mllmu.evaluation.inside import NoStatesError
from mllmu.evaluation.recovery import Attacked, Tries, attack_row, worst_case
from mllmu.evaluation.stats import unit_of, units_of
from mllmu.parallel.pool import WorkerPool, is_worker
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.of_models import fingerprints
from mllmu.pipeline.record import settle_threads, settle_worker
from mllmu.pipeline.run import Run

FILE, REASON = "points.jsonl", "reason.json"
HOW_BY_DEFAULT = {name: Finetune.model_fields[name].default for name in HOW_COMPUTED["finetune"]}
"""An attack depends on none of these; its unit holds their defaults, as units of earlier versions do."""


class AttackJob(NamedTuple):
    """An attack of a recipe; without one the questions are asked plainly. Its name is that of its unit."""

    name: str
    attack: Attack | None


def attack_jobs(specs: Sequence[PluginSpec]) -> list[AttackJob]:
    """The attacks of a recipe, with the names of :func:`mllmu.config.variants.named_attacks`, behind no attack."""
    named = enumerate(named_attacks(specs).items())
    built = [AttackJob(name, spec.build("attacks", f"evaluate.attacks[{n}]")) for n, (name, spec) in named]
    return [AttackJob(PLAIN, None), *built]


class AttackStudy:
    """The attacks of a recipe on the models of one forget ratio.

    Args:
        run: a run whose models are made.
        key: the forget ratio in percent.
        models: names of the models that are compared; default: those of the run.
    """

    def __init__(self, run: Run, key: str, models: Sequence[str] = ()) -> None:
        self.run = run
        self.key = key
        self.compared = [*models] or run.models
        self.budget = run.recipe.evaluate.attack_budget
        self.specs = tuple(named_attacks(run.recipe.evaluate.attacks).values())
        self.jobs = {job.name: job for job in attack_jobs(self.specs)}
        self.samples = questions(run, key, BUDGETS[self.budget].questions)
        if RETAIN_MODEL not in self.compared:  # the same is tried on people whom no model was taught
            self.samples += questions(run, key, BUDGETS[self.budget].questions, split=yardstick.HOLDOUT)
        self._digest = digest(dump_lines(self.samples))

    @cached_property
    def same(self) -> dict[str, str]:
        """For every model, the first that is the same: a model can have two names."""
        refs = [self.run.ref(self.key, model) for model in self.compared]
        return {model: self.compared[refs.index(ref)] for model, ref in zip(self.compared, refs, strict=True)}

    @property
    def models(self) -> list[str]:
        """The models under attack, each once."""
        return list(dict.fromkeys(self.same.values()))

    def unit(self, name: str, model: str) -> Unit:
        """The unit of an attack on a model."""
        attack, made = self.jobs[name].attack, partial(RunFolder.model_unit, self.key)
        training = self.run.recipe.finetune.model_copy(update=HOW_BY_DEFAULT)
        inputs = {
            "model": self.run.fingerprint(made(model)),
            "target": self.run.fingerprint(made(TARGET)),
            "questions": self._digest,
            "attack": attack.name if attack else PLAIN,
            "settings": attack.model_dump(mode="json") if attack else {},
            "budget": BUDGETS[self.budget]._asdict(),
            "finetune": training.model_dump(mode="json", exclude={"retain_model", "given"}),
            "seed": self.run.recipe.seed,
        }
        if RETAIN_MODEL not in self.compared and isinstance(attack, Searching):  # earlier ones knew holdout people
            inputs["known"] = yardstick.FORGET
        return self.run.store.unit(f"{RunFolder.ATTACKS}/forget_{self.key}/{self.budget}/{name}/{model}", inputs)

    def attack(self, name: str, model: str) -> None:
        """Run one attack on one model, unless that has been done."""
        unit = self.unit(name, model)
        if unit.done:
            return
        attack = self.jobs[name].attack
        with unit.making():
            victim = self._victim(unit, f"{name} on {model}", self.run.ref(self.key, model))
            try:
                points = attack.attack(victim) if attack else [plainly(victim)]
            except (NotAttackableError, NoStatesError, UnfitPromptError) as error:
                points = []
                write_json(unit.building / REASON, {"reason": str(error)})
            write_atomic(unit.building / FILE, dump_lines(points))

    def _victim(self, unit: Unit, label: str, ref: ModelRef) -> Victim:
        run, key, seed = self.run, self.key, derive(self.run.recipe.seed, "attacks")
        return Victim(
            name=label,
            ref=ref,
            refs={"base": run.base, **{model: run.ref(key, model) for model in run.taught}},
            samples=self.samples,
            data=run.data,
            key=key,
            recipe=run.recipe,
            budget=BUDGETS[self.budget],
            seed=seed,
            root=run.root,
            folder=unit.building,
            images=run.root
            / RunFolder.ATTACKS
            / f"forget_{key}"
            / "images"
            / digest(run.fingerprint(RunFolder.DATA))[:8],
            load=run.load,
            turns=run.turns,
            training=lambda: run.training(run.recipe.finetune, unit.building, seed, label),
            progress=run.progress,
        )

    def attacked(self, name: str, model: str) -> Attacked:
        """What an attack got from a model."""
        plain, own = (self.unit(each, self.same[model]).folder for each in (PLAIN, name))
        values = read_lines(plain / FILE, AttackPoint)[-1].values
        return Attacked(values, read_lines(own / FILE, AttackPoint), read_json(own / REASON).get("reason", ""))

    def results(self) -> AttackResults:
        """The rows of all models and attacks, and the worst case of each model at each access level."""
        if RETAIN_MODEL not in self.compared:
            return self._results_by_yardstick()
        units, unit = units_of(self.samples)
        found = {(n, m): self.attacked(n, m) for n in self.jobs for m in self.compared}
        rows, worst = [], []
        for model in self.compared:
            for name, job in self.jobs.items():
                target, retain = found[name, TARGET], found[name, RETAIN_MODEL]
                rows.append(attack_row(model, {**about(job), "unit": unit}, found[name, model], target, retain, units))
            for access in get_args(Access):
                tries = [
                    Tries(name, found[name, model].after, found[name, RETAIN_MODEL].after, asks(job))
                    for name, job in self.jobs.items()
                    if about(job)["access"] in ("black box", access) and not found[name, model].reason
                    if job.attack is None or job.attack.counts
                ]
                worst.append(worst_case(model, access, tries, units, seed=self.run.recipe.seed))
        return self._found(rows, worst)

    def _found(self, rows: Sequence[AttackRow], worst: Sequence[WorstCase]) -> AttackResults:
        return AttackResults(
            budget=self.budget,
            attacks=tuple(spec.model_dump(mode="json") for spec in self.specs),
            models=fingerprints(self.run, self.key, self.compared),
            seed=self.run.recipe.seed,
            rows=tuple(rows),
            worst=tuple(worst),
        )

    def _results_by_yardstick(self) -> AttackResults:
        """The same with holdout people as the yardstick."""
        forget = [sample for sample in self.samples if sample.split == yardstick.FORGET]
        ids = {sample.id for sample in forget}
        few = yardstick.are_few(self.samples)
        units = {sample.id: unit_of(sample, few=few) for sample in forget}
        found = {(n, m): self.attacked(n, m) for n in self.jobs for m in self.compared}
        rows, worst = [], []
        for model in self.compared:
            for name, job in self.jobs.items():
                own, target = (found[name, each].only(ids) for each in (model, TARGET))
                told = {**about(job), "unit": "facts" if few else "people"}
                row = attack_row(model, told, own, target, Attacked({}), units)
                after = found[name, model].after
                rows.append(row if row.reason else yardstick.control_row(row, after, self.samples))
            for access in get_args(Access):
                tries = {
                    name: found[name, model].after
                    for name, job in self.jobs.items()
                    if about(job)["access"] in ("black box", access) and not found[name, model].reason
                    if job.attack is None or job.attack.counts
                }
                asking = {name for name in tries if asks(self.jobs[name])}
                seed = self.run.recipe.seed
                worst.append(yardstick.worst_control(model, access, tries, asking, self.samples, seed=seed))
        return self._found(rows, worst)


def about(job: AttackJob) -> dict[str, str]:
    """What a table says of an attack."""
    attack = job.attack
    if attack is None:
        return {"attack": PLAIN, "label": "No attack", "family": "", "access": "black box"}
    return {"attack": job.name, "label": attack.title, "family": attack.family, "access": attack.access}


def asks(job: AttackJob) -> bool:
    """Whether an attack asks for the fact itself."""
    return job.attack is None or job.attack.asks


def plainly(victim: Victim) -> AttackPoint:
    """The scores without an attack."""
    return AttackPoint(values=victim.hits(victim.load(victim.ref), victim.samples))


def questions(run: Run, key: str, per_person: int, split: str = yardstick.FORGET) -> list[Sample]:
    """Open questions about the people to forget, at most so many per person, drawn by seed; any if none are open.

    ``split`` names another set of people.
    """
    recipe = run.recipe
    asked = recipe.evaluate.model_copy(update={"protocol": Protocol(), "max_profiles": {}, "extra_metrics": ()})
    every = Evaluation(run, key, settings=asked).render()
    forget = [sample for sample in every if sample.split == split and sample.part == "report"]
    forget = [sample for sample in forget if not sample.options] or forget
    drawn: dict[str, list[str]] = {}
    for sample in sorted(forget, key=lambda s: rng(recipe.seed, "attacked", s.id).random()):
        drawn.setdefault(sample.profile_id, []).append(sample.id)
    kept = {name for names in drawn.values() for name in names[:per_person]}
    return [s.model_copy(update={"candidates": {}, "measured": ()}) for s in forget if s.id in kept]


def attack_run(run: Run) -> list[Path]:
    """Attack all models of a run, with as many processes as it has workers; returns ``attacks.json`` of every ratio."""
    recipe, files = run.recipe, []
    settle_threads(run)
    for key in run.keys:
        study = AttackStudy(run, key)
        tasks = [(key, name, model) for name in study.jobs for model in study.models]
        run.progress.stage("attack", f"{len(study.jobs) - 1} attacks on {len(study.models)} models ({key} %)")
        missing = [task for task in tasks if not study.unit(*task[1:]).done]
        with closing(run.progress.lane()) as counted:
            if missing:
                counted.start("attacks", len(missing))
            if recipe.workers > 1 and len(missing) > 1 and not is_worker():
                with WorkerPool(recipe.workers, partial(attack_worker, recipe, run.root), run.progress) as workers:
                    workers.do(missing, counted.advance)
            else:
                for _, name, model in missing:
                    study.attack(name, model)
                    counted.advance()
            counted.finish()
        path = run.root / RunFolder.evaluation(key) / RunFolder.ATTACKS_FILE
        write_json(path, seal(study.results().model_dump(mode="json")))
        files.append(path)
    return files


def attack_worker(recipe: Recipe, root: Path, index: int, progress: Progress) -> Callable[[str, str, str], None]:
    """Prepare a worker process for attacks."""
    settle_worker(root, index)
    run = Run(recipe.model_copy(update={"workers": 1}), root, progress)
    studies = {key: AttackStudy(run, key) for key in run.keys}
    return lambda key, name, model: studies[key].attack(name, model)
