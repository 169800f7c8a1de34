"""Measures artefacts of generated faces, differentiably: blotches of colour, eyes without a white."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deid_diffusion.faces.geometry import EYES

# px, a quarter of the eye distance, and how far such a patch may be from the source's in grey and in tint, of ranges
# of 2 and 4: as four of five patches of two photographed people. Brows and cheeks differ, but the source was in the
# same light and had no red nose and no black lids; and tints, which light hardly moves, differ half as much as greys.
# Patches of half that side differ as much, and are compared on bare skin alone: there they are the glare and the hard
# shadow of a nose, while around the eyes they are somebody's brows.
PATCH, FINE_PATCH, GREY_TOLERANCE, TINT_TOLERANCE = 16, 8, 0.12, 0.05
WHITE_SHARE = 1 / 3  # of an eye's pixels, those that count as its white
MAX_WHITE_PIXELS = 512  # an eye of a crop of 256 px has 500


def blotches(generated: torch.Tensor, source: torch.Tensor, where: torch.Tensor, side: int = PATCH) -> torch.Tensor:
    """How far patches of a face are from the colour that light and skin had there, beyond the two tolerances.

    The generator never sees the source's face and can only guess at its usual colours, which is what is wanted.

    Args:
        generated, source: (B, 3, S, S) RGB in [-1, 1].
        where: (B, 1, S, S) in [0, 1], where it counts.
        side: of a patch, in px.

    Returns:
        (B,), a mean over what counts.
    """
    red, green, blue = F.avg_pool2d(generated - source, side).unbind(1)
    grey = F.relu((red + green + blue).abs() / 3 - GREY_TOLERANCE)
    tints = F.relu(torch.stack([red - green, blue - (red + green) / 2]).abs() - TINT_TOLERANCE).sum(0)
    share = F.avg_pool2d(where, side)[:, 0]
    return ((grey + tints) * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1.0)


def eye_whites(images: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """How light the lightest third of each eye is: blackened eyes have no white, whoever they are of.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 478, 2 or 3) in crop pixels.

    Returns:
        (B,) in [-1, 1], the mean of both eyes.
    """
    grey, axis = images.mean(1), torch.arange(images.shape[-1], device=images.device) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    lightest = []
    for eye in EYES:
        points = landmarks[:, list(eye), :2].to(images).clamp(0, images.shape[-1])
        centre = points[:, :2].mean(1)
        wide, high = points[:, 0] - points[:, 1], points[:, 2] - points[:, 3]
        radius = torch.stack([wide.norm(dim=-1), high.norm(dim=-1)], -1).clamp_min(4.0) / 2
        along = F.normalize(wide, dim=-1)
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        frame = torch.stack([along, across], 1) / radius[..., None]
        off = torch.einsum("bij,bhwj->bhwi", frame, pixels - centre[:, None, None])
        inside = (off.square().sum(-1) < 1).flatten(1)
        count = (inside.sum(1) * WHITE_SHARE).round().clamp(1, MAX_WHITE_PIXELS)
        values = grey.flatten(1).masked_fill(~inside, -1.0).topk(MAX_WHITE_PIXELS).values
        counted = torch.arange(MAX_WHITE_PIXELS, device=images.device) < count[:, None]
        lightest.append((values * counted).sum(1) / count)
    return torch.stack(lightest).mean(0)
