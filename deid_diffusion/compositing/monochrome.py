"""Sees whether a picture has one tone only (black and white, sepia, a faded scan), and gives another the same."""

from __future__ import annotations

import cv2
import numpy as np

KNOTS = 16
FLAT = 8.0  # levels; a plain surface says nothing about what other lightnesses would look like
STRAY = 7.5  # levels that compression leaves between pixels of one lightness in a toned picture
SAMPLE = 64  # pixels, a side: so few tell a picture that is far from one tone


def tone_of(picture: np.ndarray) -> np.ndarray | None:
    """How the colour of a picture follows from its lightness, if it does.

    Args:
        picture: (H, W, 3) uint8 RGB.

    Returns:
        (256, 3) float32, what each lightness adds to grey; None when pixels of equal lightness differ in colour.
    """
    step = max(min(picture.shape[:2]) // SAMPLE, 1)
    few = picture[::step, ::step]
    if step > 1 and (few != few[..., :1]).any() and _tone_of(few, 2.0) is None:
        return None
    return _tone_of(picture)


def _tone_of(picture: np.ndarray, patience: float = 1.0) -> np.ndarray | None:
    if (picture == picture[..., :1]).all():
        return np.zeros((256, 3), np.float32)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if grey.std() < FLAT / patience:
        return None
    tint = picture.astype(np.float32) - grey[..., None]
    knot = (grey // (256 // KNOTS)).ravel()
    count = np.bincount(knot, minlength=KNOTS)
    seen = np.nonzero(count)[0]
    place = np.bincount(knot, grey.ravel(), KNOTS)[seen] / count[seen]
    sums = np.stack([np.bincount(knot, tint[..., c].ravel(), KNOTS) for c in range(3)], -1)
    mean = sums[seen] / count[seen, None]
    curve = np.stack([np.interp(np.arange(256), place, mean[:, c]) for c in range(3)], -1).astype(np.float32)
    return curve if np.quantile(np.abs(tint - curve[grey]), 0.98) <= patience * STRAY else None


def in_tone(patch: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 RGB in 0..255 -> the same lightness in the colours of `curve`.

    Args:
        patch: (H, W, 3) RGB in 0..255.
        curve: (256, 3) float32, of `tone_of`.
    """
    grey = cv2.cvtColor(patch.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return grey[..., None] + curve[np.clip(np.rint(grey), 0, 255).astype(np.uint8)]
