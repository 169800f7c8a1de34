"""Measures skin tone and light direction: colours averaged over the face, nothing finer."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

LIGHT_NAMES = ("skin_l", "skin_a", "skin_b", "light_x", "light_y")
# Features whose colour is not skin: eyes with brows, and lips. They are cut out of the measurement as discs.
_EYES, _LIPS = ((468, 105), (473, 334)), (0, 17)


def linear_from_srgb(unit: torch.Tensor) -> torch.Tensor:
    """Display values in [0, 1], of any shape such as (B, 3, S, S) -> light, in [0, 1] (IEC 61966-2-1)."""
    return torch.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055).clamp_min(0) ** 2.4)


def srgb_from_linear(light: torch.Tensor) -> torch.Tensor:
    """The inverse of `linear_from_srgb`, of any shape such as (B, 3, S, S); light above 1 gives values above 1."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def lab_from_rgb(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> CIELab with D65 white (L 0..100)."""
    linear = linear_from_srgb(image)
    to_xyz = image.new_tensor([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                               [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    white = image.new_tensor([0.95047, 1.0, 1.08883])[None, :, None, None]
    xyz = torch.einsum("ij,bjhw->bihw", to_xyz, linear) / white
    delta = 6 / 29
    f = torch.where(xyz > delta**3, xyz.clamp_min(1e-8) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def linear_from_lab(lab: torch.Tensor) -> torch.Tensor:
    """(B, 3) CIELab with D65 white -> linear RGB in [0, 1]."""
    f_y = (lab[:, 0] + 16) / 116
    f = torch.stack([f_y + lab[:, 1] / 500, f_y, f_y - lab[:, 2] / 200], -1)
    delta = 6 / 29
    white = lab.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.where(f > delta, f**3, 3 * delta**2 * (f - 4 / 29)) * white
    to_rgb = lab.new_tensor([[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560],
                             [0.0556434, -0.2040259, 1.0572252]])  # fmt: skip
    return (xyz @ to_rgb.T).clamp(0, 1)


def read_light(images: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Skin colour and light direction of each face.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 478, 2) x y in crop pixels.

    Returns:
        (B, 5) float32 in the order of LIGHT_NAMES: L a b of the skin, then the slope of its lightness to the right
        and upward, in [-1, 1] (0.3 = 30 units of L from edge to edge).
    """
    step = 4
    lab = lab_from_rgb(F.avg_pool2d(images, step) / 2 + 0.5).flatten(2)  # (B, 3, P)
    pixels = _pixels(images.shape[-1], step, images)
    skin = _skin(pixels, landmarks.to(images)).to(images)  # (B, P)
    count = skin.sum(-1).clamp_min(1)
    mean = (lab * skin[:, None]).sum(-1) / count[:, None]
    centre = (pixels[None] * skin[..., None]).sum(1) / count[:, None]
    offset = (pixels[None] - centre[:, None]) * skin[..., None]
    spread = (offset**2).sum(1).clamp_min(1)
    slope = (offset * (lab[:, 0] - mean[:, :1])[..., None]).sum(1) / spread  # least squares, L per pixel
    width = torch.linalg.vector_norm(landmarks[:, 473] - landmarks[:, 468], dim=-1).to(images) * 2
    tilt = (slope * width[:, None] / 100).clamp(-1, 1)
    return torch.cat([mean, tilt[:, :1], -tilt[:, 1:]], dim=-1).float()


def down_the_face(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 478, 2) x y in crop pixels -> (B, 1, S, S): how far down a face pixels are, 0 at the eyes, 1 at the lips."""
    eyes, mouth = landmarks[:, [468, 473]].mean(1), landmarks[:, [61, 291]].mean(1)
    down = (mouth - eyes) / ((mouth - eyes) ** 2).sum(-1, keepdim=True).clamp_min(1)
    axis = torch.arange(size, device=landmarks.device, dtype=landmarks.dtype) + 0.5
    x, y = axis[None, None, :] - eyes[:, :1, None], axis[None, :, None] - eyes[:, 1:, None]
    return (x * down[:, :1, None] + y * down[:, 1:, None])[:, None]


def skin_mask(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 478, 2 or 3) x y in crop pixels -> (B, 1, S, S): 1 on cheeks, nose and forehead, 0 on eyes and lips."""
    return _skin(_pixels(size, 1, landmarks), landmarks[..., :2]).view(-1, 1, size, size).to(landmarks)


def _pixels(size: int, step: int, like: torch.Tensor) -> torch.Tensor:
    """(P, 2) x y of the middles of squares of `step` pixels, row by row."""
    side = size // step
    axis = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) * step
    return torch.stack([axis.repeat(side), axis.repeat_interleave(side)], dim=-1)


def _skin(pixels: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """(P, 2), (B, 478, 2) -> (B, P) bool: an ellipse over cheeks, nose and forehead without eyes and lips."""
    left, right = landmarks[:, 468], landmarks[:, 473]
    middle = (left + right) / 2
    mouth = (landmarks[:, 61] + landmarks[:, 291]) / 2
    down = mouth - middle
    reach = torch.maximum(torch.linalg.vector_norm(right - left, dim=-1), torch.linalg.vector_norm(down, dim=-1) * 0.9)
    inside = torch.linalg.vector_norm(pixels[None] - (middle + 0.35 * down)[:, None], dim=-1) < reach[:, None]
    for iris, brow in _EYES:
        centre = (landmarks[:, iris] + landmarks[:, brow]) / 2
        inside &= torch.linalg.vector_norm(pixels[None] - centre[:, None], dim=-1) > 0.32 * reach[:, None]
    lips = landmarks[:, list(_LIPS)].mean(1)
    half = torch.linalg.vector_norm(landmarks[:, 61] - landmarks[:, 291], dim=-1) / 2
    return inside & (torch.linalg.vector_norm(pixels[None] - lips[:, None], dim=-1) > 1.1 * half[:, None])


def individual_typology_angle(lab: np.ndarray) -> np.ndarray:
    """(..., 3) CIELab -> (...) degrees: > 55 very light, < -30 dark (Chardon et al. 1991)."""
    return np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))
