"""Masks of a face: what is replaced, what the model must not see, and what must not be left."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..types import Face, FaceCrop
from .geometry import SIZE, apply, hull_distance, invert


def make_inpaint_mask(crop: FaceCrop, shape: tuple[int, ...], others: Sequence[Face]) -> np.ndarray:
    """(S, S) float32 mask of all that the model must not see: the face, its neighbours', and what is no picture.

    Beyond the picture's border a crop is reflected, and there the source face would look back from outside its mask.

    Args:
        crop: of the face.
        shape: (H, W, ...) of the picture.
        others: the other faces of the picture.
    """
    mask, size = crop.mask, len(crop.mask)
    border = np.array([[0, 0], [shape[1], 0], [shape[1], shape[0]], [0, shape[0]]], float)
    corners = np.rint(apply(crop.crop_from_image, border) - 0.5).astype(np.int32)
    mask = np.where(cv2.fillConvexPoly(np.zeros((size, size), np.uint8), corners, 1) > 0, mask, np.float32(1))
    for face in others:
        ellipse = apply(crop.crop_from_image, box_ellipse(face, share=1.0))
        if (ellipse.max(0) > 0).all() and (ellipse.min(0) < size).all():
            mask = np.maximum(mask, (hull_distance(ellipse, size) < 0).astype(np.float32))
    return mask


def crop_scale(crop: FaceCrop) -> float:
    """Crop pixels per picture pixel."""
    return float(np.sqrt(abs(np.linalg.det(crop.crop_from_image[:, :2]))))


def known_pixels(crop: FaceCrop, shape: tuple[int, ...]) -> np.ndarray:
    """(S, S) bool: the crop's pixels off its mask that show the picture and not its reflection.

    Args:
        crop: of the face.
        shape: (H, W, ...) of the picture.
    """
    back, axis = invert(crop.crop_from_image), np.arange(len(crop.mask)) + 0.5
    reach = 2 + 1 / crop_scale(crop)
    inside = crop.mask <= 0
    for row, length in zip(back, shape[1::-1], strict=True):
        at = (row[0] * axis)[None] + (row[1] * axis + row[2])[:, None]
        inside &= (at > reach) & (at < length - reach)
    return inside


def blended(crop: FaceCrop, generated: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8: what the pasted face looks like at crop resolution.

    Args:
        crop: of the source.
        generated: (S, S, 3) uint8, the new face in the crop's frame.
    """
    weight = crop.mask[..., None]
    return np.rint(crop.image * (1 - weight) + generated * weight).astype(np.uint8)


def is_covered(face: Face, changed: np.ndarray) -> bool:
    """Whether every pixel of a face was replaced: the last check before anything is called done.

    Args:
        face: as it was detected; a part of it outside the picture does not count.
        changed: (H, W) bool, what was replaced.
    """
    ellipse = np.rint(box_ellipse(face, share=0.75) - 0.5)
    low = np.maximum(ellipse.min(0), 0).astype(int)
    window = changed[low[1] : int(max(ellipse[:, 1].max(), 0)) + 1, low[0] : int(max(ellipse[:, 0].max(), 0)) + 1]
    inside = cv2.fillConvexPoly(np.zeros(window.shape, np.uint8), (ellipse - low).astype(np.int32), 1) > 0
    return bool(window.size) and not (inside & ~window).any()


# The mask is the hull of landmarks and detection, grown by this share of the crop's side: over hairline and ears, that
# tell who somebody is (docs/privacy.md). Its outermost part is feather.
GROWTH, FADE = 0.12, 0.035


def face_mask(landmarks: np.ndarray, ellipse: np.ndarray, size: int = SIZE, growth: float = GROWTH) -> np.ndarray:
    """(size, size) float32 in [0, 1]: 1 over the face, falling over its margin.

    Args:
        landmarks: (478, 2) x y in crop pixels.
        ellipse: (N, 2) likewise, of the detection.
        size: side of the crop.
        growth: by which share of the side it reaches past them.
    """
    distance = hull_distance(np.concatenate([landmarks, ellipse]), size)
    return np.clip((growth * size - distance) / (FADE * size), 0, 1).astype(np.float32)


def box_ellipse(face: Face, share: float = 0.85) -> np.ndarray:
    """(32, 2) image pixels: the ellipse in a detection's box, shrunk a little as boxes are loose.

    Args:
        face: the detection.
        share: of the box's sides that the ellipse's axes take.
    """
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x0, y0, x1, y1 = face.box
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    return centre + share * np.stack([np.cos(angle) * (x1 - x0), np.sin(angle) * (y1 - y0)], 1) / 2
