"""Fits a generated face in colour: its skin to what was asked for, its edge to what surrounds it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..faces.skin import down_the_face, lab_from_rgb, linear_from_lab, linear_from_srgb, read_light, srgb_from_linear
from .steady import Steady

NEARBY = 0.2  # of the side: how far off surroundings still say how bright what is beside a face can be
COLOUR_STEP = 8.0  # levels: a larger jump across the mask's edge is taken for an edge of the scene
COLOUR_MOST = 10.0  # levels: the correction never exceeds this


def match_skin(
    images: torch.Tensor,
    landmarks: torch.Tensor,
    wanted: torch.Tensor,
    weight: torch.Tensor,
    unsure: torch.Tensor | None = None,
    most: float = 3.0,
) -> torch.Tensor:
    """Brings the skin to the colour that was asked for, by one gain a channel: as if lit by another lamp.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 478, 2) x y in crop pixels.
        wanted: (B, 3) CIELab; NaN where the colour is left to the model.
        weight: (B, 1, S, S) in [0, 1], how much of the change each pixel gets; 0 = stays as it is.
        unsure: (B, 1, S, S) in [0, 1], how much of that it gets only if its colour is the skin's: along the outline
            lies backdrop, too, which a gain for the skin would turn into a halo.
        most: no channel is multiplied or divided by more.

    Returns:
        (B, 3, S, S) in [-1, 1].
    """
    found = read_light(images, landmarks)[:, :3]
    gain = (linear_from_lab(wanted) + 1e-3) / (linear_from_lab(found) + 1e-3)
    gain = torch.where(gain.isfinite(), gain, 1).clamp(1 / most, most)[:, :, None, None]
    if unsure is not None:
        weight = weight * (1 - unsure * (1 - _like_skin(images, found)))
    # Powers are slow, and half of a crop is left as it is.
    row, y, x = torch.nonzero(weight[:, 0] > 0, as_tuple=True)
    before = images[row, :, y, x]
    lit = srgb_from_linear(linear_from_srgb((before / 2 + 0.5).clamp(0, 1)) * gain[row, :, 0, 0])
    out = images.clone()
    out[row, :, y, x] = torch.lerp(before, lit.clamp(0, 1) * 2 - 1, weight[row, :, y, x])
    return out


def below_eyes(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 478, 2) x y in crop pixels -> (B, 1, S, S): 0 on forehead and hair, 1 from a fifth of the way to the mouth.

    Beside jaw and cheeks lies what is behind a person; above the eyes, the outline runs over skin and hair.
    """
    return (down_the_face(landmarks, size) / 0.4 + 0.5).clamp(0, 1)


