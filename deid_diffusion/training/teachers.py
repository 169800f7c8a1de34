"""Loads the frozen networks that judge generated faces, and gives each its view of a face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ResNetForImageClassification

from deid_diffusion.faces.attribute_classifiers import AttributeClassifiers
from deid_diffusion.faces.estimator import shrink
from deid_diffusion.faces.geometry import OMZ_TEMPLATE, fit_similarity
from deid_diffusion.pipelines.id_encoder import WINDOW

RECOGNISER_SIDE = 128  # px
MAX_SHIFT = 10  # px: the identity encoder gets another view each time, so that no one view can be fooled


@dataclass(frozen=True)
class FrozenTeachers:
    """Frozen networks whose gradients say what is missing in a generated face.

    Attributes:
        estimator: landmarks and attributes, as `deid train estimator` makes it.
        id_encoder: identity, as `deid train id_encoder` makes it.
        recogniser: the one that made the `embedding` labels: (B, 3, 128, 128) BGR in 0..255, aligned to OMZ_TEMPLATE,
            to (B, D). What fools one of two recognisers seldom fools both, and least of all a third. None for none.
        classifiers: second opinions on glasses and facial hair, by their edges; None for none.
    """

    estimator: ResNetForImageClassification
    id_encoder: ResNetForImageClassification
    recogniser: torch.nn.Module | None = None
    classifiers: AttributeClassifiers | None = None

    @classmethod
    def load(
        cls,
        estimator: str | Path,
        id_encoder: str | Path,
        device: torch.device,
        recogniser: str | Path = "",
        classifiers: str | Path = "",
    ) -> FrozenTeachers:
        """Loads networks and freezes them.

        Args:
            estimator: folder that `deid train estimator` wrote.
            id_encoder: folder that `deid train id_encoder` wrote.
            device: where they run.
            recogniser: TorchScript file; empty for none.
            classifiers: safetensors that `deid train label` wrote beside the labels; none if there is no such file.
        """
        first, second = (
            ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
            for folder in (Path(estimator) / "network", Path(id_encoder) / "id_encoder")
        )
        script = None
        if recogniser:
            script = torch.jit.load(str(recogniser), map_location=device).eval()
            for weight in script.parameters():
                weight.requires_grad_(False)  # a ScriptModule knows no requires_grad_ of its own
        fitted = AttributeClassifiers.load(Path(classifiers)) if classifiers and Path(classifiers).exists() else None
        return cls(first.to(device), second.to(device), script, fitted)

    def estimator_states(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, S, S) in [-1, 1] -> the estimator's hidden states, (B, C, h, w) each, with gradients."""
        return self.estimator(shrink(images), output_hidden_states=True).hidden_states


def recogniser_view(images: torch.Tensor, five: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Faces aligned for the recogniser, a little off at random and mirrored half the time.

    Args:
        images: (B, 3, S, S) RGB in [-1, 1].
        five: (B, 5, 2) irises, nose tip, mouth corners in pixels.
        generator: for how far off.

    Returns:
        (B, 3, 128, 128) BGR in 0..255.
    """
    size = images.shape[-1]
    points = five / size * 2 - 1  # -1..1 across the crop, as affine_grid counts
    points = points + torch.randn(points.shape, generator=generator).to(points) * 0.015
    fits = [fit_similarity(OMZ_TEMPLATE * 2 - 1, face) for face in points.double().cpu().numpy()]
    crop_from_view = images.new_tensor(np.stack([np.column_stack([zoom * turn, shift]) for zoom, turn, shift in fits]))
    shape = [len(images), 3, RECOGNISER_SIDE, RECOGNISER_SIDE]
    grid = F.affine_grid(crop_from_view, shape, align_corners=False)
    view = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if torch.rand((), generator=generator) < 0.5:
        view = view.flip(-1)
    return (view.flip(1) + 1) * 127.5


def augmented_view(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, tuple[int, int]]:
    """The same faces as the identity encoder gets them: at a random resolution, mirrored or not, and shifted.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        generator: for all three.

    Returns:
        (B, 3, S, S), and the shift in pixels, x y, that `embed` is to be given.
    """
    side, size = int(torch.randint(96, 257, (), generator=generator)), images.shape[-1]
    if side < size:
        small = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        images = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    bound = min(MAX_SHIFT, (size - int(size * WINDOW)) // 2)
    x, y = torch.randint(-bound, bound + 1, (2,), generator=generator).tolist()
    return images, (x, y)
