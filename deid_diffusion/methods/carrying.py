"""Says where each pixel of a generated face was in the frame before.

The source's optical flow moves head, hair and face. Where the expression changes, a face's own points move as they
were asked to: the source's lips are elsewhere, and part while the new ones would be left shut.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ..types import FaceCrop

CELL = 4  # px: motion of landmarks is smooth at this grain
SPREAD = 1.5  # cells over which a landmark takes its surroundings along
HEAD = 6.0  # cells over which flow says what a head does, whatever its lips do
LEAST = 0.5  # px: landmarks that move less, in a face that is to stand still, do not count
WRONG_LEVELS = 24.0  # where the moved source differs from the source by so much, its flow is wrong
# px of a crop, and share of the motion: what the way there and the way back together may leave (Sundaram et al. 2010).
ASTRAY, ASTRAY_SHARE = 6.0, 0.1


def source_flow(here: FaceCrop, there: FaceCrop) -> tuple[np.ndarray, float]:
    """The source's motion between two frames.

    Args:
        here, there: crops of one face, the latter in the frame from which something is to be moved.

    Returns:
        (S, S, 2) float32 pixels, from each place in `here` to that in `there`; and the share of the mask in which that
        is wrong.
    """
    now, before = (cv2.cvtColor(one.image, cv2.COLOR_RGB2GRAY) for one in (here, there))
    flow = flow_between(now, before)
    return flow, wrong_share(flow, now, before, here.mask > 0)


def flow_between(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Optical flow (DIS).

    Args:
        now, before: (S, S) uint8 grey.

    Returns:
        (S, S, 2) float32 pixels, from each place in `now` to that in `before`.
    """
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(now, before, None)


def wrong_share(
    flow: np.ndarray, now: np.ndarray, before: np.ndarray, inside: np.ndarray, limit: float = WRONG_LEVELS
) -> float:
    """How much of a flow is not to be trusted: it leads to other levels, or the way back does not lead here.

    Args:
        flow: (S, S, 2) of `flow_between`.
        now, before: (S, S) uint8 grey.
        inside: (S, S) bool, where it counts.
        limit: levels, from which a pixel is another one.

    Returns:
        the wrong share of `inside`; 1 where nothing is inside.
    """
    if not inside.any():
        return 1.0
    other = cv2.absdiff(moved(before, flow), now) > limit
    # The way back, at half the size: something that came before the face or went is nowhere in the other frame. It
    # counts for half: where skin shows no detail, any way will do.
    half = max(len(now) // 2, 16)
    scale = half / len(now)
    there = cv2.resize(flow, (half, half), interpolation=cv2.INTER_AREA) * scale
    small = [cv2.resize(one, (half, half), interpolation=cv2.INTER_AREA) for one in (before, now)]
    gap = np.linalg.norm(there + moved(flow_between(*small), there), axis=2) / scale
    lost = (gap > ASTRAY + ASTRAY_SHARE * np.linalg.norm(there, axis=2) / scale).astype(np.uint8)
    lost = cv2.resize(lost, now.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return max(float(other[inside].mean()), float(lost[inside].mean()) / 2)


def face_flow(flow: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The generated face's motion: the source's, but for landmarks whose expression changes.

    Args:
        flow: (S, S, 2) of `source_flow`.
        here, there: (478, 2) x y in crop pixels of the generated face in one and the same pose, with the expression
            that it is to have and with the one that it had.
    """
    cells = len(flow) // CELL
    at, motion = np.floor(here / CELL).astype(int), there - here
    change = np.linalg.norm(motion, axis=1)
    rows = ((at >= 0) & (at < cells)).all(1) & (change > LEAST)
    if not rows.any():
        return flow
    weight = np.clip(change[rows, None] / LEAST - 1, 0, 1)
    sums = np.zeros((cells, cells, 3), np.float32)
    np.add.at(sums, (at[rows, 1], at[rows, 0]), np.concatenate([motion[rows] * weight, weight], axis=1))
    sums = cv2.GaussianBlur(sums, (0, 0), SPREAD)
    wanted = sums[..., :2] / np.maximum(sums[..., 2:], 1e-4)
    # The source's lips move, too, but elsewhere: only what the head does is taken of it there.
    head = cv2.GaussianBlur(cv2.resize(flow, (cells, cells), interpolation=cv2.INTER_AREA), (0, 0), HEAD)
    share = np.clip(sums[..., 2] / 0.08, 0, 1)
    wanted, share = (cv2.resize(one, flow.shape[1::-1]) for one in (wanted + head, share))
    return flow + share[..., None] * (wanted - flow)


def moved(
    image: np.ndarray, flow: np.ndarray, how: int = cv2.INTER_CUBIC, border: int = cv2.BORDER_REFLECT_101
) -> np.ndarray:
    """Resamples an image once.

    Args:
        image: (S, S, ...) uint8 or float32.
        flow: (S, S, 2) px, to where each pixel was.
        how: OpenCV's interpolation.
        border: what lies beyond the image, likewise.

    Returns:
        an image of its shape.
    """
    return cv2.remap(image, flow + _grid(len(flow)), None, how, borderMode=border)


@lru_cache(maxsize=4)
def _grid(size: int) -> np.ndarray:
    """(S, S, 2) float32: x y of each pixel."""
    return np.ascontiguousarray(np.mgrid[:size, :size][::-1].transpose(1, 2, 0).astype(np.float32))
