"""Follows a box that somebody drew through the frames before and after it, by optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

SIDE = 480  # pixels, the long side of the frames in which a box is followed
GRID = 9  # points across a box
LEAST = 0.35  # of the points that must be found again
APART = 1.5  # pixels: a point that does not come back to where it was is lost


def small_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (h, w) uint8 with the long side at most SIDE pixels: what `follow` looks at."""
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def follow(frames: Sequence[np.ndarray], box: np.ndarray) -> list[np.ndarray]:
    """Where a box goes, until it is lost or leaves the picture.

    Args:
        frames: (h, w) uint8 each; the first one is that in which the box was drawn.
        box: (4,) x0 y0 x1 y1 as shares of the sides.

    Returns:
        (4,) likewise for the first frames, the drawn one first.
    """
    height, width = frames[0].shape
    sides, boxes = np.array([width, height, width, height], np.float64), [np.asarray(box, np.float64)]
    for before, after in pairwise(frames):
        moved = _moved(before, after, boxes[-1] * sides)
        if moved is None:
            break
        centre = (moved[:2] + moved[2:]) / 2
        if (centre < 0).any() or (centre > sides[:2]).any():
            break
        boxes.append(moved / sides)
    return boxes


def _moved(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """(4,) pixels in the next frame; None where too few points are found again."""
    # The margin is background as often as face.
    low, high = box[:2] + 0.12 * (box[2:] - box[:2]), box[2:] - 0.12 * (box[2:] - box[:2])
    grid = np.meshgrid(*(np.linspace(low[axis], high[axis], GRID) for axis in (0, 1)))
    points = np.stack(grid, -1).reshape(-1, 1, 2).astype(np.float32)
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(21, 21), maxLevel=3)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, ahead, None, winSize=(21, 21), maxLevel=3)
    apart = np.linalg.norm(back - points, axis=2)[:, 0]
    good = (found[:, 0] == 1) & (again[:, 0] == 1) & (apart < APART)
    if good.mean() < LEAST:
        return None
    old, new = points[good, 0], ahead[good, 0]
    shift = np.median(new - old, axis=0)
    spread = [np.median(np.abs(rows - np.median(rows, axis=0)), axis=0).mean() for rows in (old, new)]
    scale = float(np.clip(spread[1] / max(spread[0], 1e-6), 0.95, 1.05))
    centre, half = (box[:2] + box[2:]) / 2 + shift, (box[2:] - box[:2]) / 2 * scale
    return np.concatenate([centre - half, centre + half])
