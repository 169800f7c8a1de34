"""Finds the cuts of a clip from thumbnails of its frames."""

from __future__ import annotations

import cv2
import numpy as np

THUMBNAIL = (64, 36)  # width and height in pixels
DIFFERENCE = 18.0  # levels: mean absolute difference between the thumbnails before and after a cut
COLOURS = 0.4  # Bhattacharyya distance of their histograms of hue and saturation


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (36, 64, 3) uint8, whatever the shape."""
    return cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new shot begins between two thumbnails. A flash or a pan is none: pixels and colours must differ.

    Args:
        before, after: (36, 64, 3) uint8 RGB of two frames, one after the other.
    """
    if float(cv2.absdiff(before, after).mean()) <= DIFFERENCE:
        return False
    return cv2.compareHist(_histogram(before), _histogram(after), cv2.HISTCMP_BHATTACHARYYA) > COLOURS


def _histogram(thumb: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(thumb, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [16, 8, 8], [0, 180, 0, 256, 0, 256])
    return cv2.normalize(counts, None, 1.0, 0.0, cv2.NORM_L1)
