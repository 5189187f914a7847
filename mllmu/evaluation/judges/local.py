"""A language model from a folder as judge, without any endpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pydantic import Field

from mllmu.core.errors import ModelError, one_line
from mllmu.evaluation.judges import Case, Judge, JudgeSession, Rating, Verdict, messages
from mllmu.llm import Message, parse_object


class Local(Judge):
    """Judge by a causal language model on this machine, greedily, with the rubric of ``rubric.yaml``.

    Nothing forces such a model to write JSON, so more verdicts may be unreadable than behind an endpoint; they are
    counted (value None). Only safetensors weights are loaded, and no code of the model's repository is run.

    Source: the factuality score of MLLMU-Bench, https://arxiv.org/abs/2410.22108; the rubric is restated.
    """

    source = "https://arxiv.org/abs/2410.22108"
    operational = frozenset({"device", "batch_size"})

    path: str = Field(min_length=1, description="folder saved by save_pretrained, or a hub id")
    revision: str | None = Field(None, description="commit, tag or branch on the hub")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="precision of the weights")
    batch_size: int = Field(8, ge=1, description="responses judged at once")
    max_tokens: int = Field(200, ge=1, description="most tokens a verdict may have")

    @contextmanager
    def session(self) -> Iterator[JudgeSession]:
        yield LocalSession(self)


class LocalSession(JudgeSession):
    """Loads the model; torch is imported only here."""

    def __init__(self, judge: Local) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from mllmu.models import loading

        self._judge = judge
        self._device = loading.choose_device(judge.device)
        try:
            with loading.quiet_libraries():
                self._tokenizer = AutoTokenizer.from_pretrained(
                    judge.path, revision=judge.revision, trust_remote_code=False, padding_side="left"
                )
                model = AutoModelForCausalLM.from_pretrained(
                    judge.path,
                    revision=judge.revision,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=loading.choose_dtype(judge.dtype, self._device),
                )
        except loading.LOAD_FAULTS as error:
            raise ModelError(
                f"judge.path: '{judge.path}' cannot be loaded: {one_line(error)}. "
                "Expected a causal language model saved by save_pretrained with its tokenizer, or a hub id."
            ) from None
        self._model = model.to(self._device).eval()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        size = self._judge.batch_size
        for start in range(0, len(cases), size):
            batch = cases[start : start + size]
            for case, text in zip(batch, self.write([messages(case) for case in batch]), strict=True):
                found = parse_object(text, Rating)
                if isinstance(found, str):
                    yield Verdict(sample_id=case.sample_id, value=None, reason=f"unreadable verdict: {found}")
                else:
                    yield Verdict(sample_id=case.sample_id, value=float(found.score), reason=found.reason[:300])

    def write(self, prompts: Sequence[tuple[Message, ...]]) -> list[str]:
        """Greedy continuations of some prompts, padded on the left to one batch."""
        import torch

        batch = self._tokenizer([self._render(prompt) for prompt in prompts], padding=True, return_tensors="pt")
        batch = batch.to(self._device)
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self._judge.max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        written = tokens[:, batch["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(written, skip_special_tokens=True))

    def _render(self, prompt: tuple[Message, ...]) -> str:
        if self._tokenizer.chat_template is None:
            return "\n\n".join(part["content"] for part in prompt) + "\n"
        text: str = self._tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        return text


PLUGIN = Local
