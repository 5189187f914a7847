"""Is a fact gone in both modalities, or only in one?"""

from collections.abc import Iterable, Sequence

from mllmu.core.declared import ColumnSpec, Good, TableSpec
from mllmu.evaluation.summaries import ScoredRun, Split, Summariser, Summary, mean

CASES = {
    "acc_r": (True, True, "told in both"),
    "face_only": (True, False, "told with the image alone"),
    "name_only": (False, True, "told in text alone"),
    "acc_f": (False, False, "told in neither"),
}
"""Told with the image, told in text, and both in words."""
COLUMNS = {
    "acc_f": ("in neither", "AccF: facts told in neither modality"),
    "face_only": ("image alone", "told with the portrait but not by name"),
    "name_only": ("text alone", "told by name but not with the portrait"),
    "acc_r": ("in both", "AccR: facts told in both modalities"),
    "leak": ("leak", "told with the image alone minus told in text alone; 0: neither modality tells more"),
    "rl_f": ("RL_F", "overlap with the true sentence, leaning to the better modality: high if one of them works"),
    "rl_r": ("RL_R", "the same, leaning to the worse modality: high only if both work"),
}
"""Heading and explanation by detail."""
SETS: tuple[tuple[Split, Good, tuple[str, ...]], ...] = (
    ("forget", "retain_model", tuple(COLUMNS)),
    ("test", "retain_model", ("acc_f", "leak")),
    ("retain", "kept", ("acc_r", "rl_r")),
    ("celebrity", "kept", ("acc_r",)),
)


class BothWays(Summariser):
    """Per fact, asked with the face (without the name) and by the name (without the face): in which is it known?

    acc_f: share of facts told in neither; acc_r: told in both; face_only, name_only: told in one alone. The four add up
    to 1. leak = share told with the face alone minus share told by the name alone: 0 = neither modality tells more.
    rl_f = mean of (a^2 + b^2) / (a + b), which one good modality keeps high; rl_r = mean of 2ab / (a + b), which needs
    both; a, b: ROUGE-L of the two replies of the generation task. Both 0 if a + b = 0.
    Facts count where both replies were judged. A fact that a modality asks for several times is told there if more than
    half of the replies are right; of exactly half it is not told. Where nobody says what a question asks for (attribute
    ``other``), questions with the same value ask for the same fact.
    """

    source = "https://arxiv.org/abs/2502.17823"
    needs = ("right",)
    range = (0.0, 1.0)

    def limits(self, detail: str) -> tuple[float, float]:
        return (-1.0, 1.0) if detail == "leak" else self.range

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = []
        for model in run.models:
            told, rouge = run.facts(model, "right"), run.facts(model, "rougeL", task="generation")
            for split in run.splits:
                pairs = [(by["image_text"] > 0.5, by["text"] > 0.5) for fact, by in told.items() if fact[0] == split]
                overlaps = [(by["image_text"], by["text"]) for fact, by in rouge.items() if fact[0] == split]
                rows += self.rows(model, shares(pairs), split=split, num=len(pairs))
                rows += self.rows(model, overlap(overlaps), split=split, num=len(overlaps))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        yield TableSpec(
            title="The same fact asked with image + text and with text only",
            intro="Every fact about the forgotten people is asked with the image (the face) and in text (the name). A "
            "fact that is still told in one of the two is hidden, not gone. In %, but for leak (points) and RL "
            "(ROUGE-L, 0 to 1).",
            columns=tuple(self._column(split, detail, good) for split, good, details in SETS for detail in details),
            bar=tuple(self.column(words, detail=case, split="forget") for case, (*_, words) in CASES.items()),
            bar_head="facts on forget",
            order=30,
        )

    def _column(self, split: Split, detail: str, good: Good) -> ColumnSpec:
        head, reads = COLUMNS[detail]
        show = "decimal" if detail.startswith("rl_") else "signed" if detail == "leak" else "percent"
        told = {"reads": reads if split == "forget" else "", "good": good, "show": show}
        return self.column(f"{split}: {head}", detail=detail, split=split, **told)


def shares(pairs: list[tuple[bool, bool]]) -> dict[str, float]:
    """Shares of the four cases (told with the face, told by the name) and their difference; nothing for no pairs."""
    if not pairs:
        return {}
    found = {name: pairs.count(CASES[name][:2]) / len(pairs) for name in ("acc_f", "acc_r", "face_only", "name_only")}
    return found | {"leak": found["face_only"] - found["name_only"]}


def overlap(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """rl_f and rl_r; nothing for no pairs.

    >>> overlap([(1.0, 0.0), (0.5, 0.5)])
    {'rl_f': 0.75, 'rl_r': 0.25}
    """
    if not pairs:
        return {}
    return {
        "rl_f": mean([(a * a + b * b) / (a + b) if a + b else 0.0 for a, b in pairs]),
        "rl_r": mean([2 * a * b / (a + b) if a + b else 0.0 for a, b in pairs]),
    }
