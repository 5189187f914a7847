"""Photographs of people who do not exist, by any text-to-image pipeline of diffusers."""

from typing import Any

from PIL import Image
from pydantic import Field

from mllmu.core.records import Profile
from mllmu.data.portraits._faces import NEGATIVE, Faces, described, generator, pipeline, scene


class Diffusion(Faces):
    """Generated photographs: text to image for the portrait, image to image for the transformed views.

    The prompt says gender, age and drawn features (hair, glasses, clothes), never name, job or origin. Views start from
    the portrait with ``strength`` noise, so the face stays roughly the same; set ``embedder`` to have that checked, or
    use ``arc2face``, which keeps a face by its embedding. Needs the extra ``faces`` and, in practice, a GPU.

    Source: Rombach et al. 2022, arXiv:2112.10752 (latent diffusion); diffusers.
    """

    source = "https://arxiv.org/abs/2112.10752"
    invented = True

    strength: float = Field(0.55, gt=0, le=1, description="noise added to the portrait for a view; 1: a new image")

    def generate(self, profile: Profile, view: int, noise: int, seed: int) -> Image.Image:
        settings: dict[str, Any] = {
            "prompt": f"{described(profile, seed)}, {scene(view)}",
            "negative_prompt": NEGATIVE,
            "guidance_scale": self.guidance,
            "generator": generator(noise),
            "num_inference_steps": self.steps,
        }
        if view:
            steps = max(self.steps, round(1 / self.strength) + 1)
            first = self.render_first(profile, seed)
            settings |= {"image": first, "strength": self.strength, "num_inference_steps": steps}
        kind = "AutoPipelineForImage2Image" if view else "AutoPipelineForText2Image"
        image: Image.Image = pipeline(kind, self.path, self.revision, self.device, self.dtype)(**settings).images[0]
        return image
