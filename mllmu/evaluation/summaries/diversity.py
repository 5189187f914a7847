"""Does the model still say different things to different questions?"""

from collections.abc import Iterable, Sequence

from mllmu.evaluation.summaries import ScoredRun, Summariser, Summary, TableSpec


class Diversity(Summariser):
    """distinct_n, n = 1, 2, 3: different word n-grams among all n-grams of a model's generation replies; and replies.

    ``replies``: different replies among all replies. A model that gives one answer to everything has all four near 0,
    although each reply by itself looks well. It falls with the number of replies, so compare models, not sets.
    """

    source = "https://arxiv.org/abs/1510.03055"
    needs = ("right",)

    def no_interval(self, detail: str) -> str:
        return "no interval: a person drawn twice adds no different reply"

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = []
        for model in run.responses:
            for split, modality in run.cells():
                replies = (run.response(model, sample.id) for sample in run.asked(split, modality, "generation"))
                texts = [reply.text for reply in replies if reply]
                rows += self.rows(model, distinct(texts), split=split, modality=modality, num=len(texts))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        pairs = "different word pairs among all of the free replies on retain; low means repeating itself"
        replies = "different replies among all on retain, in %; low means giving one answer to every question"
        kept = {"split": "retain", "good": "kept"}
        return self.overview(
            14,
            self.column("distinct-2", detail="distinct_2", reads=pairs, **kept),
            self.column("different replies", detail="replies", show="percent", reads=replies, **kept),
        )


def distinct(texts: Sequence[str]) -> dict[str, float]:
    """Shares of different n-grams and replies; an n without n-grams is left out.

    >>> distinct(["a b a", "a b"])["distinct_1"]
    0.4
    """
    replies = [text.lower().split() for text in texts]
    units: dict[str, list[object]] = {
        f"distinct_{n}": [gram for words in replies for gram in zip(*(words[i:] for i in range(n)), strict=False)]
        for n in (1, 2, 3)
    }
    units["replies"] = [" ".join(words) for words in replies]
    return {name: len(set(found)) / len(found) for name, found in units.items() if found}
