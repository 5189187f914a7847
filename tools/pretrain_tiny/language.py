"""Phase two of the pre-training: projector and language model learn facts, formats and letters.

The vision tower is frozen, so its output for every image is computed once (:class:`ImageBank`). Every step mixes
exercises of many people; rows are sorted by length into micro-batches so that little is spent on padding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.portraits import transform
from mllmu.data.portraits.dicebear import DiceBear, sprites
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.tasks.classification import Classification
from mllmu.data.tasks.cloze import Cloze
from mllmu.data.tasks.generation import Generation
from mllmu.models.families import IGNORE
from tools.pretrain_tiny.build import IMAGE_SIZE
from tools.pretrain_tiny.drills import LETTERS, MCQ_INSTRUCTION, Row
from tools.pretrain_tiny.vision import to_pixels

NUM_IMAGE_TOKENS = 17
MICRO_BATCH = 24
# A probe on an inner layer is asked at every token of an option whether that option is the right one: without it, the
# one letter at the end is too thin a signal for a small model to learn comparing, and it stays at chance.
LAYERS_AFTER_PROBE = 2
TASKS = {"classification": Classification(), "generation": Generation(), "cloze": Cloze()}


class ImageBank:
    """Frozen vision features of everybody's images: [people, views, 17, D]; view 0 is the canonical portrait."""

    def __init__(self, features_PVTD: Tensor) -> None:
        self.features_PVTD = features_PVTD

    @classmethod
    def draw(
        cls, people: Sequence[Profile], seeds: Sequence[int], tower: Any, processor: Any, *, views: int = 8
    ) -> ImageBank:
        """Draw the canonical portrait and ``views - 1`` training views of each person and run the tower on them."""
        backend = DiceBear()
        rows = []
        for profile, seed in zip(people, seeds, strict=True):
            canonical = processor.image_processor(images=backend.render(profile, 0, seed), return_tensors="pt")
            drawings = sprites(profile, seed, 4, IMAGE_SIZE)
            moved = []
            for view in range(1, views):
                draw = rng(seed, "portrait", profile.id, "train-view", view)
                moved.append(transform(draw.choice(drawings), draw, draw.random()))
            pixels = torch.cat([canonical["pixel_values"], to_pixels(moved)])
            with torch.no_grad():
                rows.append(tower(pixel_values=pixels).last_hidden_state)
        return cls(torch.stack(rows))


@dataclass(frozen=True)
class Pass:
    """Result of one forward pass.

    ``logits_NV`` and ``labels_N`` are those of all reply tokens, ``lengths`` the number of reply tokens per row;
    ``verdicts_E`` are the probe's logits at the tokens of multiple-choice options and ``fits_E`` what they should say:
    1.0 for the right option, 0.0 for another.
    """

    logits_NV: Tensor
    labels_N: Tensor
    lengths: list[int]
    verdicts_E: Tensor
    fits_E: Tensor


class Encoder:
    """Runs the language model on rows; images come from the bank instead of from pixels."""

    def __init__(self, model: Any, tokenizer: Any, bank: ImageBank) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bank = bank
        self.image_id = tokenizer.convert_tokens_to_ids("<image>")
        self.option_starts = torch.tensor(tokenizer.convert_tokens_to_ids([f"\n{letter}:" for letter in LETTERS]))
        self.options_end = tokenizer.convert_tokens_to_ids(MCQ_INSTRUCTION)
        self.probe = torch.nn.Linear(model.config.text_config.hidden_size, 1)
        self._tokens: dict[str, list[int]] = {}
        model.set_attn_implementation("eager")

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, remembered: exercises repeat."""
        if text not in self._tokens:
            self._tokens[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._tokens[text]

    def prompt(self, row: Row) -> list[int]:
        image = "<image>" * NUM_IMAGE_TOKENS + "\n" if row.person is not None else ""
        return self.tokens(f"USER: {image}{row.prompt}\nASSISTANT:")

    def forward(self, rows: Sequence[Row], views: Sequence[int], *, say_option: bool = False) -> Pass:
        """Run some rows; see :class:`Pass` for what comes back.

        With ``say_option`` the text of the right option of a multiple choice is to be predicted too, as if the model
        were writing it; that makes it recall the fact while it reads the options.
        """
        pairs = [(self.prompt(row), self.tokens(f" {row.reply}</s>")) for row in rows]
        width = max(len(p) + len(r) for p, r in pairs)
        ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), IGNORE)
        mask = torch.zeros_like(ids)
        for i, (p, r) in enumerate(pairs):
            ids[i, : len(p) + len(r)] = torch.tensor(p + r)
            labels[i, len(p) : len(p) + len(r)] = torch.tensor(r)
            mask[i, : len(p) + len(r)] = 1
        inside, fits = self._options(rows, ids)
        if say_option:
            said = inside & fits.bool() & ~torch.isin(ids, self.option_starts) & (ids != self.options_end)
            labels = torch.where(said, ids, labels)
        shown = [(row.person, view) for row, view in zip(rows, views, strict=True) if row.person is not None]
        with torch.autocast("cpu", torch.bfloat16):
            hidden, early = self._hidden(ids, mask, shown)
            wanted = labels[:, 1:] != IGNORE
            logits = self.model.lm_head(hidden[:, :-1][wanted])
            verdicts = self.probe(early[inside])[:, 0]
        return Pass(logits.float(), labels[:, 1:][wanted], wanted.sum(1).tolist(), verdicts.float(), fits[inside])

    def _options(self, rows: Sequence[Row], ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the options and the one after each, as a mask [R, T]; and 1.0 [R, T] where right."""
        begun = torch.isin(ids, self.option_starts).long()
        option = begun.cumsum(1) - begun  # how many options began before this token
        closed = (ids == self.options_end).long()
        option = option * (closed.cumsum(1) - closed == 0) * (closed.sum(1, keepdim=True) > 0)
        right = torch.tensor([LETTERS.find(row.reply) + 1 for row in rows])
        inside = option > 0
        return inside, (option == right[:, None]).float()

    def _hidden(self, ids: Tensor, mask: Tensor, shown: Sequence[tuple[int | None, int]]) -> tuple[Tensor, Tensor]:
        core = self.model.model
        embeds = core.language_model.embed_tokens(ids)
        if shown:
            images = torch.stack([self.bank.features_PVTD[person, view] for person, view in shown])
            projected = core.multi_modal_projector(images)
            embeds = embeds.masked_scatter((ids == self.image_id)[..., None], projected.to(embeds.dtype))
        out = core.language_model(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True)
        return out.last_hidden_state, out.hidden_states[-1 - LAYERS_AFTER_PROBE]