def dim_halo(
    images: torch.Tensor, landmarks: torch.Tensor, known: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Lets nothing beside a face shine brighter than its surroundings and its skin: generators overdo an outline.

    Args:
        images: (B, 3, S, S) generated, in [-1, 1].
        landmarks: (B, 478, 2) x y in crop pixels.
        known: (B, 3, S, S) the crops, in [-1, 1]; what the mask covers is not read.
        mask: (B, 1, S, S), above 0 where generated.
        weight: (B, 1, S, S) in [0, 1], how far each pixel is bound by that.

    Returns:
        (B, 3, S, S) in [-1, 1], nowhere brighter than `images`.
    """
    step = 4
    seen = (mask <= 0).to(images)
    share = F.avg_pool2d(seen, step)
    mean = torch.where(share > 0.5, F.avg_pool2d(known * seen, step) / share.clamp_min(1e-6), -2)
    reach = int(NEARBY * images.shape[-1] / step)
    wide = F.max_pool2d(mean, (1, 2 * reach + 1), 1, (0, reach))
    brightest = F.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0))
    brightest = torch.where(brightest < -1, 1, brightest)  # where nothing near is known, nothing binds
    brightest = F.interpolate(brightest, scale_factor=step, mode="bilinear", align_corners=False)
    skin = srgb_from_linear(linear_from_lab(read_light(images, landmarks)[:, :3]))
    bound = torch.maximum(brightest, (skin * 2 - 1)[:, :, None, None] + 0.1)  # lit skin is a little above its mean
    return torch.lerp(images, torch.minimum(images, bound), weight)


def _like_skin(images: torch.Tensor, skin: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1], (B, 3) CIELab -> (B, 1, S, S) in [0, 1]: 1 where no brighter and no greyer than it."""
    # At half the size: it is smooth, and cube roots are slow.
    lab = lab_from_rgb(F.avg_pool2d(images, 4, 2, 1, count_include_pad=False) / 2 + 0.5)
    # Darker is skin in the shade of the jaw, or hair, which stays dark under a gain; ears are redder than a face.
    chroma = torch.linalg.vector_norm(skin[:, 1:], dim=1)
    hue = (skin[:, 1:] / chroma.clamp_min(1e-3)[:, None])[:, :, None, None]
    greyer = chroma[:, None, None, None] - (lab[:, 1:] * hue).sum(1, keepdim=True)
    far = ((lab[:, :1] - skin[:, :1, None, None]) / 15).clamp_min(0) ** 2 + (greyer / 8).clamp_min(0) ** 2
    return F.interpolate(torch.exp(-far / 2), size=images.shape[2:], mode="bilinear", align_corners=False)


def match_colour(
    generated: np.ndarray, source: np.ndarray, mask: np.ndarray, known: np.ndarray, steady: Steady | None = None
) -> np.ndarray:
    """Takes out the smooth colour difference between just inside and just outside the mask's edge.

    A jump of a few levels along the edge is drift and is levelled; a large one (skin against hair) is the scene's and
    is left, by a robust weight.

    Args:
        generated: (S, S, 3) uint8 RGB.
        source: (S, S, 3) uint8 RGB, the crop as it was.
        mask: (S, S) bool, True = replaced.
        known: (S, S) bool, where `source` may be read: outside the mask, and not in the reflection of the picture that
            fills a crop beyond its border, for that can show the face again.
        steady: of the face in a clip: what is taken out is eased from frame to frame.

    Returns:
        (S, S, 3) float32, 0 to 255.
    """
    size, generated = len(mask), generated.astype(np.float32)

    def drift() -> np.ndarray:
        return _drift(generated, source, mask, known)

    field = drift() if steady is None else steady.eased("colour", drift)
    if not field.any():
        return generated
    return np.clip(generated + cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR), 0, 255)


def _drift(generated: np.ndarray, source: np.ndarray, mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(s, s, 3) float32 levels, what `match_colour` adds, at an eighth of the size."""
    jump, seam = seam_jump(generated, source, mask, known)
    if not seam.any():
        return np.zeros_like(jump)
    trust = seam / (1 + (np.abs(jump).max(-1) / COLOUR_STEP) ** 2) ** 2
    spread = 0.12 * len(seam)
    weight = cv2.GaussianBlur(trust, (0, 0), spread)
    field = cv2.GaussianBlur(jump * trust[..., None], (0, 0), spread)
    # Some weight for "no correction": where little of the seam is trusted, little is done.
    field /= (weight + 0.15 * cv2.GaussianBlur(seam, (0, 0), spread).max() + 1e-6)[..., None]
    return np.clip(field, -COLOUR_MOST, COLOUR_MOST)


def seam_jump(
    generated: np.ndarray, source: np.ndarray, mask: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What lies just outside the mask's edge minus what lies just inside.

    Args:
        generated: (S, S, 3) float32, read inside.
        source, mask, known: as `match_colour` takes them.

    Returns:
        (s, s, 3) float32 at an eighth of the size, for it is smooth by definition; (s, s) how much edge is there.
    """
    width = max(round(0.012 * len(mask)), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    solid = np.pad(mask, width).astype(np.uint8)
    inside, near = _mean_around(generated, mask & (cv2.erode(solid, disc)[width:-width, width:-width] == 0))
    around = known & (cv2.dilate(solid, disc)[width:-width, width:-width] > 0)
    outside, far = _mean_around(source.astype(np.float32), around)
    return outside - inside, np.minimum(near, far)


def _mean_around(image: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local mean of the pixels `where`, and their share of the neighbourhood, at an eighth of the size."""
    weight = where.astype(np.float32)
    small = (max(len(where) // 8, 1),) * 2
    total = cv2.resize(image * weight[..., None], small, interpolation=cv2.INTER_AREA)
    share = cv2.resize(weight, small, interpolation=cv2.INTER_AREA)
    total, share = cv2.GaussianBlur(total, (0, 0), 1.0), cv2.GaussianBlur(share, (0, 0), 1.0)
    return total / np.maximum(share, 1e-6)[..., None], share
