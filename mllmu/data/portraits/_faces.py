"""What portrait backends on top of diffusers share: loading, prompts, face embeddings, and the check of identity.

Heavy libraries are imported only when an image is made. Weights are safetensors; nothing pickled is loaded and no code
of a model's repository is run.
"""

import functools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field

from mllmu.core.errors import DataError, ModelError, needs_extra
from mllmu.core.process import derive
from mllmu.core.records import Profile
from mllmu.data.portraits import Portraits
from mllmu.data.portraits.dicebear import PORTRAIT_YEAR, features
from mllmu.data.portraits.folder import Folder
from mllmu.data.values import NONE

Vectors = NDArray[np.float32]

EXTRA = "faces"
INSIGHTFACE = "insightface"
FACE_MODEL = "antelopev2"
NEGATIVE = "drawing, cartoon, text, watermark, two people, cropped head, deformed"
SCENES = (
    "smiling, in a park in daylight",
    "looking to the side, in front of a bookshelf",
    "serious, in an office by a window",
    "laughing, in a street at dusk",
    "calm, in a kitchen in warm light",
    "looking down, in front of a grey wall",
    "speaking, on a stage",
    "tired, on a train",
)
_SEEN = {
    "skin": "{skin} skin",
    "hair": "{hair_colour} hair, {hair}",
    "headwear": "a {headwear_colour} {headwear}",
    "facial_hair": "a {facial_hair_colour} {facial_hair}",
    "glasses": "{glasses}",
    "clothes": "{clothes_colour} {clothes}",
}
"""How a prompt says a drawn feature."""


class Faces(Portraits):
    """Base of the backends that generate photographs with a diffusion pipeline."""

    path: str = Field(min_length=1, description="folder of a diffusers pipeline in safetensors, or a hub id")
    revision: str | None = Field(None, description="commit, tag or branch on the hub")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="precision of the weights")
    steps: int = Field(30, ge=1, le=200, description="denoising steps an image")
    guidance: float = Field(5.0, ge=0, le=100, description="classifier-free guidance")
    embedder: str = ""
    """checks identity: 'insightface', or a folder of a transformers vision model; empty: no check"""
    min_same: float = Field(0.4, ge=-1, le=1, description="least cosine of a view and the own portrait")
    max_other: float = Field(0.75, ge=-1, le=1, description="cosine from which two people's portraits are one face")
    tries: int = Field(4, ge=1, le=50, description="images made at most until one passes the check")

    @property
    def needed_extra(self) -> str:
        """Pipelines of diffusion."""
        return EXTRA

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        """Generate one view of one person; a view that shows another face is made again, ``tries`` times at most."""
        self.check_view(view)
        best = -1.0
        for attempt in range(self.tries):
            image = self.generate(profile, view, derive(seed, "portrait", profile.id, view, attempt), seed)
            image = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.LANCZOS)
            if view == 0 or not self.embedder:
                return image
            own, face = (embedding(self.embedder, p)[None] for p in (self.render_first(profile, seed), image))
            same = float(cosines(face, own)[0, 0])
            if same >= self.min_same:
                return image
            best = max(best, same)
        raise DataError(
            f"portraits: view {view} of {profile.id}: {self.tries} images show another face than the portrait "
            f"(best cosine {best:.2f}, expected {self.min_same:g} at least). Raise 'tries', lower 'min_same', "
            "or use another model."
        )

    def render_first(self, profile: Profile, seed: int) -> Image.Image:
        """The portrait of a person, kept while this person's views are made."""
        return _first(self, profile.model_dump_json(), seed)

    @abstractmethod
    def generate(self, profile: Profile, view: int, noise: int, seed: int) -> Image.Image:
        """One image from one noise seed."""

    def verify(self, portraits: Sequence[tuple[str, Path]]) -> None:
        """Raise DataError if two people have one face; ``portraits`` are (id, file of view 0)."""
        if not self.embedder:
            return
        seen: list[Vectors] = []
        for person, path in portraits:
            with Image.open(path) as opened:
                own = embedding(self.embedder, opened.convert("RGB"))
            if (other := look_alike(own, seen, self.max_other)) is not None:
                raise DataError(
                    f"{path.name}: the face of {person} is that of {portraits[other][0]} (cosine {self.max_other:g} or "
                    "more). Use another seed, a model with more variety, or raise 'max_other'."
                )
            seen.append(own)


class OwnFaces(Faces):
    """Base of the backends that show the faces of your own images in other views."""

    portraits: Path = Field(Path("portraits"), description="folder of the canonical images, <id>.jpg, png or webp")
    embedder: str = Field(INSIGHTFACE, min_length=1)
    """'insightface', or a folder of a transformers vision model"""

    def generate(self, profile: Profile, view: int, noise: int, seed: int) -> Image.Image:
        """The person's own image as view 0, and the face in it drawn again as the others."""
        if view == 0:
            return Folder(path=self.portraits, size=self.size, num_views=1).render(profile, 0, seed)
        settings = {"guidance_scale": self.guidance, "num_inference_steps": self.steps}
        face_D = embedding(self.embedder, self.render_first(profile, seed))
        image: Image.Image = self.redrawn(profile, view, face_D, settings | {"generator": generator(noise)})
        return image

    @abstractmethod
    def redrawn(self, profile: Profile, view: int, face_D: Vectors, settings: dict[str, Any]) -> Any:
        """One view of a face, given as its embedding; ``settings`` are those of the pipeline's call."""


