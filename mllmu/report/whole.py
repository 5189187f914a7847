"""The numbers about whole models: which tables there are, and how each of their columns is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from mllmu.core.records import MODALITIES, Modality
from mllmu.report.inputs import ReportInput
from mllmu.report.numbers import MODALITY_LABELS, Numbers
from mllmu.report.sheets import (
    Cell,
    Column,
    Good,
    Place,
    Row,
    Sheet,
    Spec,
    Summaries,
    decimal,
    p_value,
    percent_of,
    sheet,
    signed,
    step,
)

CASES: tuple[tuple[str, str], ...] = (
    ("acc_r", "told both ways"),
    ("face_only", "with the face only"),
    ("name_only", "by the name only"),
    ("acc_f", "told neither way"),
)
"""The four cases of a fact that was asked both ways; they add up to one."""

_WHOLE = (
    "Arrows point from the target's number to the retain_model's, where forgetting leads; › marks numbers past it. On "
    "retain, higher is better. Below a number, here and in the other tables: its 95 % interval, from the same people "
    "drawn again; where there is none, pointing at the number says why."
)
_MEMBERS = (
    "How well the forgotten people's answers can be told from those about people no model has seen, by scores of their "
    "likelihood. The number is the area under the ROC curve: 0.5 is not at all. Below: 'matched', the same among "
    "answers of one task and length; 'found', the share of forgotten answers found at 1 % false alarms."
)
_FACTS = (
    "Every fact about the forgotten people is asked with the face and by the name. What is still told one way alone is "
    "hidden, not gone. In %, but for leak (points) and RL (ROUGE-L, 0 to 1)."
)
_ATTRIBUTES = (
    "Right replies about the forgotten people by kind of fact, in %, all tasks together. The retain_model's row is "
    "what guessing gives; a kind of fact that stays above it leaks."
)
_DISTANCE = (
    "1 - |model - retain_model| / |target - retain_model|, clipped at 0: 1 at the retain_model's number, 0 at the "
    "target's or as far away on the other side."
)


def whole_tables(report: ReportInput, numbers: Numbers) -> list[Sheet]:
    """Everything that is known about whole models; columns and tables that nobody measured are left out."""
    found = Summaries(report, numbers)
    bar: list[Place] = [("both_ways", detail, "forget", "") for detail, _ in CASES]
    made = [
        *(sheet(found, f"Utility, forgetting, privacy: {_asked(m)}", _WHOLE, _overview(m)) for m in MODALITIES),
        sheet(found, "The same fact with the face and by the name", _FACTS, _both_ways(), bar=bar),
        *(sheet(found, f"Which facts stay known: {_asked(m)}", _ATTRIBUTES, _kinds(found, m)) for m in MODALITIES),
        *(sheet(found, f"Membership inference: {_asked(m)}", _MEMBERS, _attacks(found, m)) for m in MODALITIES),
        _summed(found),
        *(_metric_by_metric(found, m) for m in MODALITIES),
    ]
    return _explained_once([table for table in made if table])


def _explained_once(tables: Sequence[Sheet]) -> list[Sheet]:
    """The same tables; what a column means is said where it occurs first."""
    said: set[str] = set()
    once = []
    for table in tables:
        columns = tuple(replace(c, reads="") if c.reads in said else c for c in table.columns)
        said |= {column.reads for column in table.columns}
        once.append(replace(table, columns=columns))
    return once


def _asked(modality: str) -> str:
    return f"asked with {MODALITY_LABELS[modality]}"


def _overview(m: Modality) -> list[Spec]:
    return [
        Spec(place=("model_utility", "", "", m), head="model utility", good="kept",
             reads="harmonic mean of probability, ROUGE-L recall and truth ratio on retain and celebrity; one bad part "
             "pulls it down"),
        Spec(place=("forget_quality", "p_value", "forget", m), head="forget quality p", good="none", show=p_value,
             reads="chance of truth ratios as different from the retain_model's by luck; below 0.05 the two can be "
             "told apart. It falls with the number of questions"),
        *(Spec(place=("forget_quality", "ks", split, m), head=f"KS {split}",
               reads=f"distance of the truth ratios on {split} from the retain_model's, 0 to 1 (Kolmogorov-Smirnov)")
          for split in ("forget", "test")),
        Spec(place=("forget_quality", "js", "forget", m), head="JS forget",
             reads="the same on forget by histograms (Jensen-Shannon, base 2)"),
        Spec(place=("privleak", "", "forget", m), head="PrivLeak", show=lambda value: signed(value / 100),
             reads="membership by min-k against the retain_model's, in %: 0 is as the retain_model, negative still "
             "looks known, positive looks less known than never seen"),
        Spec(place=("ape", "mean", "forget", m), head="keywords", show=percent_of,
             reads="private words told about forgotten people, in %, mean over the wordings of a fact"),
        Spec(place=("ape", "worst", "forget", m), head="worst wording", show=percent_of,
             reads="the same for the wording of each fact that tells most: one open door is enough"),
        Spec(place=("diversity", "distinct_2", "retain", m), head="distinct-2", good="kept",
             reads="different word pairs among all of the free replies on retain; low means repeating itself"),
        Spec(place=("diversity", "replies", "retain", m), head="different replies", good="kept", show=percent_of,
             reads="different replies among all on retain, in %; low means saying one thing to everybody"),
    ]  # fmt: skip


_ATTACKS = {
    "loss": "mean log-probability of an answer token",
    "zlib": "log-probability for each compressed byte",
    "min_k": "mean log-probability of the 20 % least likely tokens",
    "min_k_pp": "the same, standardised over the vocabulary",
    "gradient": "norm of the gradient of the answer: what was learned pulls less",
    "reference": "log-probability minus the retain_model's, which itself has none",
}


def _attacks(found: Summaries, m: Modality) -> list[Spec]:
    def place(name: str, kind: str) -> Place:
        return ("membership", f"{name} {kind}", "forget", m)

    names = dict.fromkeys(p[1].rpartition(" ")[0] for p in found.places("membership", m, "forget"))
    return [
        Spec(
            place=place(name, "auc"),
            head=name.replace("_pp", "++").replace("_", "-"),
            reads=_ATTACKS.get(name, ""),
            more=(("matched", place(name, "matched_auc")), ("found", place(name, "tpr_at_1"))),
            trust=f"member_{name}",
        )
        for name in names
    ]


_TOLD = {
    "acc_f": ("neither way", "AccF: facts told neither way"),
    "face_only": ("face only", "told with the portrait but not by name"),
    "name_only": ("name only", "told by name but not with the portrait"),
    "acc_r": ("both ways", "AccR: facts told both ways"),
    "leak": ("leak", "told with the face minus told by the name; 0: no way in is better"),
    "rl_f": ("RL_F", "overlap with the true sentence, leaning to the better way in: high if one way still works"),
    "rl_r": ("RL_R", "the same, leaning to the worse way in: high only if both ways work"),
}
_SETS: tuple[tuple[str, Good, tuple[str, ...]], ...] = (
    ("forget", "oracle", tuple(_TOLD)),
    ("test", "oracle", ("acc_f", "leak")),
    ("retain", "kept", ("acc_r", "rl_r")),
    ("celebrity", "kept", ("acc_r",)),
)


def _both_ways() -> list[Spec]:
    return [
        Spec(
            place=("both_ways", detail, split, ""),
            head=f"{split}: {_TOLD[detail][0]}",
            reads=_TOLD[detail][1] if split == "forget" else "",
            good=good,
            show=decimal if detail.startswith("rl_") else signed if detail == "leak" else percent_of,
        )
        for split, good, details in _SETS
        for detail in details
    ]


def _kinds(found: Summaries, m: Modality) -> list[Spec]:
    places = sorted(found.places("by_attribute", m, "forget"))
    return [Spec(place=place, head=place[1].replace("_", " "), show=percent_of) for place in places]


def _summed(found: Summaries) -> Sheet | None:
    """Median distance over the metrics that tell target and retain_model apart, by set and modality."""
    groups = {
        (split, m): places
        for split in ("forget", "test")
        for m in MODALITIES
        if (places := found.places("oracle_distance", m, split))
    }
    rows = [
        Row(number, row.name, row.role, tuple(_median(found, row.name, places) for places in groups.values()))
        for number, row in enumerate(found.models, start=1)
        if any(row.name in found.at(place) for places in groups.values() for place in places)
    ]
    if not rows:
        return None
    columns = tuple(Column(f"{split}, {MODALITY_LABELS[m]}", "", "", "↑") for split, m in groups)
    intro = (
        f"{_DISTANCE} Median over all metrics that tell target and retain_model apart; below, how many these are, and "
        "in how many of them the model went past the retain_model, which on forgotten people is no success."
    )
    return Sheet("How near to the retain_model, over all metrics", intro, columns, tuple(rows))


def _median(found: Summaries, model: str, places: Sequence[Place]) -> Cell:
    values = [value for place in places if (value := found.value(place, model)) is not None]
    if not values:
        return Cell("–", title="no metric tells target and retain_model apart")
    beyond = sum(row.note == "beyond" for place in places if (row := found.at(place).get(model)))
    value = median(values)
    return Cell(f"{value:.2f}", f"{len(values)} metrics, {beyond} past", shade=step(value))


def _metric_by_metric(found: Summaries, m: Modality) -> Sheet | None:
    def split_up(place: Place) -> tuple[str, str]:
        metric, _, task = place[1].rpartition(" ")
        return task, metric

    places = sorted(found.places("oracle_distance", m, "forget"), key=split_up)
    specs = [
        Spec(place=place, head=split_up(place)[1], under=split_up(place)[0], trust=split_up(place)[1], good="near")
        for place in places
    ]
    intro = f"{_DISTANCE} › marks numbers past the retain_model. Metrics that do not tell these two apart are left out."
    return sheet(found, f"How near, metric by metric, on forget: {_asked(m)}", intro, specs, folded=True)