class Exam:
    """Evaluation questions in wordings that are never drilled, graded by exact replies, for each link apart.

    ``drilled`` people were practised in all formats, ``plain`` ones in plain questions only (so the figure says how
    well a format carries over), ``celebrity`` are the public figures.
    """

    def __init__(self, people: Sequence[Profile], first_plain: int, *, seed: int, most: int = 120) -> None:
        index = {p.id: i for i, p in enumerate(people)}
        self.sets: dict[str, list[Row]] = {}
        for question in sorted(
            build(people, QuestionOrder(seed=seed, variants=("eval",))), key=lambda q: rng(seed, q.id).random()
        ):
            i = index[question.profile_id]
            group = "celebrity" if people[i].kind == "celebrity" else "plain" if i >= first_plain else "drilled"
            rows = self.sets.setdefault(f"{group}/{question.task}/{question.modality}", [])
            if len(rows) < most:
                rows.append(_exam_row(question, i))

    @torch.no_grad()
    def grade(self, encoder: Encoder) -> dict[str, float]:
        """Share of replies whose every token is the most likely one (equals greedy decoding giving the reply)."""
        encoder.model.eval()
        figures = {name: _share_exact(encoder, rows) for name, rows in sorted(self.sets.items())}
        encoder.model.train()
        return figures


def _exam_row(question: Any, index: int) -> Row:
    sample = TASKS[question.task].sample(question, split="holdout", part="report", image="x.png")
    return Row(sample.prompt, sample.target, index if question.modality == "image_text" else None)


def _share_exact(encoder: Encoder, rows: Sequence[Row]) -> float:
    right = 0
    for start in range(0, len(rows), 64):
        chunk = rows[start : start + 64]
        out = encoder.forward(chunk, [0] * len(chunk))
        right += sum(bool(part.all()) for part in (out.logits_NV.argmax(1) == out.labels_N).split(out.lengths))
    return round(right / len(rows), 4)


def train_language(
    encoder: Encoder,
    draw: Callable[[int, random.Random], list[Row]],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train projector and language model in place: Muon for the matrices inside the layers, AdamW for the rest.

    The loss is the mean over micro-batches of the mean cross-entropy over their reply tokens, in nats, plus the
    binary cross-entropy of the probe.

    Args:
        draw: the exercises of a step; called with the step and a generator of its own.
    """
    matrices, others = _parameters(encoder.model)
    others += encoder.probe.parameters()
    optimizers = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: _rate(s, steps)) for o in optimizers]
    encoder.model.train()
    for step in range(steps):
        dice = rng(seed, "drill", step)
        loss = _backward(encoder, draw(step, dice), dice)
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        on_step(step, loss)


def _parameters(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if "vision_tower" in name:
            parameter.requires_grad_(False)
        elif parameter.ndim == 2 and ".layers." in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    return matrices, others


def _rate(step: int, steps: int) -> float:
    """Warm up over 60 steps, hold, then fall linearly to 2 % over the last 45 %."""
    return min(1.0, (step + 1) / 60) * min(1.0, max(0.02, (steps - step) / (0.45 * steps)))


def _backward(encoder: Encoder, rows: list[Row], draw: random.Random) -> float:
    """Accumulate the gradients of one step; half of the images are the canonical portrait."""
    num_views = encoder.bank.features_PVTD.shape[1]
    rows.sort(key=lambda row: len(encoder.prompt(row)))
    total = 0.0
    for start in range(0, len(rows), MICRO_BATCH):
        chunk = rows[start : start + MICRO_BATCH]
        views = [0 if draw.random() < 0.5 else draw.randrange(1, num_views) for _ in chunk]
        out = encoder.forward(chunk, views, say_option=True)
        loss = F.cross_entropy(out.logits_NV, out.labels_N)
        if len(out.fits_E):
            loss = loss + F.binary_cross_entropy_with_logits(out.verdicts_E, out.fits_E)
        loss = loss * len(chunk) / len(rows)
        loss.backward()
        total += loss.item()
    return total
