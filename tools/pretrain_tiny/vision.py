"""Phase one of the pre-training: the vision tower as a face encoder.

Drawn faces are free, so the tower is trained on thousands of drawn people who appear nowhere else: two random views
of the same person must be nearer to each other than to anyone else (InfoNCE), and the visible features (hair, skin,
glasses, ...) must be readable. It is frozen afterwards, so that learning a person's image is only a mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mllmu.core.process import derive, rng

# A person's drawings and, from them, one randomly transformed training view.
Sprites = Sequence[Image.Image]
Transform = Callable[[Image.Image, Any, float], Image.Image]


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images [64x64 RGB] to normalised pixels [N, 3, 64, 64] in [-1, 1], as the processor does."""
    stack = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2) / 127.5 - 1.0


def info_nce(a_BD: Tensor, b_BD: Tensor, *, temperature: float) -> Tensor:
    """Symmetric InfoNCE between two views of the same B people; lower means views find their person.

    L = mean over both directions of CE(cos(a_i, b_j) / temperature, i). Equals ln(B) when all are alike.

    Args:
        a_BD, b_BD: [B, D] embeddings of the first and the second view, any length (normalised here).
    """
    logits = F.normalize(a_BD, dim=1) @ F.normalize(b_BD, dim=1).T / temperature
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class FeatureHeads(nn.Module):
    """Linear read-outs of the visible features from the CLS token; used in training only, then thrown away."""

    def __init__(self, width: int, classes: dict[str, list[str]]) -> None:
        super().__init__()
        self.classes = classes
        self.heads = nn.ModuleDict({key: nn.Linear(width, len(values)) for key, values in classes.items()})

    def loss(self, cls_BD: Tensor, features: Sequence[dict[str, str]]) -> Tensor:
        """Mean over features of the cross-entropy over people, in nats."""
        terms = []
        for key, head in self.heads.items():
            target = torch.tensor([self.classes[key].index(f[key]) for f in features])
            terms.append(F.cross_entropy(head(cls_BD), target))
        return torch.stack(terms).mean()


def train_tower(
    tower: Any,
    sprites: Sequence[Sprites],
    features: Sequence[dict[str, str]],
    transform: Transform,
    *,
    steps: int,
    batch: int,
    seed: int,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Train a CLIP vision tower in place on drawn people.

    Args:
        tower: called with ``pixel_values`` [B, 3, 64, 64]; its last hidden state [B, 1 + patches, D] is trained on
            the CLS token (position 0), the one that LLaVA's projector gets too.
        sprites: per person, drawings with different expressions.
        features: per person, the visible features by name.
    """
    classes = {key: sorted({f[key] for f in features}) for key in features[0]}
    torch.manual_seed(derive(seed, "feature-heads"))
    width = tower.config.hidden_size
    heads = FeatureHeads(width, {k: v for k, v in classes.items() if len(v) > 1})
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        draw = rng(seed, "tower", step)
        people = draw.sample(range(len(sprites)), batch)
        pixels = to_pixels([transform(draw.choice(sprites[p]), draw, draw.random()) for _ in range(2) for p in people])
        cls = tower(pixel_values=pixels).last_hidden_state[:, 0]
        contrast = info_nce(cls[:batch], cls[batch:], temperature=0.07)
        visible = heads.loss(cls, [features[p] for p in people * 2])
        (contrast + visible).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, {"contrast": contrast.item(), "visible": visible.item()})


@torch.no_grad()
def identification_rate(tower: Any, gallery: Tensor, probe: Tensor) -> float:
    """Share of probes [N, ...] whose nearest gallery image (cosine of CLS) is the same person's; 1/N is chance."""
    a = F.normalize(tower(pixel_values=gallery).last_hidden_state[:, 0], dim=1)
    b = F.normalize(tower(pixel_values=probe).last_hidden_state[:, 0], dim=1)
    return float(((b @ a.T).argmax(1) == torch.arange(len(a))).float().mean())
