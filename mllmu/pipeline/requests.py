"""Requests one after the other: each is applied to the result of the one before, and what is known is asked after each.

The models after request 1, 2, ... of a method are units of their own, ``npo@1``, ``npo@2``, ...; the last is the model
of the method. A method that keeps the retain model is taught anew for every request, on what no request so far takes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mllmu.config.recipe import Job, Recipe
from mllmu.core import plugins
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import Progress, derive
from mllmu.core.records import ModelRef, Sample
from mllmu.core.requested import FILE, FOLDER, RequestCost, RequestResults
from mllmu.core.runfolder import ELAPSED_FILE, RunFolder, Unit, digest, facts_of, seal, write_json
from mllmu.data.facts import FactSet, together
from mllmu.data.tasks import task_of
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.over_time import Course, OverTime
from mllmu.parallel.pool import WorkerPool, is_worker
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.facts import narrowed, sides_of_facts
from mllmu.pipeline.finetune import finetune_model
from mllmu.pipeline.record import settle_worker
from mllmu.pipeline.run import Run, write_ref
from mllmu.pipeline.unlearn import unlearn_unit
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import unlearn

ASKED = ("forget", "kept", "retain", "celebrity")


def step_name(model: str, number: int) -> str:
    """Name of a model after a request, counted from 1."""
    return f"{model}@{number}"


def make_by_requests(run: Run, key: str, model: str) -> None:
    """Make the models of a method after every request; the last one gets the name of the method."""
    unit, count = unlearn_unit(run, key, model), len(run.data.steps)
    if unit.done:
        return
    for number in range(1, count + 1):
        make_step(run, key, run.jobs[model], number)
    made = [facts_of(run.root / RunFolder.model_unit(key, step_name(model, n))) for n in range(1, count + 1)]
    write_json(unit.building / ELAPSED_FILE, {"seconds": sum(facts.get("seconds", 0.0) for facts in made)})
    with unit.making() as facts:
        facts |= {name: made[-1][name] for name in ("trainable", "tokens_per_s", "peak_mib") if name in made[-1]}
        write_ref(unit, run.ref(key, step_name(model, count)))


def make_step(run: Run, key: str, job: Job, number: int) -> None:
    """Apply one request to the model after the one before, unless that has been done."""
    name, method = step_name(job.name, number), of_one_request(job.method)
    gone = together(run.data.steps[:number])
    trains = method.trains or method.modifies
    if method.model == RETAIN_MODEL and not trains:
        finetune_model(run, key, name, run.data.people, without=gone)
        return
    unit = step_unit(run, key, job, number)
    if unit.done:
        return
    start = run.ref(key, step_name(job.name, number - 1) if number > 1 else method.model)
    with run.making_model(unit):
        if trains:
            reference = start if method.reference == TARGET else run.ref(key, method.reference)
            how = {"model": job.name, "number": number, "start": start, "reference": reference}
            run.together(train_step, folder=unit.building, **how)
            write_ref(unit, start.model_copy(update={"adapters": (*start.adapters, unit.name)}))
        else:
            prompt = narrowed(method.system_prompt([run.data.names[person] for person in gone.facts]), gone)
            write_ref(unit, start.model_copy(update={"system_prompt": prompt}))


def of_one_request(method: Method) -> Method:
    """The method as it is applied to one request: one that divides the forget people into requests does not."""
    return method.model_copy(update={"requests": 1}) if "requests" in type(method).model_fields else method


def step_unit(run: Run, key: str, job: Job, number: int) -> Unit:
    """The unit of the model after a request, made or not yet."""
    method, lora, steps = of_one_request(job.method), run.recipe.unlearn.lora, run.data.steps
    before = step_name(job.name, number - 1) if number > 1 else method.model
    inputs = {
        "start": run.fingerprint(RunFolder.model_unit(key, before)),
        "retain_model": run.fingerprint(RunFolder.model_unit(key, RETAIN_MODEL)),
        "method": job.plugin,
        "settings": method.model_dump(mode="json"),
        "lora": lora.model_dump(mode="json") if lora and method.trains else None,
        "facts": digest([step.record() for step in steps[:number]]),
        "seed": run.recipe.seeds.unlearn,
    }
    return run.store.unit(RunFolder.model_unit(key, step_name(job.name, number)), inputs)


def train_step(run: Run, *, model: str, number: int, start: ModelRef, reference: ModelRef, folder: Path) -> None:
    """Let a method train, or measure, on the model after the request before; what it changes is saved into a folder."""
    method, section = of_one_request(run.jobs[model].method), run.recipe.unlearn
    sides = sides_of_facts(run, method, number)
    if method.needs_second_model(lora=section.lora is not None):
        sides = replace(sides, reference=run.load(reference))
    seed = derive(run.seed_of("unlearn"), "unlearn", number)
    training = run.training(section, folder, seed, step_name(model, number))
    unlearn(run.load(start), method, sides, replace(training, reference_mib=section.reference_mib))


class RequestStudy:
    """What is known after every request, of the models of one run.

    Args:
        own: the finished evaluation of the run; its responses stand for the target, the retain model and the last step.
    """

    def __init__(self, own: Evaluation) -> None:
        self.own, self.run, self.key = own, own.run, own.key
        self.count = len(self.run.data.steps)
        self.evaluation = Evaluation(own.run, own.key, name=f"{FOLDER}/forget_{own.key}")
        self.evaluation.prepare([s for s in own.samples if s.split in ASKED and s.part == "report"])
        tasks = {sample.task for sample in self.evaluation.samples}
        parser = self.run.recipe.evaluate.protocol.parser
        heads = {task: task_of(task).headline(parser) for task in tasks}
        self.metrics: dict[str, Metric] = {task: plugins.build("metrics", name, {}) for task, name in heads.items()}

    @property
    def steps(self) -> list[str]:
        """The models between the target and the last one of every method."""
        return [step_name(model, number) for model in self.run.jobs for number in range(1, self.count)]

    def values(self, evaluation: Evaluation, model: str) -> dict[str, float]:
        """Headline scores of a model by sample; a reply that cannot be read counts as in the report."""
        replies = {response.sample_id: response for response in evaluation.responses(model)}
        found = {}
        for sample in self.evaluation.samples:
            metric = self.metrics[sample.task]
            score = metric.score(sample, replies[sample.id])
            found[sample.id] = metric.headline_value(score.value, sample.split)
        return found

    def results(self) -> RequestResults:
        """All scores over time, and what each request cost."""
        steps, samples = self.run.data.steps, self.evaluation.samples
        numbers = {s.id: number_of(steps, s) for s in samples if s.split == "forget"}
        study = OverTime(samples, numbers, self.values(self.own, TARGET), self.values(self.own, RETAIN_MODEL))
        scores = [*study.yardsticks(self.count)]
        for model in self.run.jobs:
            between = [self.values(self.evaluation, step_name(model, number)) for number in range(1, self.count)]
            scores += study.scores(Course(model, [*between, self.values(self.own, model)]))
        costs = [self._cost(model, number) for model in self.run.jobs for number in range(1, self.count + 1)]
        return RequestResults(labels=tuple(map(label, steps)), scores=tuple(scores), costs=tuple(costs))

    def _cost(self, model: str, number: int) -> RequestCost:
        name, root = step_name(model, number), self.run.root
        kept = self.run.ref(self.key, name).adapters
        kept = tuple(folder for folder in kept if folder != RunFolder.model_unit(self.key, TARGET))
        size = sum(path.stat().st_size for folder in kept for path in (root / folder).glob("*.safetensors"))
        seconds = facts_of(root / RunFolder.model_unit(self.key, name)).get("seconds", 0.0)
        return RequestCost(model=model, number=number, seconds=seconds, adapters=len(kept), mib=size / 2**20)


def number_of(steps: tuple[FactSet, ...], sample: Sample) -> int:
    """The first request that takes the fact a sample asks for, from 1."""
    return next(n for n, step in enumerate(steps, start=1) if step.names(sample.profile_id, sample.attribute))


def label(step: FactSet) -> str:
    """What a request forgets, in a few words."""
    people = f"{len(step.facts)} {'person' if len(step.facts) == 1 else 'people'}"
    names = dict.fromkeys(name for own in step.facts.values() for name in own or ())
    return f"{', '.join(name.replace('_', ' ') for name in names)} of {people}" if names else people


def request_run(run: Run, evaluations: Mapping[str, Evaluation]) -> None:
    """Ask all models after every request, with as many processes as the run has workers; write ``requests.json``."""
    for key, own in evaluations.items():
        study = RequestStudy(own)
        run.progress.stage("requests", f"{study.count} requests, {len(study.steps)} models between ({key} %)")
        study.evaluation.write_samples()
        missing = [("ask", key, name) for name in study.steps if not study.evaluation.unit(name).done]
        if run.recipe.workers > 1 and len(missing) > 1 and not is_worker():
            start = partial(request_worker, run.recipe, run.root)
            with WorkerPool(run.recipe.workers, start, run.progress) as workers:
                workers.do(missing)
        for name in study.steps:
            study.evaluation.ask(name)
        write_json(own.folder / FILE, seal(study.results().model_dump(mode="json")))


def request_worker(recipe: Recipe, root: Path, index: int, progress: Progress) -> Callable[[str, str, str], None]:
    """Prepare a worker process that asks the models between requests."""
    settle_worker(root, index)
    run = Run(recipe.model_copy(update={"workers": 1}), root, progress)
    found = {key: Evaluation(run, key, name=f"{FOLDER}/forget_{key}") for key in run.keys}
    return lambda _, key, name: found[key].ask(name)
