"""Pastes finished crops back into their picture.

What is promised, and tested:

- **Private.** No source pixel survives in the core, the hull of the crop's landmarks plus a margin: there the
  generated crop weighs exactly 1. Source and generated pixels mix only in a feather along the mask's outer edge, and
  no number that shapes the result (colour, blur, grain) is read here from source pixels inside the core; how rough
  the skin is to be comes from the caller.
- **Exact.** A pixel where the mask is 0 keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..faces.geometry import apply, invert
from ..faces.masks import crop_scale, known_pixels
from ..types import FaceCrop
from .backdrop import settle_backdrop
from .colour import match_colour
from .grain import laid_on, match_detail
from .monochrome import in_tone, tone_of
from .steady import Steady
from .texture import Texture

FEATHER = 0.06  # width of the feather as a fraction of the crop's side; narrower where the mask leaves less room
SHARP = 0.012  # likewise, where plain backdrop meets its own continuation


@dataclass(frozen=True, eq=False)
class Patch:
    """A new face and where it belongs.

    Attributes:
        generated: (S, S, 3) uint8 RGB, in the crop's frame.
        crop: the support of its mask (> 0) is what may change.
        seed: of the grain.
        skin_texture: (3,) levels, see `faces.skin_texture`; None = as generated.
        steady: what the patches of one face in a clip share; None for a picture.
    """

    generated: np.ndarray
    crop: FaceCrop
    seed: int = 0
    skin_texture: np.ndarray | None = None
    steady: Steady | None = None

    def __post_init__(self) -> None:
        wanted = self.crop.image.shape
        if self.generated.shape != wanted or self.generated.dtype != np.uint8:
            got = f"{self.generated.shape} {self.generated.dtype}"
            raise ValueError(f"generated must be {wanted} uint8, got {got}; resize it")


def paste_faces(
    canvas: np.ndarray, patches: Sequence[Patch], image: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pastes all faces of a picture, the far (small) ones first, so that the near ones end up in front.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        patches: in any order.
        image: (H, W, 3) uint8 RGB, whose grain, sharpness and tone the faces get; None for the canvas, in which
            nothing was hidden before.

    Returns:
        a new canvas; changed_mask (H, W) bool, False where it is bit-equal to the old.
    """
    canvas, changed = canvas.copy(), np.zeros(canvas.shape[:2], bool)
    for patch in sorted(patches, key=lambda one: -abs(np.linalg.det(one.crop.crop_from_image[:, :2]))):
        _paste(canvas, changed, patch, canvas if image is None else image)
    return canvas, changed


def add_changes(canvas: np.ndarray, patches: Sequence[Patch]) -> tuple[np.ndarray, np.ndarray]:
    """Adds to the picture what crops were changed by, instead of the crops: its own detail stays.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        patches: `generated` is the crop with its change. No pixel of the picture changes by more levels than one of
            theirs does, also where they overlap.

    Returns:
        a new canvas; changed_mask (H, W) bool, False where it is bit-equal to the old.
    """
    new = canvas.astype(np.int16) if patches else canvas
    most = 0.0
    for patch in patches:
        change = patch.generated.astype(np.float32) - patch.crop.image
        window = _window(patch.crop, canvas.shape[:2])
        if window is None:
            continue
        most = max(most, float(np.abs(change).max()))
        size = canvas[window].shape[:2]
        moved = _warp(change, _crop_from_window(patch.crop, window), size, cv2.BORDER_CONSTANT)
        target = canvas[window].astype(np.int16)
        new[window] = np.clip(new[window] + np.rint(moved).astype(np.int16), target - most, target + most)
    new = np.clip(new, 0, 255).astype(np.uint8)
    return new, (new != canvas).any(-1)


def _crop_from_window(crop: FaceCrop, window: tuple[slice, slice]) -> np.ndarray:
    """(2, 3): maps pixels of a part of the picture to crop pixels."""
    matrix = crop.crop_from_image.copy()
    matrix[:, 2] = apply(crop.crop_from_image, np.array([window[1].start, window[0].start]))
    return matrix


