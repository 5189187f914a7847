"""Photographs of one face in many scenes, from its face embedding beside a text prompt: IP-Adapter-FaceID."""

import functools
from typing import Any

from pydantic import Field

from mllmu.core.errors import ModelError
from mllmu.core.records import Profile
from mllmu.data.portraits._faces import NEGATIVE, OwnFaces, Vectors, pipeline, scene, unit, who


class IpAdapterFaceid(OwnFaces):
    """Identity-preserving views of your own portraits (a folder), in scenes that a prompt describes.

    View 0 is the image in ``portraits``. Its ArcFace embedding is given to the UNet through an IP-Adapter-FaceID
    beside a prompt with gender, age and scene, so views vary more than with ``arc2face`` and keep the face less
    exactly. Every view is compared with the portrait (``min_same``). Needs the extra ``faces`` and, in practice, a GPU.

    The adapter must be in safetensors, with keys ``image_proj.*`` and ``ip_adapter.*``; the published file is pickled
    and has to be converted once by its user, see docs/how-to/make-your-own-benchmark.md.

    Source: Ye et al. 2023, arXiv:2308.06721.
    """

    source = "https://arxiv.org/abs/2308.06721"

    adapter: str = Field(min_length=1, description="folder or hub id of the adapter")
    weight_name: str = Field("ip-adapter-faceid_sd15.safetensors", pattern=r"^[\w.-]+\.safetensors$")
    """its file"""
    adapter_scale: float = Field(0.8, gt=0, le=2, description="weight of the face against the text")

    def redrawn(self, profile: Profile, view: int, face_D: Vectors, settings: dict[str, Any]) -> Any:
        pipe = adapted(self.path, self.revision, self.device, self.dtype, self.adapter, self.weight_name)
        pipe.set_ip_adapter_scale(self.adapter_scale)
        face = face_tensor(pipe, face_D, guided=self.guidance > 1)
        prompt = f"photograph of one {who(profile)}, head and shoulders, {scene(view)}"
        return pipe(prompt=prompt, negative_prompt=NEGATIVE, ip_adapter_image_embeds=[face], **settings).images[0]


@functools.lru_cache(maxsize=1)
def adapted(path: str, revision: str | None, device: str, dtype: str, adapter: str, weight_name: str) -> Any:
    """A pipeline of its own with the adapter in it; others must not be changed by it.

    Raises:
        ModelError: the adapter is missing or does not fit.
    """
    pipe = pipeline.__wrapped__("AutoPipelineForText2Image", path, revision, device, dtype)
    try:
        pipe.load_ip_adapter(adapter, subfolder="", weight_name=weight_name, image_encoder_folder=None)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"portraits.adapter: '{adapter}' cannot be loaded ({' '.join(str(error).split())[:200]}). Expected "
            f"{weight_name} with keys image_proj.* and ip_adapter.*, made for the model in 'path'."
        ) from None
    return pipe


def face_tensor(pipe: Any, face_D: Vectors, *, guided: bool) -> Any:
    """The face at length 1 as [1, 1, 1, D]; with guidance a face of zeros before it, [2, 1, 1, D]."""
    import torch

    face = torch.from_numpy(unit(face_D))[None, None, None]
    both = torch.cat([torch.zeros_like(face), face]) if guided else face
    return both.to(pipe.device, pipe.dtype)
