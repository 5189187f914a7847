"""LLaVA-Bench (in the wild): sixty open questions about images, to be judged against a reference answer."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from mllmu.data.published.store import Store
from mllmu.evaluation.benchmarks import Asked, Benchmark, Skipped

COLUMNS = ("question_id", "question", "gpt_answer", "image")


class LlavaBench(Benchmark):
    """LLaVA-Bench (in the wild): conversation, detail and reasoning; asks whether a model is still helpful.

    Replies stand under the task generation, so ``mllmu judge`` gives them points against the published GPT-4 answer;
    ROUGE-L is computed too, but says little about answers this long. The official number is another one: points of the
    reply over points of the reference, both given by GPT-4 with the caption before it.

    Source: https://huggingface.co/datasets/lmms-lab/llava-bench-in-the-wild (arXiv:2304.08485).
    """

    source = "https://huggingface.co/datasets/lmms-lab/llava-bench-in-the-wild"
    label = "LLaVA-Bench"
    metrics = ("rougeL",)
    free_answers = True

    path: Path = Path("lmms-lab/llava-bench-in-the-wild")
    max_new_tokens: int = Field(512, gt=0, le=100_000, description="longest reply, in tokens")

    def read(self) -> Iterator[Asked | Skipped]:
        table = Store(self.path, self.revision).single("train")
        table.need(COLUMNS, "Expected the schema of lmms-lab/llava-bench-in-the-wild.")
        kind = "category" if "category" in table.columns else "question_id"
        wanted = ("question_id", "question", "gpt_answer", *({kind} - {"question_id"}))
        for number, row in enumerate(table.rows(wanted)):
            key, question, answer = str(row["question_id"]), row["question"], row["gpt_answer"]
            if not question or not answer:
                yield Skipped("train", number, key, "the question or the reference answer is empty")
                continue
            about = {"attribute": str(row[kind]), "target": answer, "value": answer}
            sample = self.sample(key, task="generation", prompt=question, **about)
            yield Asked(sample, partial(table.image, number, "image"))
