"""Tells glasses, facial hair and presented gender by edges and texture, with one linear classifier each.

Thin rims and light beards are a matter of a few pixels, which a small network that sees the whole crop at 128 px
loses. The crops are aligned by the eyes, so a logistic regression on edge directions finds them; and, being linear, it
holds on photos of real people what it promised on generated ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ANGLES, CELL = 9, 8  # of half a turn; px of the region as seen
FLAT = 1e-6  # an edge that is none, in units of the full range
FILE = "attribute_classifiers.safetensors"


@dataclass(frozen=True)
class Region:
    """Where an attribute shows: px of the 256 px crop about the middle of some landmarks."""

    around: tuple[int, int]  # FaceMesh numbers
    half_width: float
    top: float
    bottom: float
    size: tuple[int, int]  # rows, columns that it is seen at
    decay: float  # L2 penalty on the classifier's weights, chosen on the labels
    person: bool = False  # when labels are spread, also by those of the person: facial hair goes with gender and age


REGIONS = {
    "glasses": Region((468, 473), 66, -30, 36, (48, 96), 0.03),
    "facial_hair": Region((13, 14), 56, -28, 60, (64, 80), 0.1, person=True),
    "male": Region((468, 473), 115, -100, 140, (96, 96), 0.1),
}


@dataclass(frozen=True, eq=False)
class AttributeClassifiers:
    """Fitted by `deid train label`.

    Attributes:
        weights: for each attribute (D + 1,) float32, the last one the bias; D as `look` gives for its region.
    """

    weights: dict[str, torch.Tensor]

    @classmethod
    def load(cls, path: Path) -> AttributeClassifiers:
        """Reads `attribute_classifiers.safetensors`.

        Raises:
            ValueError: it holds attributes that have no region.
        """
        from safetensors.torch import load_file

        weights = {name: value.float() for name, value in load_file(path).items()}
        if not weights.keys() <= REGIONS.keys():
            raise ValueError(f"{path} must hold classifiers for {', '.join(REGIONS)}; got {', '.join(weights)}")
        return cls(weights)

    def save(self, path: Path) -> None:
        """Writes float32 safetensors: a few thousand numbers."""
        from safetensors.torch import save_file

        save_file({name: value.float().contiguous() for name, value in self.weights.items()}, path)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, landmarks: np.ndarray) -> dict[str, torch.Tensor]:
        """(B, 3, S, S) in [-1, 1], (B, 478, 3) crop pixels -> (B,) probabilities for each attribute."""
        points = torch.from_numpy(np.ascontiguousarray(landmarks, np.float32)).to(images)
        unit = images.clamp(-1, 1) / 2 + 0.5
        return {
            name: apply_classifier(weights.to(images), look(unit, points, REGIONS[name])).sigmoid()
            for name, weights in self.weights.items()
        }


def look(unit: torch.Tensor, landmarks: torch.Tensor, region: Region) -> torch.Tensor:
    """(B, 3, S, S) in 0..1, (B, 478, 3) px -> (B, D): the region described; a face and its mirror image are alike.

    Args:
        unit: (B, 3, S, S) in [0, 1].
        landmarks: (B, 478, 3) crop pixels.
        region: of the face.
    """
    seen = cut_region(unit, landmarks, region)
    return (describe(seen) + describe(seen.flip(-1))) / 2


def cut_region(images: torch.Tensor, landmarks: torch.Tensor, region: Region) -> torch.Tensor:
    """(B, 3, S, S) any range, (B, 478, 3) px -> (B, 3, *region.size).

    Args:
        images: (B, 3, S, S), any range.
        landmarks: (B, 478, 3) crop pixels.
        region: of the face.
    """
    half = images.shape[-1] / 2
    centre = landmarks[:, list(region.around), :2].float().mean(1) / half - 1
    from_out = images.new_zeros(len(images), 2, 3, dtype=torch.float32)
    from_out[:, 0, 0] = region.half_width / 128
    from_out[:, 1, 1] = (region.bottom - region.top) / 2 / 128
    from_out[:, 0, 2] = centre[:, 0]
    from_out[:, 1, 2] = centre[:, 1] + (region.top + region.bottom) / 2 / 128
    grid = F.affine_grid(from_out, [len(images), 3, *region.size], align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)


def describe(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in 0..1 -> (B, D): histograms of edge directions (Dalal and Triggs 2005), fine texture, colour."""
    grey = images.mean(1, keepdim=True)
    across = F.pad(grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2], (1, 1, 1, 1))
    down = F.pad(grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1], (1, 1, 1, 1))
    # Where nothing changes no direction has a gradient, and training asks for one.
    down = torch.where(across.square() + down.square() < FLAT**2, FLAT, down)
    angle = torch.atan2(down, across) % torch.pi / torch.pi * ANGLES
    apart = (angle - torch.arange(ANGLES).to(angle).view(1, -1, 1, 1)).abs()
    share = (1 - torch.minimum(apart, ANGLES - apart)).clamp_min(0)
    edges = F.avg_pool2d(torch.hypot(across, down) * share, CELL)
    around = F.avg_pool2d(edges.square().sum(1, keepdim=True), 3, 1, 1).sqrt()
    fine = F.avg_pool2d((grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)).abs(), CELL)
    colour = F.avg_pool2d(images, CELL // 2)
    parts = edges / (around + 0.01), (fine * 50).log1p(), (colour - colour.mean((2, 3), keepdim=True)) * 5
    return torch.cat([part.flatten(1) for part in parts], 1)


def apply_classifier(classifier: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(D + 1,), (N, D) -> (N,) logits."""
    return features @ classifier[:-1] + classifier[-1]
