"""Draws the masks that the inpainter trains on: dilated face hulls, ellipses and boxes around them."""

import math

import torch
import torch.nn.functional as F

DIRECTIONS = 36


def random_masks(landmarks: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """(B, L, 2) x y in crop pixels -> (B, 1, S, S) of 0 and 1, each covering all its points.

    Mostly the points' convex hull grown by 2 to 14 % of the crop; one in five a box or an ellipse-like shape, so that
    the model does not learn that the mask's edge is the face's edge.
    """
    step = 2
    device = landmarks.device
    angle = torch.arange(DIRECTIONS, device=device) * (2 * math.pi / DIRECTIONS)
    normals = torch.stack([angle.cos(), angle.sin()], -1)  # (K, 2)
    support = (landmarks[..., :2] @ normals.T).amax(1)  # (B, K): how far the points reach each way
    dice = torch.rand(len(landmarks), 4, generator=generator).to(device)
    support = support + size * (0.02 + 0.12 * dice[:, :1] ** 1.5)
    # Lopsided growth: another side sticks out on each.
    lean = torch.cos(angle[None] - 2 * math.pi * dice[:, 1:2])
    support = support + size * 0.04 * dice[:, 2:3] * lean.clamp_min(0)
    # A box is the same bound with only the four axis-parallel half-planes.
    boxed = (dice[:, 3] < 0.1)[:, None] & (torch.arange(DIRECTIONS, device=device) % (DIRECTIONS // 4) != 0)[None]
    # An ellipse-like shape is the bound averaged over neighbouring directions, grown to stay outside.
    smooth = F.avg_pool1d(F.pad(support[:, None], (3, 3), mode="circular"), 7, 1)[:, 0] + 0.03 * size
    support = torch.where(((dice[:, 3] >= 0.1) & (dice[:, 3] < 0.2))[:, None], smooth, support)
    support = support.masked_fill(boxed, math.inf)
    axis = (torch.arange(size // step, device=device) + 0.5) * step
    plane = normals[:, 0, None, None] * axis[None, None, :] + normals[:, 1, None, None] * axis[None, :, None]
    inside = torch.stack([(plane - bound[:, None, None]).amax(0) for bound in support])[:, None]
    return (F.interpolate(inside, size=size, mode="bilinear", align_corners=False) < 0).float()