@functools.lru_cache(maxsize=1)
def _first(backend: Faces, profile: str, seed: int) -> Image.Image:
    return backend.render(Profile.model_validate_json(profile), 0, seed)


def unit(rows_ND: Vectors) -> Vectors:
    """Every row at length 1; a row of zeros stays one."""
    return np.asarray(rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=-1, keepdims=True), 1e-12), dtype=np.float32)


def cosines(a_ND: Vectors, b_MD: Vectors) -> Vectors:
    """Cosine of every row of one with every row of the other, [N, M]; 0 for a row of zeros."""
    return np.asarray(unit(a_ND) @ unit(b_MD).T, dtype=np.float32)


def look_alike(face_D: Vectors, others: Sequence[Vectors], threshold: float) -> int | None:
    """Position of the most similar other face if it is at least as similar as the threshold; None if none is."""
    if not others:
        return None
    similar = cosines(face_D[None], np.stack(others))[0]
    best = int(similar.argmax())
    return best if similar[best] >= threshold else None


def described(profile: Profile, seed: int) -> str:
    """A person in words: gender and age from the profile, the rest from the drawn features; nothing else leaks.

    Nationality, profession and name are left out on purpose: the image must not answer a question.
    """
    traits = features(profile, seed)
    if traits["glasses"] in ("square", "round"):
        traits["glasses"] += " glasses"
    seen = (words.format_map(traits) for feature, words in _SEEN.items() if traits[feature] != NONE)
    return f"photograph of one {who(profile)}, head and shoulders, {', '.join(seen)}"


def who(profile: Profile) -> str:
    """Gender and age in words, e.g. '37-year-old woman'; 'person' where neither is known."""
    gender = {"female": "woman", "male": "man"}.get(profile.attributes.get("gender", "").lower(), "person")
    words = profile.attributes.get("birth_date", "").split()
    year = next((int(word) for word in words if word.isdecimal() and len(word) == 4), 0)
    age = PORTRAIT_YEAR - year
    return f"{age}-year-old {gender}" if year and 0 < age < 120 else gender


def scene(view: int) -> str:
    """What is different in a view."""
    return "neutral expression, plain background" if view == 0 else SCENES[(view - 1) % len(SCENES)]


@functools.lru_cache(maxsize=2)
def pipeline(kind: str, path: str, revision: str | None, device: str, dtype: str) -> Any:
    """A diffusers pipeline of a class by name, on its device.

    Raises:
        DependencyError: diffusers is not installed.
        ModelError: it cannot be loaded, e.g. because its weights are pickled.
    """
    with needs_extra("portraits by diffusion", EXTRA):
        import diffusers
    import torch

    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    half = dtype == "auto" and place.startswith("cuda")
    weights = getattr(torch, "float16" if half else "float32" if dtype == "auto" else dtype)
    checker = {"safety_checker": None, "requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    try:
        loaded = getattr(diffusers, kind).from_pretrained(
            path, revision=revision, torch_dtype=weights, use_safetensors=True, trust_remote_code=False, **checker
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"portraits.path: '{path}' cannot be loaded as a {kind}: {' '.join(str(error).split())[:300]}. "
            "Expected a folder saved by save_pretrained in safetensors, or a hub id."
        ) from None
    loaded.set_progress_bar_config(disable=True)
    return loaded.to(place)


def generator(seed: int) -> Any:
    """A generator on the CPU, so that an image does not depend on the device's random numbers."""
    import torch

    return torch.Generator("cpu").manual_seed(seed % 2**63)


def embedding(embedder: str, image: Image.Image) -> Vectors:
    """The embedding of the face in an image, [D].

    Raises:
        DataError: there is no face.
    """
    return _insightface(image) if embedder == INSIGHTFACE else _vision(embedder, image)


def _insightface(image: Image.Image) -> Vectors:
    found = _face_analysis().get(np.asarray(image.convert("RGB"))[:, :, ::-1])
    if not found:
        raise DataError("portraits: no face is found in an image. Use a larger 'size' or a model that draws faces.")
    largest = max(found, key=lambda face: (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]))
    return np.asarray(largest.embedding, dtype=np.float32)


@functools.lru_cache(maxsize=1)
def _face_analysis() -> Any:
    with needs_extra("the face check by insightface", EXTRA):
        from insightface.app import FaceAnalysis
    try:
        analysis = FaceAnalysis(name=FACE_MODEL)
        analysis.prepare(ctx_id=0, det_size=(640, 640))
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split())[:200] or "no models"
        raise ModelError(
            f"portraits.embedder: insightface cannot load '{FACE_MODEL}': {why}. "
            f"Put its .onnx files into ~/.insightface/models/{FACE_MODEL}, or name a vision model by its folder."
        ) from None
    return analysis


def _vision(path: str, image: Image.Image) -> Vectors:
    import torch

    processor, model = _vision_model(path)
    pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        hidden = model(pixel_values=pixels).last_hidden_state[:, 0]
    return np.asarray(hidden[0].float().numpy(), dtype=np.float32)


@functools.lru_cache(maxsize=1)
def _vision_model(path: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel

    try:
        kind = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
        cls = CLIPVisionModel if kind in ("clip", "clip_vision_model") else AutoModel
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
        model = cls.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"portraits.embedder: '{path}' cannot be loaded: {' '.join(str(error).split())[:300]}."
        ) from None
    return processor, model.eval()
