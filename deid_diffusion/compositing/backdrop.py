"""Makes generated backdrop the picture's own: beside a new face, generators leave halos, smears and old outlines."""

from __future__ import annotations

import cv2
import numpy as np

from ..faces.backdrop import find_backdrop, largest, skin_colour

# What is meant to be backdrop is off its colour by at most this share of its brightest channel, in levels within these
# bounds: on a dark backdrop, hair and cloth in the shade are as near to it as halos are on a bright one.
NEAR, NEAR_LEAST, NEAR_MOST = 0.14, 6.0, 28.0
SOFT = 0.3  # of that, over which it falls off
EDGE = 0.005  # of the side, how soft its outline is


def settle_backdrop(
    generated: np.ndarray, source: np.ndarray, mask: np.ndarray, known: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces what was generated as plain backdrop by the backdrop that lies around the mask, continued.

    Pixels count as backdrop that are near to its colour, nearer than to the new face's skin, and that join what is
    seen of it outside. Where what surrounds the face is not plain, nothing is done.

    Args:
        generated: (S, S, 3) float32 RGB, 0 to 255.
        source: (S, S, 3) uint8 RGB, the crop as it was; read where `known` alone.
        mask: (S, S) bool, True = replaced.
        known: (S, S) bool, where `source` may be read.
        landmarks: (478, 2) x y in crop pixels.

    Returns:
        (S, S, 3) float32, 0 to 255; (S, S) float32 in [0, 1], how far each pixel is that backdrop now.
    """
    skin = skin_colour(generated, landmarks)
    backdrop = find_backdrop(source, known, mask, landmarks, skin)
    if backdrop is None:
        return generated, np.zeros(mask.shape, np.float32)
    smooth = cv2.blur(generated, (3, 3))
    off = largest(np.abs(smooth - backdrop.colour))
    most = np.clip(NEAR * largest(backdrop.colour), NEAR_LEAST, NEAR_MOST)
    near = mask & (backdrop.trust > 0.3) & (off < most) & (off < largest(np.abs(smooth - skin))) & (backdrop.below > 0)
    count, piece = cv2.connectedComponents((near | backdrop.seen).astype(np.uint8), connectivity=4)
    seen = np.zeros(count, bool)
    seen[piece[backdrop.seen]] = True
    joined = near & seen[piece]
    # Without what is thinner than 3 px: a strand's edge, a highlight along a jaw.
    joined = cv2.morphologyEx(joined.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    weight = np.where(joined, np.clip((most - off) / (SOFT * most), 0, 1), 0).astype(np.float32)
    weight = cv2.GaussianBlur(weight, (0, 0), EDGE * len(mask)) * backdrop.below * mask
    return generated + (backdrop.colour - generated) * weight[..., None], weight
