"""Photographs of one face in many views, from its face embedding: Arc2Face."""

from typing import Any

from pydantic import Field

from mllmu.core.errors import ModelError
from mllmu.core.records import Profile
from mllmu.data.portraits._faces import OwnFaces, Vectors, pipeline, unit

PROMPT = "photo of a id person"
WORD = "id"


class Arc2Face(OwnFaces):
    """Identity-preserving views of your own portraits (a folder), as the paper made its Test images.

    View 0 is the image in ``portraits``. Its ArcFace embedding stands for the word 'id' in the prompt 'photo of a id
    person', and the pipeline draws that face again in another pose, light and place. Every view is compared with the
    portrait (``min_same``). ``path`` is a StableDiffusionPipeline whose text encoder and UNet are Arc2Face's, saved in
    safetensors; see docs/how-to/make-your-own-benchmark.md. Needs the extra ``faces`` and, in practice, a GPU.

    The embedding is put in by a hook on the token embeddings, so Arc2Face's own package is not needed.

    Source: Papantoniou et al. 2024, arXiv:2403.11641.
    """

    source = "https://arxiv.org/abs/2403.11641"

    guidance: float = Field(3.0, ge=0, le=100, description="classifier-free guidance")

    def redrawn(self, profile: Profile, view: int, face_D: Vectors, settings: dict[str, Any]) -> Any:
        pipe = pipeline("StableDiffusionPipeline", self.path, self.revision, self.device, self.dtype)
        prompts = {"prompt_embeds": face_prompt(pipe, face_D), "negative_prompt_embeds": face_prompt(pipe, None)}
        return pipe(**prompts, **settings).images[0]


def face_prompt(pipe: Any, face_D: Vectors | None) -> Any:
    """The encoded prompt [1, T, C] with a face in place of the word 'id'; the empty prompt for None.

    The embedding is scaled to length 1 and filled with zeros up to the width of the token embeddings.

    Raises:
        ModelError: the embedding is wider than the token embeddings, or 'id' is not one token.
    """
    import torch

    text = PROMPT if face_D is not None else ""
    ids = pipe.tokenizer(
        text, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids.to(pipe.device)
    with torch.inference_mode():
        if face_D is None:
            return pipe.text_encoder(ids)[0]
        table = pipe.text_encoder.get_input_embeddings()
        mark = pipe.tokenizer(WORD, add_special_tokens=False).input_ids
        if len(mark) != 1 or len(face_D) > table.embedding_dim:
            raise ModelError(
                f"portraits.path: not an Arc2Face pipeline: '{WORD}' is {len(mark)} tokens, and a face of "
                f"{len(face_D)} numbers must fit into token embeddings of {table.embedding_dim}."
            )
        face = torch.zeros(table.embedding_dim, dtype=table.weight.dtype, device=table.weight.device)
        face[: len(face_D)] = torch.from_numpy(unit(face_D)).to(face)

        def put_in(_: Any, given: tuple[Any, ...], output: Any) -> Any:
            return torch.where((given[0] == mark[0])[..., None], face, output)

        handle = table.register_forward_hook(put_in)
        try:
            return pipe.text_encoder(ids)[0]
        finally:
            handle.remove()
