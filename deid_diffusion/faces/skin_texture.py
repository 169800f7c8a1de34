"""Measures how rough the skin of a face is, octave by octave: three coarse amplitudes, no pore keeps its place."""

from __future__ import annotations

import cv2
import numpy as np

from .geometry import IRIS_LEFT, IRIS_RIGHT, MOUTH_LEFT, MOUTH_RIGHT

# Levels, to which roughness is quantized before it passes to the new face. Unquantized, the three amplitudes name one
# person in five among 51; quantized to one level they add nothing to what attributes reveal already.
TEXTURE_STEP = 1.0
BLURS = (0.7, 1.4, 2.8)  # px, sigma: each octave lies between one blur and the one before, the first above all
# An octave counts as texture whose blur is at most this share of the eye distance, and not at all half as much again:
# coarser ones are features, and as noise they look like a rash.
_FINE = 0.02
_GENERATED = 64  # px between the eyes of a crop: a face no larger lacks no octave, and noise on it looks like sand
_FEWEST = 25  # pixels in a patch of skin; a mean of fewer says nothing
_BROWS = (105, 334)


def octaves(grey: np.ndarray) -> list[np.ndarray]:
    """(h, w) float32 -> (h, w) arrays, what each of `BLURS` takes away, the finest first."""
    found, before = [], grey
    for blur in BLURS:
        after = cv2.GaussianBlur(grey, (0, 0), blur)
        found.append(before - after)
        before = after
    return found


def skin_texture(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """How rough the skin of a face is.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (478, 2) x y in its pixels.

    Returns:
        (3,) float32, standard deviation of each octave in levels, quantized to `TEXTURE_STEP`, of the patch in the
        middle among both cheeks and the forehead; 0 where the face is no larger than a generated crop, and for
        octaves that are too coarse for its size.
    """
    eyes, mouth = landmarks[[IRIS_LEFT, IRIS_RIGHT]], landmarks[[MOUTH_LEFT, MOUTH_RIGHT]]
    across, down = eyes[1] - eyes[0], mouth.mean(0) - eyes.mean(0)
    size = max(float(np.hypot(*across)), 0.9 * float(np.hypot(*down)))
    places = [0.5 * eye + 0.5 * corner for eye, corner in zip(eyes, mouth, strict=True)]
    places.append(landmarks[list(_BROWS)].mean(0) - 0.3 * down)
    found = [_roughness(image, place, 0.14 * size) for place in places]
    rough = [one for one in found if one is not None]
    if len(rough) < 2:
        return np.zeros(len(BLURS), np.float32)
    fine = np.clip(3 - np.array(BLURS) * 2 / (_FINE * size), 0, 1) * np.clip(size / _GENERATED - 1, 0, 1)
    # The lower of two, the middle of three: a fringe, a beard or a shadow is in one of them at most.
    typical = fine * np.sort(np.stack(rough), axis=0)[(len(rough) - 1) // 2]
    return (np.rint(typical / TEXTURE_STEP) * TEXTURE_STEP).astype(np.float32)


def _roughness(image: np.ndarray, place: np.ndarray, radius: float) -> np.ndarray | None:
    margin = int(np.ceil(3 * BLURS[-1]))
    reach = int(radius) + margin
    x, y = np.floor(place).astype(int)
    if 4 * radius**2 < _FEWEST or x < reach or y < reach or x + reach >= image.shape[1] or y + reach >= image.shape[0]:
        return None
    window = image[y - reach : y + reach + 1, x - reach : x + reach + 1]
    grey = cv2.cvtColor(window, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inner = slice(margin, -margin)
    # By the median, so that a wrinkle or a hair does not count; / 0.6745 makes it a standard deviation.
    return np.array([np.median(np.abs(one[inner, inner])) / 0.6745 for one in octaves(grey)])
