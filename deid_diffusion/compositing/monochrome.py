"""Sees whether a picture has one tone only (black and white, sepia, a faded scan), and gives another the same."""

from __future__ import annotations

import cv2
import numpy as np

KNOTS = 16
FLAT = 8.0  # levels; a plain surface says nothing about what other lightnesses would look like
STRAY = 7.5  # levels that compression leaves between pixels of one lightness in a toned picture


def tone_of(picture: np.ndarray) -> np.ndarray | None:
    """How the colour of a picture follows from its lightness, if it does.

    Args:
        picture: (H, W, 3) uint8 RGB.

    Returns:
        (256, 3) float32, what each lightness adds to grey; None when pixels of equal lightness differ in colour.
    """
    if (picture == picture[..., :1]).all():
        return np.zeros((256, 3), np.float32)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if grey.std() < FLAT:
        return None
    tint = picture.astype(np.float32) - grey[..., None]
    knot = (grey // (256 // KNOTS)).ravel()
    count = np.bincount(knot, minlength=KNOTS)
    seen = np.nonzero(count)[0]
    place = np.bincount(knot, grey.ravel(), KNOTS)[seen] / count[seen]
    sums = np.stack([np.bincount(knot, tint[..., c].ravel(), KNOTS) for c in range(3)], -1)
    mean = sums[seen] / count[seen, None]
    curve = np.stack([np.interp(np.arange(256), place, mean[:, c]) for c in range(3)], -1).astype(np.float32)
    return curve if np.quantile(np.abs(tint - curve[grey]), 0.98) <= STRAY else None


def in_tone(patch: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 RGB in 0..255 -> the same lightness in the colours of `curve`.

    Args:
        patch: (H, W, 3) RGB in 0..255.
        curve: (256, 3) float32, of `tone_of`.
    """
    grey = cv2.cvtColor(patch.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return grey[..., None] + curve[np.clip(np.rint(grey), 0, 255).astype(np.uint8)]
