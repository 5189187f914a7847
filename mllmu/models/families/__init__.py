"""One file per model family: how its prompts look, which tokens are the answer, where adapters go.

A family turns a ``Turn`` (image, prompt, reply) into tokens and image tensors. Padding, batching and caching are
the same for all families, see ``mllmu.models.encoding``. Families whose processor brings a chat template build on
``ChatFamily`` in ``_chat.py``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mllmu.core.errors import DataError, ModelError
from mllmu.core.plugins import Plugin
from mllmu.models.families._masks import Layout

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange: an image (or none), the user's text, and for training or scoring the reply.

    ``person``, ``topic`` (the attribute asked about), ``task`` and ``label`` (what error messages call the turn) are
    never shown to a model; empty where they are not known. ``before`` are exchanges shown before this one, each with
    its reply.
    """

    prompt: str
    reply: str = ""
    image: Path | None = None
    system: str = ""
    person: str = ""
    topic: str = ""
    task: str = ""
    label: str = ""
    before: tuple[Turn, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The images of the exchanges before and of this one, in order."""
        return tuple(turn.image for turn in (*self.before, self) if turn.image is not None)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of some turns, padded to one length.

    Shapes: B turns, T tokens, P turns that have an image.

    Attributes:
        inputs: keyword arguments of the model: input_ids [B, T], attention_mask [B, T], what else the family says of
            each token [B, T], and its image tensors, in the order of the turns.
        labels: [B, T] the reply tokens including end-of-sequence; IGNORE on prompt, image and padding tokens.
            Label t is the token *at* position t; it is predicted from position t - 1.
        replies: [B, T] which reply a labelled token belongs to; None if row b is reply b (not packed).
        num_replies: number of replies; only where they are not the rows.
        masks: attention masks [B, 1, T, T] by the kind of layer, instead of one in ``inputs``; empty for most models.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    replies: Tensor | None = None
    num_replies: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        inputs, masks = ({k: v.to(device) for k, v in tensors.items()} for tensors in (self.inputs, self.masks))
        replies = None if self.replies is None else self.replies.to(device)
        return replace(self, inputs=inputs, labels=self.labels.to(device), replies=replies, masks=masks)


class Family(Plugin):
    """Base of the model families.

    Class attributes:
        lora_targets: regular expression of the linear layers that get adapters: the language model only.
        model_types: values of ``config.model_type`` this family handles.
        image_inputs: names of the image tensors among the model's inputs.
        image_settings: settings of the image processor that differ from those stored with the model.
        shares_prefix: what prompts and replies have in common can be read once: :meth:`positions`, ``looks_ahead`` and
            :meth:`packed_masks` say all that the model must be told for that.
        looks_ahead: which later tokens a token of a prompt sees: none, those of its own image, or all of its prompt.
        needs_image: the model takes no turn without an image.
        image_parts: modules of the model that an image goes through, the vision tower first, if their output simply
            takes the places of the image's tokens; empty: images are put in as pixels. See ``models.images``.
    """

    lora_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ()
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    image_settings: ClassVar[dict[str, Any]] = {}
    shares_prefix: ClassVar[bool] = False
    looks_ahead: ClassVar[Literal["", "image", "prompt"]] = ""
    needs_image: ClassVar[bool] = False
    image_parts: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The plug-in's name, which is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def packs(self) -> bool:
        """Questions about one image can share it: the image means the same, whatever is asked."""
        return self.shares_prefix and self.looks_ahead != "prompt"

    @abstractmethod
    def render(self, turn: Turn, processor: Any) -> str:
        """The prompt text up to and including the place where the reply begins; one :meth:`mark` for an image."""

    def dialogue(self, turn: Turn, processor: Any) -> str:
        """As :meth:`render`, behind the exchanges that come before."""
        before, after = self.frame(processor) if turn.before else ("", "")
        told = (f"{self.render(one, processor)}{before}{one.reply}{after}" for one in turn.before)
        return "".join(told) + self.render(turn, processor)

    def mark(self, processor: Any) -> str:
        """The token that stands for an image in rendered text; the processor puts the image's tokens there."""
        return str(processor.image_token)

    def frame(self, processor: Any) -> tuple[str, str]:
        """What stands before a reply and after it; what is after it ends with the token that ends a reply."""
        return " ", str(processor.tokenizer.eos_token)

    def prompt_ids(self, turn: Turn, processor: Any) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids of the prompt, image tokens expanded, and the tensors of all its images (empty without any)."""
        text = self._text(turn, processor)
        if not turn.images:
            return self._tokens(text, processor), {}
        images, special = [open_image(image) for image in turn.images], self.opens(text, processor)
        try:
            with warnings.catch_warnings():
                # some processors hand tensors to numpy in a way that it warns about
                warnings.filterwarnings("ignore", category=DeprecationWarning, message="__array_")
                inputs = processor(text=[text], images=images, return_tensors="pt", add_special_tokens=special)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ModelError(
                f"{turn.images[-1]}: {type(processor).__name__} cannot prepare this image for the prompt "
                f"'{turn.prompt[:60]}': {' '.join(str(error).split())[:300]}. Check the processor's files beside the "
                "model (patch_size, chat template), model.image_processor, and the image's shape."
            ) from None
        return inputs["input_ids"][0].tolist(), self.image_tensors(inputs)

    def image_tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The image tensors among what the processor made."""
        return {key: inputs[key] for key in self.image_inputs if key in inputs}

    def opens(self, text: str, processor: Any) -> bool:
        """Whether the tokenizer must put its own first token before a text, because no template has written it."""
        begin = processor.tokenizer.bos_token
        return not (begin and text.startswith(begin))

    def spelled(self, text: str, processor: Any) -> str:
        """The text as the processor changes it around the image, the mark itself still standing for it."""
        del processor
        return text

    def image_ids(self, turn: Turn, processor: Any, ids: Sequence[int]) -> list[int] | None:
        """The tokens that stand for the image in ``ids``, the prompt of the turn; None if they cannot be told apart.

        They are what has come in the place of the mark, and all else must be as without the image.
        """
        around = self._around(turn, processor)
        if around is None:
            return None
        before, after = around
        end = len(ids) - len(after)
        apart = list(ids[: len(before)]) == before and list(ids[end:]) == after and len(before) < end
        return list(ids[len(before) : end]) if apart else None

    def prompt_ids_again(self, turn: Turn, processor: Any, image: Sequence[int]) -> list[int]:
        """Token ids of another prompt with an image whose tokens are known: it is not processed a second time.

        Equals what :meth:`prompt_ids` gives.
        """
        around = self._around(turn, processor)
        if around is None:
            return self.prompt_ids(turn, processor)[0]
        before, after = around
        return [*before, *image, *after]

    def marked_ids(self, turn: Turn, processor: Any) -> list[int]:
        """Token ids of the prompt with the mark alone where an image goes."""
        return self._tokens(self.spelled(self._text(turn, processor), processor), processor)

    def _around(self, turn: Turn, processor: Any) -> tuple[list[int], list[int]] | None:
        """The tokens before and after the mark of the image; None if the mark is no single token."""
        ids = self.marked_ids(turn, processor)
        mark = processor.tokenizer.convert_tokens_to_ids(self.mark(processor))
        if mark is None or ids.count(mark) != 1:
            return None
        place = ids.index(mark)
        return ids[:place], ids[place + 1 :]

    def _text(self, turn: Turn, processor: Any) -> str:
        if self.needs_image and turn.image is None:
            raise ModelError(
                f"{turn.label or 'the prompt'} '{turn.prompt[:60]}' has no image, and models of the family "
                f"'{self.name}' take no prompt without one. Set finetune.modality and that of the methods to "
                "image_text, and evaluate.modalities to [image_text]."
            )
        return self.dialogue(_plain(turn, processor), processor)

    def _tokens(self, text: str, processor: Any) -> list[int]:
        ids: list[int] = processor.tokenizer(text, add_special_tokens=self.opens(text, processor))["input_ids"]
        return ids

    def reply_ids(self, reply: str, processor: Any) -> list[int]:
        """Token ids of the reply as trained: the text in its frame, the last one being the token that ends a reply.

        Tokenised behind the last character of the prompt, because some tokenizers treat the beginning of a text in
        another way than its middle; the tokens of the prompt itself are never changed by the reply.
        """
        before, after = self.frame(processor)
        text = f"{before}{as_plain_text(reply, processor)}{after}"
        ask = Turn(prompt="?", image=Path() if self.needs_image else None)
        last = self.spelled(self.render(ask, processor), processor)[-1:]
        alone, behind = (
            processor.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (last, last + text)
        )
        if alone and behind[: len(alone)] == alone:
            return list(behind[len(alone) :])
        ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        """What the model wants to know of each token beside its id, [B, T] each."""
        del ids_BT, labels_BT, processor
        return {}

    def positions(
        self, model: Any, ids: Sequence[int], images: Callable[[], Mapping[str, Tensor]]
    ) -> Sequence[Sequence[int]]:
        """[A][T] positions of the first tokens of a prompt on each of the model's A axes; the next one is at max + 1.

        Args:
            model: without an adapter's wrapper.
            images: fetches the tensors of all images among ``ids``, and maybe more behind those.
        """
        del model, images
        return [range(len(ids))]

    def packed_masks(self, model: Any, layout: Layout) -> dict[str, Tensor]:
        """Which tokens a packed token sees, [B, T, T], by the kind of layer; one mask named "" is for all layers."""
        del model
        return {"": layout.causal()}

    def image_features(self, model: Any, images: dict[str, Tensor]) -> Tensor:
        """[F, D] what the ``image_parts`` make of images: one row per image token, images in order."""
        output = model.model.get_image_features(**images)
        return torch.cat(list(getattr(output, "pooler_output", output)))

    def join_images(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The image tensors of several turns as one set: rows one after the other, smaller ones filled with zeros.

        Every model takes zeros for what is not there: pieces of an image that was cut into fewer, and edges, which
        its mask leaves out.
        """
        return {key: _join([each[key] for each in images]) for key in images[0]}


def _plain(turn: Turn, processor: Any) -> Turn:
    """A turn, and those before it, in which nothing is read as a special token."""
    prompt, reply, system = (as_plain_text(text, processor) for text in (turn.prompt, turn.reply, turn.system))
    before = tuple(_plain(one, processor) for one in turn.before)
    return replace(turn, prompt=prompt, reply=reply, system=system, before=before)


def _join(parts: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = [part.new_zeros(len(part), *shape) for part in parts]
    for part, room in zip(parts, filled, strict=True):
        room[tuple(slice(size) for size in part.shape)] = part
    return torch.cat(filled)


def as_plain_text(text: str, processor: Any) -> str:
    """Text in which nothing is read as a special token: ``<image>`` becomes ``< image>``, ``</s>`` becomes ``< /s>``.

    Names, questions and replies are data; a name that contains a special token must not add an image or end a turn.
    """
    for token in special_texts(processor):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@lru_cache(maxsize=16)
def special_texts(processor: Any) -> tuple[str, ...]:
    """The special tokens of a processor as text, the longest first."""
    tokenizer = processor.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    own = (getattr(processor, name, None) for name in ("image_token", "video_token", "boi_token"))
    special |= {*tokenizer.all_special_tokens, *(token for token in own if isinstance(token, str))}
    return tuple(sorted((token for token in special if len(token) > 1), key=lambda token: (-len(token), token)))


def open_image(path: Path) -> Image.Image:
    """Open an image completely as RGB; a missing or broken file raises DataError naming it."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: no such image. Run the data stage again (mllmu data RECIPE --force).") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({error}). Replace it or make the data again.") from None
