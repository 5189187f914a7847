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
from mllmu.models.families._chat import Style, remarks, style_of
from mllmu.models.families.idefics2 import Idefics2
from mllmu.models.families.llava import Llava
from mllmu.models.families.llava_next import LlavaNext
from mllmu.models.families.qwen2_5_vl import Qwen25VL

IMAGED = Turn(prompt="Where was this person born?", image=Path("red.png"))
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
    "{{ c.text }}{% endif %}{% endfor %}</s>{% endfor %}"
)
ASK = "{% if add_generation_prompt %}[assistant]{% endif %}"


class Processor:
    """A tokenizer with a chat template, which is all that writing a prompt needs."""

    def __init__(self, chat_template: str | None, tok: Any = None, mark: str = "<image>") -> None:
        self.tokenizer = tok or tokenizer("<image>", "<end_of_utterance>", bos="<s>")
        self.chat_template = chat_template
        self.image_token = mark

    def apply_chat_template(self, messages: Any, **settings: Any) -> str:
        settings = {"chat_template": self.chat_template, **settings}
        written: str = self.tokenizer.apply_chat_template(messages, **settings)
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


@pytest.mark.parametrize(
    ("opened", "given", "asked"),
    [
        ("<think>\n", "", "[assistant]<think>\n\n</think>\n\n"),
        ("<think>", "<think></think>", "[assistant]<think></think>"),
        ("[THINK]", "", "[assistant][THINK]\n[/THINK]\n\n"),
        ("◁think▷", "◁think▷\n◁/think▷ ", "[assistant]◁think▷\n◁/think▷ "),
    ],
)
def test_an_answer_is_trained_and_asked_for_behind_the_closed_block_that_a_template_opens(
    opened: str, given: str, asked: str
) -> None:
    reply = PLAIN.replace("[{{ m.role }}]", "[{{ m.role }}]{% if m.role == 'assistant' %}" + given + "{% endif %}")
    processor = Processor(reply + ASK.replace("[assistant]", f"[assistant]{opened}"))
    assert LlavaNext().render(IMAGED, processor).endswith(asked)
    assert LlavaNext().frame(processor) == ("", "</s>")
    assert "opens a block" in remarks(processor, "<image>")[0]


@pytest.mark.parametrize("role", ["<bot>", "[assistant]"])
def test_a_role_in_brackets_is_no_block(role: str) -> None:
    processor = Processor(PLAIN.replace("[{{ m.role }}]", role) + ASK.replace("[assistant]", role))
    assert LlavaNext().render(IMAGED, processor).endswith(role)
    assert not remarks(processor, "<image>")


def test_a_template_that_needs_a_system_message_gets_an_empty_one() -> None:
    needed = "{% if messages[0].role != 'system' %}{{ raise_exception('where is the system message?') }}{% endif %}"
    processor = Processor(needed + PLAIN + ASK)
    shown = Turn(prompt="Who?", before=(Turn(prompt="And he?", reply="Bo"),))
    written = "[system]</s>[user]And he?</s>[assistant]Bo</s>[user]Who?</s>[assistant]"
    assert LlavaNext().dialogue(shown, processor) == written
    assert LlavaNext().render(Turn(prompt="Who?", system="Say no."), processor).startswith("[system]Say no.</s>[user]")
    assert "system message" in remarks(processor, "<image>")[0]


def test_a_template_that_writes_the_date_writes_the_same_on_every_day() -> None:
    processor = Processor("[{{ strftime_now('%d %b %Y') }}]" + PLAIN + ASK)
    assert LlavaNext().render(IMAGED, processor).startswith("[26 Jul 2024][user]")
    assert "the date" in remarks(processor, "<image>")[0]


@pytest.mark.parametrize(
    ("trimmed", "taught"),
    [("", " Riga  </s>"), ("| trim", "Riga</s>"), (".rstrip()", " Riga</s>"), (".lstrip()", "Riga  </s>")],
)
def test_a_reply_is_trained_as_the_template_writes_it(trimmed: str, taught: str) -> None:
    processor = Processor(PLAIN.replace("{{ c.text }}", "{{ c.text " + trimmed + " }}") + ASK)
    ids = LlavaNext().reply_ids(" Riga  ", processor)
    assert processor.tokenizer.decode(ids) == taught


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"the Processor there has no chat template.*chat_template\.jinja"),
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", r"loses the prompt, its image \(<image>\)"),
        ("<image>{{ messages[0].content[0].text }}", "loses the prompt"),
        ("{{ nothing.at.all }}", r"line 1, cannot be used: 'nothing' is undefined"),
        ("{% for m in messages %}\n{{ m.content }}\n{% if %}", r"line 3, cannot be used: Expected an expression"),
        ("\n\n{{ raise_exception('not today') }}", "line 3, cannot be used: not today"),
        ("{{ messages + 1 }}", "line 1, cannot be used: can only concatenate list"),
        ("{{ 1 // 0 }}", "line 1, cannot be used: integer division"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "line 1, cannot be used: maximum recursion depth"),
        (PLAIN + "{{ [1, 2, 3, 4, 5, 6, 7, 8] | random }}", "writes the same messages in several ways"),
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
