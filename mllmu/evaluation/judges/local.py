"""A language model from a folder as judge, without any endpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from pydantic import Field

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
    batch_size: int = Field(8, ge=1, le=100_000, description="responses judged at once")
    max_tokens: int = Field(200, ge=1, le=10**6, description="most tokens a verdict may have")

    def identity(self) -> dict[str, Any]:
        """As of every judge, with the digests of the model's files in the place of their path."""
        from mllmu.models.base_files import base_files  # torch is imported only where a model is needed

        settings = {name: value for name, value in super().identity().items() if name not in ("path", "revision")}
        return settings | {"files": base_files(self.path, self.revision, setting="judge.path")}

    @contextmanager
    def session(self) -> Iterator[JudgeSession]:
        yield JudgeSession(partial(self._judge, open_model(self)))

    def _judge(self, model: Any, cases: Sequence[Case]) -> Iterator[Verdict]:
        for case, text in zip(cases, self.write(model, cases), strict=True):
            found = parse_object(text, Rating)
            if isinstance(found, str):
                yield Verdict(sample_id=case.sample_id, value=None, reason=f"unreadable verdict: {found}")
            else:
                yield Verdict(sample_id=case.sample_id, value=found.score, reason=found.reason[:300])

    def write(self, model: Any, cases: Sequence[Case]) -> Iterator[str]:
        """Greedy continuations of the prompts about some cases, batch by batch."""
        written = model(
            (_prompt(model.tokenizer, messages(case)) for case in cases),
            batch_size=self.batch_size,
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
            return_full_text=False,
        )
        return (replies[0]["generated_text"] for replies in written)


def open_model(judge: Local) -> Any:
    """The model with its tokenizer, as a pipeline that writes text; torch is imported only here.

    Raises:
        ModelError: there is no model that can be loaded.
    """
    from transformers import pipeline

    from mllmu.models import loading

    loading.release_base()  # the models of the run are not needed now
    device = loading.choose_device(judge.device)
    expected = "Expected a causal language model saved by save_pretrained with its tokenizer, or a hub id."
    with loading.explain_load_faults(f"judge.path: '{judge.path}' cannot be loaded", expected):
        model = pipeline(
            "text-generation",
            judge.path,
            revision=judge.revision,
            trust_remote_code=False,
            device=device,
            dtype=loading.choose_dtype(judge.dtype, device),
            model_kwargs={"use_safetensors": True},
        )
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token
    return model


def _prompt(tokenizer: Any, chat: tuple[Message, ...]) -> str | list[Message]:
    """A prompt for the model's chat template; for a model without one, the plain text."""
    return list(chat) if tokenizer.chat_template else "\n\n".join(part["content"] for part in chat) + "\n"