def _paste(canvas: np.ndarray, changed: np.ndarray, patch: Patch, image: np.ndarray) -> None:
    """Changes `canvas` and `changed` in place."""
    crop = patch.crop
    window = _window(crop, canvas.shape[:2])
    if window is None:
        return
    target, seen = canvas[window], image[window]
    crop_from_window = _crop_from_window(crop, window)
    size = target.shape[:2]
    steady, known = patch.steady, known_pixels(crop, canvas.shape[:2])
    matched = match_colour(patch.generated, crop.image, crop.mask > 0, known, steady)
    settled, backdrop = settle_backdrop(matched, crop.image, crop.mask > 0, known, crop.landmarks)
    alpha, _ = feather(crop, crop_scale(crop), backdrop)
    new = _warp(settled, crop_from_window, size, cv2.BORDER_REPLICATE)
    alpha = _warp(alpha, crop_from_window, size, cv2.BORDER_CONSTANT)
    alpha[alpha > 0.998] = 1
    alpha[alpha < 0.002] = 0
    if (curve := tone_of(seen)) is not None:
        new = in_tone(new, curve)

    def drawn() -> Texture:
        """The face's texture, where it is in this frame."""
        assert steady is not None
        whole = steady.texture(max(round(len(crop.mask) / crop_scale(crop)), 8))
        there = crop_from_window * (len(whole.octaves) / len(crop.mask))
        return replace(whole, octaves=_warp(whole.octaves, there, size, cv2.BORDER_REFLECT_101))

    rng, given = np.random.default_rng(patch.seed), (steady, None if steady is None else drawn)
    new = match_detail(new, seen, alpha, rng, patch.skin_texture, *given)
    blend, free = laid_on(target, new, alpha), alpha > 0
    target[free] = np.clip(np.rint(blend[free]), 0, 255).astype(np.uint8)
    changed[window] |= free


def feather(crop: FaceCrop, scale: float = 1.0, backdrop: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How the generated crop is weighed against the picture.

    The weight rises from 0 at the mask's edge to 1 within `FEATHER` of the side, or within what room there is before
    the core. The core is the landmarks' convex hull widened by 2 % of the side and by the reach of the resampling, as
    far as the mask goes: a mask smaller than the face leaves some of the face, and is the caller's mistake.

    Args:
        crop: gives mask and landmarks.
        scale: crop pixels per picture pixel.
        backdrop: (S, S) in [0, 1], how far each generated pixel is the picture's own backdrop, continued. It needs no
            feather, in which an old ear or strand would shine through; None for none.

    Returns:
        weight (S, S) float32 in [0, 1], 0 where the mask is 0; core (S, S) bool, where it is 1.
    """
    size = len(crop.mask)
    support = (crop.mask > 0).astype(np.uint8)
    hull = np.zeros_like(support)
    corners = cv2.convexHull(np.asarray(crop.landmarks, np.float32)[:, :2]) - 0.5
    cv2.fillConvexPoly(hull, np.clip(np.rint(corners), -4 * size, 4 * size).astype(np.int32), 1)
    outside = cv2.distanceTransform(1 - hull, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    core = (outside <= 0.02 * size + 2.2 * max(scale, 1)) & (support > 0)
    # The border of zeros makes the crop's own edge an edge of the mask.
    edge = cv2.distanceTransform(np.pad(support, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    room = edge + cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip(edge / np.clip(room, 1, max(FEATHER * size, 1)), 0, 1)
    weight = np.where(core, 1, ramp * ramp * (3 - 2 * ramp)) * support
    if backdrop is not None:
        weight = np.maximum(weight, backdrop * np.clip(edge / (SHARP * size), 0, 1))
    return weight.astype(np.float32), core


def _window(crop: FaceCrop, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of the picture that the crop's square meets; None when there are none."""
    side = len(crop.mask)
    corners = apply(invert(crop.crop_from_image), side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float))
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)), [shape[1], shape[0]]).astype(int)
    if (high <= low).any():
        return None
    return slice(low[1], high[1]), slice(low[0], high[0])


def _warp(source: np.ndarray, source_from_window: np.ndarray, size: tuple[int, int], border: int) -> np.ndarray:
    """Resamples (S, S, ...) float32 to the window (h, w, ...), by area where that shrinks it, else by cubic."""
    scale = np.sqrt(abs(np.linalg.det(source_from_window[:, :2])))
    side = len(source)
    if scale > 1:
        # warpAffine reads few neighbours whatever the scale; so shrink first, by area, then warp at about 1 : 1.
        small = max(round(side / scale), 1)
        source = cv2.resize(source, (small, small), interpolation=cv2.INTER_AREA)
        source_from_window = source_from_window * (small / side)
    # OpenCV's coordinates have their origin in the centre of the first pixel, ours at its corner.
    shifted = source_from_window.copy()
    shifted[:, 2] += source_from_window[:, :2].sum(1) * 0.5 - 0.5
    how = cv2.INTER_LINEAR if source.ndim == 2 else cv2.INTER_CUBIC
    return cv2.warpAffine(source, shifted, size[::-1], flags=how | cv2.WARP_INVERSE_MAP, borderMode=border)
