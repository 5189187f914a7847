"""Generated portraits, on pipelines of a few thousand random weights: loading, prompts, determinism, identity."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from mllmu.core.errors import DataError, DependencyError, ModelError, RecipeError
from mllmu.core.plugins import build
from mllmu.data.portraits import _faces
from mllmu.data.portraits._faces import described, embedding, pipeline
from mllmu.data.portraits.arc2face import Arc2Face, face_prompt
from mllmu.data.portraits.diffusion import Diffusion
from mllmu.data.portraits.ip_adapter_faceid import IpAdapterFaceid, adapted, face_tensor
from mllmu.data.sources.synthetic import Synthetic

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'faces'")
pytestmark = pytest.mark.filterwarnings("ignore")

ANNA, BEN = Synthetic(num_people=2).profiles(0)
FAST: dict[str, Any] = {"device": "cpu", "steps": 2, "size": 32, "num_views": 3, "guidance": 2.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion pipeline, saved."""
    folder = tmp_path_factory.mktemp("sd")
    tokenizer = _tokenizer(folder / "words")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=1
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(num_train_timesteps=50),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipe")
    return folder / "pipe"


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of letters in which 'id' is one token."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789,-"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters), "id</w>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\ni d</w>\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random vision model that serves as face encoder."""
    from transformers import CLIPVisionConfig, CLIPVisionModel
    from transformers.models.clip import CLIPImageProcessor

    folder = tmp_path_factory.mktemp("eyes")
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    _faces._first.cache_clear()


def test_a_portrait_is_generated_twice_the_same_and_differs_by_person_view_and_seed(tiny: Path) -> None:
    backend = Diffusion(path=str(tiny), **FAST)
    first = backend.render(ANNA, 0, 5)
    assert first.size == (32, 32) and first.mode == "RGB" and first.tobytes() == backend.render(ANNA, 0, 5).tobytes()
    images = [first, backend.render(BEN, 0, 5), backend.render(ANNA, 1, 5), backend.render(ANNA, 0, 6)]
    assert len({image.tobytes() for image in images}) == 4


def test_the_prompt_says_what_is_seen_and_nothing_that_is_asked() -> None:
    text = described(ANNA, 0)
    assert ("woman" in text) == (ANNA.attributes["gender"] == "female") and "year-old" in text
    for attribute in ("name", "profession", "birthplace", "residence", "education", "salary"):
        assert ANNA.attributes[attribute].casefold() not in text.casefold()
        assert not {w for w in ANNA.attributes["name"].split() if w in text}


def test_a_view_that_shows_another_face_is_made_again_and_then_refused(tiny: Path, eyes: Path) -> None:
    kind = Diffusion(path=str(tiny), embedder=str(eyes), min_same=-1, **FAST)
    assert kind.render(ANNA, 1, 0).size == (32, 32)
    strict = Diffusion(path=str(tiny), embedder=str(eyes), min_same=1.0, tries=2, **FAST)
    with pytest.raises(DataError, match=r"view 1 of 001: 2 images show another face .*best cosine .*Raise 'tries'"):
        strict.render(ANNA, 1, 0)


def test_two_people_with_one_face_are_found(tiny: Path, eyes: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}_0.png")
    files = [(name, tmp_path / f"{name}_0.png") for name in ("a", "b")]
    Diffusion(path=str(tiny), embedder=str(eyes), max_other=1.0, **FAST).verify(files)
    with pytest.raises(DataError, match="the face of b is that of a"):
        Diffusion(path=str(tiny), embedder=str(eyes), max_other=0.0, **FAST).verify(files)
    Diffusion(path=str(tiny), max_other=0.0, **FAST).verify(files)  # no embedder, no check


def test_a_face_stands_for_the_word_id_in_the_prompt_and_nowhere_else(tiny: Path) -> None:
    pipe = pipeline("StableDiffusionPipeline", str(tiny), None, "cpu", "auto")
    face, other = (np.eye(24, dtype=np.float32)[n] * 3 for n in (0, 1))
    plain = face_prompt(pipe, None)
    assert plain.shape == (1, 77, 32)
    one, two, scaled = face_prompt(pipe, face), face_prompt(pipe, other), face_prompt(pipe, face * 7)
    assert torch.equal(one, scaled) and not torch.allclose(one, two)
    # 'photo of a' comes before the face, and the text encoder is causal
    before = 1 + len(pipe.tokenizer("photo of a", add_special_tokens=False).input_ids)
    assert torch.equal(one[:, :before], two[:, :before]) and not torch.allclose(one[:, before], two[:, before])
    assert torch.equal(face_prompt(pipe, None), plain), "the hook is gone"
    with pytest.raises(ModelError, match="a face of 40 numbers must fit into token embeddings of 32"):
        face_prompt(pipe, np.ones(40, dtype=np.float32))


