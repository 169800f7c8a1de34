"""Reads how far eyes and mouth are open, from close-ups: landmarks of a whole small face hardly see a blink.

The estimator looks at 128 pixels of a head, in which a lid moves by two of them; trained on open eyes, it calls shut
ones open. This network sees the eyes and the mouth alone, larger, and has seen shut ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .geometry import EYES, IRIS_LEFT, IRIS_RIGHT, MOUTH_LEFT, MOUTH_RIGHT
from .network import load_network

FOLDER = "apertures"
SIDE = 48  # px, side of a close-up as the network sees it
SEEN = (0.22, 0.36)  # of the crop's side: the width of an eye's close-up, and of the mouth's
OUTPUTS = 2  # opening of the eye and of the mouth; each close-up is asked for its own


def close_ups(
    images: torch.Tensor, points: torch.Tensor, wider: float = 1.0, side: int = SIDE, reach: Sequence[float] = SEEN
) -> torch.Tensor:
    """Cuts both eyes and the mouth.

    Args:
        images: (B, 3, S, S) of any range.
        points: (B, 478, 2 or 3) x y in crop pixels; four corners, irises and mouth corners are read.
        wider: factor on what is seen.
        side: of the close-ups in pixels.
        reach: width of the two kinds, in crop sides.

    Returns:
        (B, 3, 3, side, side): the image's left eye, its right eye mirrored so that both look alike, the mouth; level
        with the eyes.
    """
    size = images.shape[-1]
    points = points[..., :2].to(images)
    across = points[:, IRIS_RIGHT] - points[:, IRIS_LEFT]
    across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True).clamp_min(1e-3)
    down = torch.stack([-across[:, 1], across[:, 0]], -1)
    kinds = (EYES[0][:2], 1, reach[0]), (EYES[1][:2], -1, reach[0]), ((MOUTH_LEFT, MOUTH_RIGHT), 1, reach[1])
    maps = []
    for corners, mirror, width in kinds:
        centre = points[:, list(corners)].mean(1) / size * 2 - 1
        maps.append(torch.stack([across * mirror * width * wider, down * width * wider, centre], -1))
    theta = torch.stack(maps, 1).flatten(0, 1)
    grid = F.affine_grid(theta, [len(theta), 3, side, side], align_corners=False)
    repeated = images.repeat_interleave(3, 0)
    return F.grid_sample(repeated, grid, padding_mode="border", align_corners=False).unflatten(0, (-1, 3))


class ApertureReader:
    """A small residual network over close-ups."""

    def __init__(self, network: Any) -> None:
        """Takes a finished network.

        Args:
            network: (B, 3, SIDE, SIDE) in [-1, 1] -> (B, OUTPUTS).
        """
        self.network = network

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> ApertureReader:
        """Loads what `deid train apertures` wrote.

        Args:
            folder: of the network.
            device: a torch device.

        Raises:
            ValueError: a network of another width.
        """
        network = load_network(folder)
        if network.config.num_labels != OUTPUTS:
            raise ValueError(f"the network in {folder} gives {network.config.num_labels} numbers, wanted {OUTPUTS}")
        return cls(network.eval().to(device))

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, landmarks: np.ndarray) -> dict[str, torch.Tensor]:
        """Both openings, in the units of the attributes of these names.

        Args:
            images: (B, 3, S, S) in [-1, 1].
            landmarks: (B, 478, 3) float32 crop pixels.

        Returns:
            eyes_open and mouth_open, (B,) float32 each, in [0, 1].
        """
        views = close_ups(images, torch.from_numpy(landmarks))
        found = self.network(views.flatten(0, 1).to(self.network.device)).logits.unflatten(0, (-1, 3)).cpu()
        return {"eyes_open": found[:, :2, 0].mean(1).clamp(0, 1), "mouth_open": found[:, 2, 1].clamp(0, 1)}
