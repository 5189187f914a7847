"""Prompts written by chat templates of every kind, and what a template must not lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_families import IDEFICS, INSTRUCT, QWEN_CHAT, build, qwen_tokenizer, tokenizer
from helpers_models import TEXT, load_ref
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mllmu.core.errors import ModelError
from mllmu.models.families import Turn
from mllmu.models.families._chat import Style, style_of
from mllmu.models.families.idefics2 import Idefics2
from mllmu.models.families.llava import Llava
from mllmu.models.families.llava_next import LlavaNext
from mllmu.models.families.qwen2_5_vl import Qwen25VL

IMAGED = Turn(prompt="Where was this person born?", image=Path("red.png"))


class Processor:
    """A tokenizer with a chat template, which is all that writing a prompt needs."""

    def __init__(self, chat_template: str | None, tok: Any = None, mark: str = "<image>") -> None:
        self.tokenizer = tok or tokenizer("<image>", "<end_of_utterance>", bos="<s>")
        self.chat_template = chat_template
        self.image_token = mark

    def apply_chat_template(self, messages: Any, **settings: Any) -> str:
        written: str = self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **settings)
        return written


def test_the_published_prompt_of_llava() -> None:
    plain = Processor(None)
    assert Llava().render(IMAGED, plain) == "USER: <image>\nWhere was this person born?\nASSISTANT:"
    assert Llava().frame(plain) == (" ", "</s>")
    guarded = Turn(prompt="Who?", system="Say no.")
    assert Llava().render(guarded, plain) == "Say no.\nUSER: Who?\nASSISTANT:"


def test_the_published_prompt_of_idefics2() -> None:
    processor = Processor(IDEFICS.removeprefix("START"))
    asked = "User:<image>Where was this person born?<end_of_utterance>\nAssistant:"
    assert Idefics2().render(IMAGED, processor) == asked
    assert Idefics2().frame(processor) == (" ", "<end_of_utterance>")
    assert Idefics2.image_settings == {"do_image_splitting": False}


def test_the_prompts_of_other_families_with_a_guard() -> None:
    turn = Turn(prompt="Who?", system="Say no.", image=Path("red.png"))
    qwen = Processor(QWEN_CHAT, qwen_tokenizer(), "<|image_pad|>")
    assert Qwen25VL().render(turn, qwen) == (
        "<|im_start|>system\nSay no.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Who?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert Qwen25VL().frame(qwen) == ("", "<|im_end|>")
    mistral = Processor(INSTRUCT)
    assert LlavaNext().render(turn, mistral) == "<<SYS>>\nSay no.\n<</SYS>>\n\n[INST] <image>\nWho? [/INST]"
    assert LlavaNext().frame(mistral) == (" ", "</s>")


def test_a_template_that_takes_texts_instead_of_parts_gets_texts() -> None:
    processor = Processor(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert style_of(processor, "<image>") == Style(parts=False, system=True, before="", after="</s>")
    assert LlavaNext().render(IMAGED, processor) == "[user]<image>\nWhere was this person born?[assistant]"


@pytest.mark.parametrize("system", ["{{ raise_exception('no system') }}", ""], ids=["refuses", "ignores"])
def test_a_template_without_system_gets_its_text_before_the_users(system: str) -> None:
    processor = Processor(
        "{% for m in messages %}{% if m.role == 'system' %}" + system + "{% else %}[{{ m.role }}]"
        "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert not style_of(processor, "<image>").system
    written = LlavaNext().render(Turn(prompt="Who?", system="Say no.", image=Path("a.png")), processor)
    assert written == "[user]<image>Say no.\nWho?[assistant]"
    assert LlavaNext().frame(processor) == ("", "</s>")  # the template ends no turn, so the tokenizer's end does


def test_a_reply_follows_the_prompt_though_the_template_opens_a_thought() -> None:
    processor = Processor(
        "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
        "{{ c.text }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    assert LlavaNext().frame(processor) == ("", "</s>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"the Processor there has no chat template.*chat_template\.jinja"),
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", r"loses the prompt, its image \(<image>\)"),
        ("<image>{{ messages[0].content[0].text }}", "loses the prompt"),
        ("{{ nothing.at.all }}", "loses the prompt"),
    ],
)
def test_a_template_that_loses_something_is_refused(template: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LlavaNext().render(IMAGED, Processor(template))


def test_a_folder_without_chat_template_is_an_error_of_the_model(tmp_path: Path) -> None:
    base = build("qwen2_vl", tmp_path)
    (base / "chat_template.jinja").unlink()
    loaded = load_ref(base)
    with pytest.raises(ModelError, match=r"Qwen2VLProcessor there has no chat template"):
        loaded.encoder.prompt(Turn(prompt="Who?"))


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer that, like Llama's, marks spaces by a sign and puts one before every text."""
    built = Tokenizer(models.BPE(unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    built.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<image>"]
    words = [TEXT.replace(" ", "▁"), "▁Riga▁Riga:▁Riga"]
    built.train_from_iterator(words, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_reply_has_the_tokens_it_has_behind_the_prompt_not_those_of_a_text_of_its_own() -> None:
    tok = sentencepiece()
    processor = Processor(None, tok)
    reply = Llava().reply_ids("Riga", processor)
    apart = tok(" Riga</s>", add_special_tokens=False)["input_ids"]
    together = tok("ASSISTANT: Riga</s>", add_special_tokens=False)["input_ids"]
    assert reply == together[-len(reply) :]
    assert len(reply) < len(apart)  # two spaces in a row: what a text of its own begins with, and the reply's
    assert reply[-1] == tok.eos_token_id
