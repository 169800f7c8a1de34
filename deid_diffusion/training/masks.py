"""Draws the masks that the inpainter trains on: dilated face hulls, ellipses and boxes around them; inner faces."""

import math

import torch
import torch.nn.functional as F

DIRECTIONS = 36
# FaceMesh numbers of the brows' upper edges.
BROWS = (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)


def random_masks(landmarks: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """(B, L, 2) x y in crop pixels -> (B, 1, S, S) of 0 and 1, each covering all its points.

    Mostly the points' convex hull grown by 2 to 14 % of the crop; one in five a box or an ellipse-like shape, so that
    the model does not learn that the mask's edge is the face's edge.
    """
    step = 2
    device = landmarks.device
    angle, normals = _directions(device)
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
    inside = _outside_by(support, axis)
    return (F.interpolate(inside, size=size, mode="bilinear", align_corners=False) < 0).float()


def inner_faces(landmarks: torch.Tensor, size: int, shrink: float = 0.92, feather: int = 17) -> torch.Tensor:
    """Where a face says who it is: from the brows to the chin and not quite to the ears, without hair or forehead.

    Args:
        landmarks: (B, 478, 2 or 3) in crop pixels, of upright crops.
        size: side of the crop.
        shrink: of the convex hull, towards its mean.
        feather: width in pixels, odd, of the blur at the edge.

    Returns:
        (B, 1, S, S) in [0, 1].
    """
    points, device = landmarks[..., :2], landmarks.device
    normals = _directions(device)[1].to(points)
    centre = points.mean(1, keepdim=True)
    support = ((centre + shrink * (points - centre)) @ normals.T).amax(1)
    axis = torch.arange(size, device=device) + 0.5
    inside = ((_outside_by(support, axis) <= 0) & (foreheads(landmarks, size) == 0)).to(points)
    return F.avg_pool2d(inside, feather, 1, feather // 2)


def foreheads(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 478, 2 or 3) of upright crops -> (B, 1, S, S) of 0 and 1: all that lies above the brows."""
    top = landmarks[:, list(BROWS), 1].amin(1) - 0.02 * size
    above = torch.arange(size, device=landmarks.device) + 0.5 < top[:, None]
    return above[:, None, :, None].expand(-1, -1, -1, size).to(landmarks)


def _directions(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) angles and (K, 2) unit normals of the half-planes that bound a hull."""
    angle = torch.arange(DIRECTIONS, device=device) * (2 * math.pi / DIRECTIONS)
    return angle, torch.stack([angle.cos(), angle.sin()], -1)


def _outside_by(support: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """(B, K) how far each hull reaches, (n,) coordinates of rows and columns -> (B, 1, n, n): 0 or less is inside."""
    outside = support.new_full((len(support), len(axis), len(axis)), -math.inf)
    # One direction after the other for all faces: (B, K, n, n) at once would be gigabytes.
    for normal, bound in zip(_directions(axis.device)[1].to(axis), support.unbind(1), strict=True):
        plane = normal[0] * axis[None, :] + normal[1] * axis[:, None]
        outside = torch.maximum(outside, plane - bound[:, None, None])
    return outside[:, None]