def test_arc2face_draws_views_of_your_own_images(tiny: Path, eyes: Path, tmp_path: Path) -> None:
    for person, colour in ((ANNA, "red"), (BEN, "blue")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{person.id}.jpg")
    backend = Arc2Face(path=str(tiny), portraits=tmp_path, embedder=str(eyes), min_same=-1, **FAST)
    assert backend.render(ANNA, 0, 0).getpixel((16, 16))[0] > 240
    views = [backend.render(person, 1, 0) for person in (ANNA, BEN)]
    assert views[0].size == (32, 32) and views[0].tobytes() != views[1].tobytes()
    assert backend.render(ANNA, 1, 0).tobytes() == views[0].tobytes()


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random IP-Adapter-FaceID for the tiny pipeline and faces of 24 numbers."""
    from safetensors.torch import save_file

    pipe = pipeline("StableDiffusionPipeline", str(tiny), None, "cpu", "auto")
    torch.manual_seed(2)
    weights = {
        "image_proj.proj.0.weight": torch.randn(48, 24),
        "image_proj.proj.0.bias": torch.zeros(48),
        "image_proj.proj.2.weight": torch.randn(4 * 32, 48),
        "image_proj.proj.2.bias": torch.zeros(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }
    number = 1
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            for part in ("to_k_ip", "to_v_ip"):
                weights[f"ip_adapter.{number}.{part}.weight"] = torch.randn(module.to_k.weight.shape)
            number += 2
    folder = tmp_path_factory.mktemp("adapter")
    save_file(weights, folder / "face.safetensors")
    return folder


def test_an_ip_adapter_puts_a_face_beside_a_prompt(tiny: Path, eyes: Path, adapter: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for person in (ANNA, BEN):
        noise = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{person.id}.png")
    made = {"path": str(tiny), "portraits": tmp_path, "embedder": str(eyes), "adapter": str(adapter), "min_same": -1}
    backend = IpAdapterFaceid(**made, weight_name="face.safetensors", **FAST)
    views = [backend.render(person, view, 0) for person in (ANNA, BEN) for view in (1, 2)]
    assert len({view.tobytes() for view in views}) == 4
    assert backend.render(BEN, 2, 0).tobytes() == views[3].tobytes()
    twin = ANNA.model_copy(update={"id": BEN.id})  # ANNA's prompt with BEN's face and noise
    other = BEN.model_copy(update={"id": ANNA.id})
    assert backend.render(twin, 1, 0).tobytes() != backend.render(other, 1, 0).tobytes()
    unguided = IpAdapterFaceid(**made, weight_name="face.safetensors", **{**FAST, "guidance": 1.0})
    assert unguided.render(ANNA, 1, 0).size == (32, 32)


def test_the_face_and_not_only_the_prompt_decides(tiny: Path, adapter: Path) -> None:
    pipe = adapted(str(tiny), None, "cpu", "auto", str(adapter), "face.safetensors")
    pipe.set_ip_adapter_scale(1.0)
    images = []
    for place in (0, 1):
        face = face_tensor(pipe, np.eye(24, dtype=np.float32)[place] * 9, guided=True)
        assert face.shape == (2, 1, 1, 24) and face[0].abs().sum() == 0 and face[1].norm() == 1
        generator = torch.Generator("cpu").manual_seed(0)
        made = pipe(
            prompt="a person",
            ip_adapter_image_embeds=[face],
            num_inference_steps=2,
            generator=generator,
            width=16,
            height=16,
        )
        images.append(made.images[0].tobytes())
    assert images[0] != images[1]


def test_a_pickled_or_missing_adapter_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="weight_name"):
        build("portraits", "ip_adapter_faceid", {"path": "x", "adapter": "y", "weight_name": "face.bin"})
    with pytest.raises(ModelError, match=r"portraits\.adapter: .* cannot be loaded"):
        adapted(str(tiny), None, "cpu", "auto", str(tmp_path), "face.safetensors")


def test_pickled_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "pipe")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"portraits\.path: .* cannot be loaded as a StableDiffusionPipeline"):
        pipeline("StableDiffusionPipeline", str(folder), None, "cpu", "auto")


class FakeAnalysis:
    """Has the two methods of insightface's class that are used; finds as many faces as it is told."""

    faces: ClassVar[list[Any]] = []

    def __init__(self, name: str) -> None:
        assert name == "antelopev2"

    def prepare(self, ctx_id: int, det_size: tuple[int, int]) -> None:
        assert self.faces and det_size and ctx_id == 0

    def get(self, pixels: np.ndarray) -> list[Any]:
        assert pixels[0, 0].tolist() == [0, 0, 255], "blue, green, red"
        return [face for face in self.faces if face.bbox]


def test_the_largest_face_of_a_image_counts_and_no_face_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (8, 8), "red")
    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FakeAnalysis))
    _faces._face_analysis.cache_clear()
    with pytest.raises(ModelError, match="insightface cannot load 'antelopev2'"):
        embedding("insightface", image)
    small, large = (SimpleNamespace(bbox=[0, 0, n, n], embedding=np.full(3, n)) for n in (2, 5))
    monkeypatch.setattr(FakeAnalysis, "faces", [small, large])
    assert embedding("insightface", image).tolist() == [5, 5, 5]
    monkeypatch.setattr(FakeAnalysis, "faces", [SimpleNamespace(bbox=[])])
    with pytest.raises(DataError, match="no face is found"):
        embedding("insightface", image)
    _faces._face_analysis.cache_clear()


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _faces._face_analysis.cache_clear()
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(DependencyError, match="faces"):
        embedding("insightface", Image.new("RGB", (32, 32)))
