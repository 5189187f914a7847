"""One file per model family: its prompts, which tokens are the reply, where adapters go.

A family turns a ``Turn`` (image, prompt, reply) into tokens and image tensors. Padding, batching and caching are the
same for all families, see :mod:`mllmu.models.encoding`. Families with a chat template build on ``_chat.ChatFamily``.

Shapes: B rows, T tokens (a second T: the tokens that are seen), F image tokens, D hidden size.
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

from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.models import misfits, plain_text

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange: an image (or none), the user's text, and for training or scoring the reply.

    ``person``, ``topic`` (the attribute in question), ``task`` and ``label`` (the turn's name in errors) are never
    shown to a model; empty where unknown. ``before`` are exchanges shown before this one, each with its reply, and
    ``instead`` is the reply that is wanted in place of a forgotten one, if a request names it.
    """

    prompt: str
    reply: str = ""
    image: Path | None = None
    system: str = ""
    person: str = ""
    topic: str = ""
    task: str = ""
    label: str = ""
    instead: str = ""
    before: tuple[Turn, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The images of the exchanges before and of this one, in order."""
        return tuple(turn.image for turn in (*self.before, self) if turn.image is not None)

    @property
    def opening(self) -> tuple[str, tuple[Turn, ...], Path | None]:
        """What turns with a common beginning have in common: system prompt, exchanges before, and image."""
        return self.system, self.before, self.image


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of some turns, padded to one length.

    Attributes:
        inputs: keyword arguments of the model: input_ids and attention_mask [B, T], the family's further inputs per
            token [B, T], and its image tensors, in the order of the turns.
        labels: [B, T] the reply tokens including end-of-sequence; IGNORE on prompt, image and padding tokens.
            Label t is the token *at* position t; it is predicted from position t - 1.
        num_tokens: tokens without padding.
        replies, num_replies: of a packed batch [B, T] the reply of each labelled token, and their number; otherwise
            None, as row b is reply b.
        masks: attention masks [B, 1, T, T] by the type of layer, instead of one in ``inputs``; empty for most models.
        found: :attr:`labelled`, looked for already.
        noise: what the adapters' dropout is drawn by, see :mod:`mllmu.models.dropout`; empty without any.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    num_tokens: int = 0
    replies: Tensor | None = None
    num_replies: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, Tensor] = field(default_factory=dict)
    found: tuple[Tensor, ...] = ()

    @property
    def labelled(self) -> tuple[Tensor, ...]:
        """[N] each: the place, among all B * T, that predicts a labelled token; the token; its row or packed reply."""
        if self.found:
            return self.found
        row_N, column_N = (self.labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        reply_N = row_N if self.replies is None else self.replies[row_N, column_N + 1]
        return row_N * self.labels.shape[1] + column_N, self.labels[row_N, column_N + 1], reply_N

    def to(self, device: torch.device) -> Batch:
        """Move all tensors; labelled tokens are looked for before, as the device would have to be waited for."""
        groups = (self.inputs, self.masks, self.noise)
        inputs, masks, noise = ({k: moved(v, device) for k, v in tensors.items()} for tensors in groups)
        replies = None if self.replies is None else moved(self.replies, device)
        found, labels = tuple(moved(each, device) for each in self.labelled), moved(self.labels, device)
        return replace(self, inputs=inputs, labels=labels, replies=replies, masks=masks, noise=noise, found=found)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU fetches it by itself, while Python goes on."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Family(Plugin):
    """Base of the model families.

    Class attributes:
        lora_targets: regular expression of the linear layers that get adapters: the language model only.
        model_types: values of ``config.model_type`` this family handles.
        hub_names: beginnings of hub ids of this family, to recognise a model whose config is not on disk.
        image_inputs: names of the image tensors among the model's inputs.
        image_settings: settings of the image processor that differ from those stored with the model.
        shares_prefix: common beginnings of prompts can be read once: :meth:`positions`, ``looks_ahead`` and
            :meth:`packed_masks` say everything that the model must be told for that.
        looks_ahead: which later tokens a token of a prompt sees: none, those of its own image, or all of its prompt.
        needs_image: the model takes no turn without an image.
        image_parts: modules that an image goes through, the vision tower first, if their output simply takes the
            places of the image's tokens; empty: images are put in as pixels.
        published_shots: people whose questions the published evaluator shows as examples, where not as the task says.
        published_letter_tokens: most new tokens that it allows for the letter of a question without image.
    """

    lora_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ()
    hub_names: ClassVar[tuple[str, ...]] = ()
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    image_settings: ClassVar[dict[str, Any]] = {}
    shares_prefix: ClassVar[bool] = False
    looks_ahead: ClassVar[Literal["", "image", "prompt"]] = ""
    needs_image: ClassVar[bool] = False
    image_parts: ClassVar[tuple[str, ...]] = ()
    published_shots: ClassVar[dict[str, int]] = {}
    published_letter_tokens: ClassVar[int] = 50

    @property
    def packs(self) -> bool:
        """Questions about one image can share it: the image means the same in front of every question."""
        return self.shares_prefix and self.looks_ahead != "prompt"

    @abstractmethod
    def render(self, turn: Turn, processor: Any) -> str:
        """The prompt text up to and including the place where the reply begins; one :meth:`mark` for an image."""

    def dialogue(self, turn: Turn, processor: Any) -> str:
        """As :meth:`render`, behind the exchanges that come before."""
        before, after = self.frame(processor) if turn.before else ("", "")
        earlier = (f"{self.render(one, processor)}{before}{one.reply}{after}" for one in turn.before)
        return "".join(earlier) + self.render(turn, processor)

    def mark(self, processor: Any) -> str:
        """The token that stands for an image in rendered text; the processor puts the image's tokens there."""
        return str(processor.image_token)

    def frame(self, processor: Any) -> tuple[str, str]:
        """The text before a reply and after it; the text after it ends with the token that ends a reply."""
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
        except misfits.RAISED as error:
            raise misfits.unprepared(turn.prompt, turn.images[-1], processor, error) from None
        return inputs["input_ids"][0].tolist(), self.image_tensors(inputs)

    def image_tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The image tensors among the processor's outputs."""
        return {key: inputs[key] for key in self.image_inputs if key in inputs}

    def opens(self, text: str, processor: Any) -> bool:
        """Whether the tokenizer must put its own first token before a text, because no template has written it."""
        begin = processor.tokenizer.bos_token
        return not (begin and text.startswith(begin))

    def spelled(self, text: str, processor: Any) -> str:
        """The text as the processor changes it around the image, the mark itself still standing for it."""
        return text

    def image_ids(self, turn: Turn, processor: Any, ids: Sequence[int]) -> list[int] | None:
        """The tokens in the place of the image's mark in ``ids``, the prompt of the turn; None if others differ too."""
        around = self._around(turn, processor)
        if around is None:
            return None
        before, after = around
        end = len(ids) - len(after)
        apart = list(ids[: len(before)]) == before and list(ids[end:]) == after and len(before) < end
        return list(ids[len(before) : end]) if apart else None

    def prompt_ids_again(self, turn: Turn, processor: Any, image: Sequence[int]) -> list[int]:
        """What :meth:`prompt_ids` gives, for an image whose tokens are known: it is not processed a second time."""
        around = self._around(turn, processor)
        return self.prompt_ids(turn, processor)[0] if around is None else [*around[0], *image, *around[1]]

    def marked_ids(self, turn: Turn, processor: Any) -> list[int]:
        """Token ids of the prompt with the mark alone where an image goes."""
        return self._tokens(self.spelled(self._text(turn, processor), processor), processor)

    def _around(self, turn: Turn, processor: Any) -> tuple[list[int], list[int]] | None:
        """The tokens before and after the mark of the image; None if the mark is no single token."""
        ids = self.marked_ids(turn, processor)
        mark = processor.tokenizer.convert_tokens_to_ids(self.mark(processor))
        if mark is None or ids.count(mark) != 1:
            return None
        index = ids.index(mark)
        return ids[:index], ids[index + 1 :]

    def _text(self, turn: Turn, processor: Any) -> str:
        if self.needs_image and turn.image is None:
            raise misfits.lacks_image(turn.prompt, turn.label, self.name)
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
        question = Turn(prompt="?", image=Path() if self.needs_image else None)
        last = self.spelled(self.render(question, processor), processor)[-1:]
        alone, behind = (
            processor.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (last, last + text)
        )
        if alone and behind[: len(alone)] == alone:
            return list(behind[len(alone) :])
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        """The model's inputs per token beside its id, [B, T] each."""
        return {}

    def positions(
        self, model: Any, ids: Sequence[int], images: Callable[[], Mapping[str, Tensor]]
    ) -> Sequence[Sequence[int]] | None:
        """[A][T] positions of the first tokens of a prompt on the model's A axes; None where they are simply counted.

        The next token is at max + 1. ``model`` has no adapter's wrapper; ``images`` fetches the tensors of all images
        among ``ids``, and maybe of more behind those.
        """
        return None

    def packed_masks(self, model: Any, kin_BTT: Tensor, index_BT: Tensor, is_image_BT: Tensor) -> dict[str, Tensor]:
        """Which tokens a packed token sees, [B, T, T], by the type of layer; one mask named "" is for all layers.

        Here kin that comes earlier, and the token itself; prefixes come before their blocks. Layers with a window see
        those less than a window before.

        Args:
            kin_BTT: True where two tokens are of one group, and the second is of its prefix or of the first's block.
            index_BT: number of tokens before each one in a sequence of its own prompt and reply.
            is_image_BT: True for tokens of images.
        """
        return windowed(kin_BTT.tril(), index_BT, layer_windows(model.config.get_text_config()))

    def image_features(self, model: Any, images: dict[str, Tensor]) -> Tensor:
        """[F, D] the output of the ``image_parts``: one row per image token, images in order."""
        output = model.model.get_image_features(**images)
        return torch.cat(list(getattr(output, "pooler_output", output)))

    def join_images(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The image tensors of several turns as one set, row after row, smaller ones filled with zeros.

        Every model takes zeros for what is missing: pieces of an image that was cut into fewer, and edges, which its
        mask leaves out.
        """
        return {key: _join([each[key] for each in images]) for key in images[0]}


def _join(parts: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = [part.new_zeros(len(part), *shape) for part in parts]
    for part, room in zip(parts, filled, strict=True):
        room[tuple(slice(size) for size in part.shape)] = part
    return torch.cat(filled)


def _plain(turn: Turn, processor: Any) -> Turn:
    """A turn, and those before it, in which nothing is read as a special token."""
    prompt, reply, system = (as_plain_text(text, processor) for text in (turn.prompt, turn.reply, turn.system))
    before = tuple(_plain(one, processor) for one in turn.before)
    return replace(turn, prompt=prompt, reply=reply, system=system, before=before)


def as_plain_text(text: str, processor: Any) -> str:
    """Text in which nothing is read as a special token: ``<image>`` becomes ``< image>``, ``</s>`` becomes ``< /s>``.

    Names, questions and replies are data; a name that contains a special token must not add an image or end a turn.
    """
    for token in special_texts(processor):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return plain_text.apart(text, processor.tokenizer) if normalised(processor) else text


@lru_cache(maxsize=16)
def normalised(processor: Any) -> bool:
    """Whether special tokens are looked for in text that was changed before (``<image>`` in ``<IMAGE>``)."""
    normalizer = getattr(getattr(processor.tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and any(t.normalized for t in processor.tokenizer.added_tokens_decoder.values())


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


def layer_windows(config: Any) -> dict[str, int | None]:
    """How many tokens back each type of layer sees, itself included, None: all; one named "" where all see the same.

    Args:
        config: of the language model. Its layers have types (``layer_types``), or are all alike.
    """
    window, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    windows = {kind: window if kind in ("", "sliding_attention") else None for kind in types or [""]}
    return windows if len(set(windows.values())) > 1 else {"": next(iter(windows.values()))}


def windowed(seen_BTT: Tensor, index_BT: Tensor, windows: Mapping[str, int | None]) -> dict[str, Tensor]:
    """What the layers see by their type, of what is seen without windows; for ``index_BT`` see ``packed_masks``."""
    back_BTT = index_BT[:, :, None] - index_BT[:, None, :]
    return {kind: seen_BTT if size is None else seen_BTT & (back_BTT < size) for kind, size in windows.items()}


def unknown_attention(config: Any) -> str:
    """Why the layers of a language model see tokens in a way that is not known here; empty if it is known.

    Known are layers that see all tokens before or a window of them, with or without bounded scores and sinks.
    """
    types = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if not types and getattr(config, "attention_chunk_size", None):
        types = {"chunked_attention"}
    return f"layers of the type {', '.join(sorted(types))} ({config.model_type})" if types else ""


def core(model: Any) -> Any:
    """The model itself, without the adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def num_layers(model: Any) -> int:
    """Layers of the language model."""
    return int(model.config.get_text_config().num_hidden_layers)
