"""Moves the lids of a face: a blink is a motion of skin, and generators that saw few closed eyes do not draw one.

The iris is squeezed to a line and the skin above it stretched, as a lid does that comes down.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .task import FaceTask

# Outer corner to inner corner by FaceMesh number, eye left in the image and right in the image.
# fmt: off
UPPER = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LOWER = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
# fmt: on
REACH = 0.5  # of an eye's width: how far above and below the skin gives way
LIFT = 0.15  # of the closing that the lower lid does
SHUT = 0.06  # of the opening is left of an eye that is shut: the lashes
WIDEST = 1.3  # of the opening: wider looks like fright
# Half of what lids of a clip are moved by is seen: those of the new face are not quite where they were asked to be.
GAIN = 1.7
DRAWN = 0.68  # of eyes_open: the narrowest that generators draw as it is asked for


def move_lids(image: np.ndarray, landmarks: np.ndarray, opening: float) -> np.ndarray:
    """Opens or closes both eyes.

    Args:
        image: (S, S, 3) uint8.
        landmarks: (478, 2 or 3) x y in crop pixels, of the eyes as they are.
        opening: wanted opening over the present one; from 0, shut, to `WIDEST`, beyond which nothing opens.

    Returns:
        (S, S, 3) uint8, unchanged but around the eyes.
    """
    opening = float(np.clip(opening, SHUT, WIDEST))
    if abs(opening - 1) < 0.02:
        return image
    out = image
    for upper, lower in zip(UPPER, LOWER, strict=True):
        out = _moved(out, landmarks[list(upper), :2].astype(float), landmarks[list(lower), :2].astype(float), opening)
    return out


def blinking(task: FaceTask, rest: float | None, gain: float = 1.0) -> FaceTask:
    """Asks for eyes as the track has them, though never for narrow ones, and for lids that move from there.

    Args:
        task: with `wanted`.
        rest: eyes_open of the whole track; None where it is left to the model.
        gain: on what lids move by.
    """
    now = task.wanted.eyes_open if task.wanted is not None else None
    if now is None or rest is None:
        return task
    assert task.wanted is not None
    drawn = max(rest, DRAWN)
    opening = max(1 + gain * (now / drawn - 1), 0.0)
    return replace(task, wanted=task.wanted.with_changes({"eyes_open": drawn}), opening=opening)


def with_open_eyes(task: FaceTask) -> FaceTask:
    """Asks for eyes that generators draw, and for lids that come down from there; the same task where they do.

    Args:
        task: with `wanted`, of a photo.
    """
    wanted = task.wanted
    if wanted is None or wanted.eyes_open is None or wanted.eyes_open >= DRAWN or (wanted.glasses or 0) >= 0.5:
        return task  # rims would bend with the lids
    return blinking(task, DRAWN)


def _moved(image: np.ndarray, upper: np.ndarray, lower: np.ndarray, opening: float) -> np.ndarray:
    """One eye; upper and lower (9, 2) from corner to corner."""
    corner, across = upper[0], upper[-1] - upper[0]
    width = float(np.linalg.norm(across))
    if not np.isfinite(width) or width < 2:
        return image
    across = across / width
    down = np.array([-across[1], across[0]])
    if down @ (lower[4] - upper[4]) < 0:  # the other eye runs from right to left
        down = -down
    size = len(image)
    middle = (upper[0] + upper[-1]) / 2
    low = np.clip(np.floor(middle - 1.3 * width).astype(int), 0, size)
    high = np.clip(np.ceil(middle + 1.3 * width).astype(int), 0, size)
    if (high - low < 2).any():
        return image
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    offset = np.stack([x, y], axis=-1) + 0.5 - corner
    along, depth = offset @ across, offset @ down
    top, bottom = (np.interp(along, (row - corner) @ across, (row - corner) @ down) for row in (upper, lower))
    bottom = np.maximum(bottom, top)
    gap = bottom - top
    closing = gap * (1 - opening)
    new_top, new_bottom = top + (1 - LIFT) * closing, bottom - LIFT * closing
    reach = REACH * width
    inside = top + (depth - new_top) / np.maximum(new_bottom - new_top, 1e-3) * gap
    above = depth - (new_top - top) * np.clip((depth - (top - reach)) / (new_top - top + reach), 0, 1)
    below = depth + (bottom - new_bottom) * np.clip((bottom + reach - depth) / (bottom + reach - new_bottom), 0, 1)
    source = np.where(depth < new_top, above, np.where(depth > new_bottom, below, inside))
    shift = ((source - depth)[..., None] * down).astype(np.float32)
    out = image.copy()
    at_x, at_y = x.astype(np.float32) + shift[..., 0], y.astype(np.float32) + shift[..., 1]
    out[low[1] : high[1], low[0] : high[0]] = cv2.remap(
        image, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out
