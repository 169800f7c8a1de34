"""Says where each pixel of a generated face was in the frame before.

The source's optical flow moves head and hair. A face's own points move as its pose and expression were asked to: the
source's lips are elsewhere, and part while the new ones would be left shut.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..types import FaceCrop

CELL = 4  # px: motion of landmarks is smooth at this grain
SPREAD = 1.5  # cells over which a landmark takes its surroundings along
WRONG_LEVELS = 24.0  # where the moved source differs from the source by so much, its flow is wrong


def source_flow(here: FaceCrop, there: FaceCrop) -> tuple[np.ndarray, float]:
    """The source's motion between two frames.

    Args:
        here, there: crops of one face, the latter in the frame from which something is to be moved.

    Returns:
        (S, S, 2) float32 pixels, from each place in `here` to that in `there`; and the share of the mask in which that
        is wrong.
    """
    now, before = (cv2.cvtColor(one.image, cv2.COLOR_RGB2GRAY) for one in (here, there))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(now, before, None)
    wrong = cv2.absdiff(moved(before, flow), now)[here.mask > 0] > WRONG_LEVELS
    return flow, float(wrong.mean()) if wrong.size else 1.0


def face_flow(flow: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The generated face's motion: within its landmarks that of the landmarks, beyond them the source's.

    Args:
        flow: (S, S, 2) of `source_flow`.
        here, there: (478, 2) x y in crop pixels of the generated face, as it is to be and as it was.
    """
    cells = len(flow) // CELL
    at = np.floor(here / CELL).astype(int)
    inside = ((at >= 0) & (at < cells)).all(1)
    rows = np.concatenate([there - here, np.ones((len(here), 1))], axis=1)[inside]
    sums = np.zeros((cells, cells, 3), np.float32)
    np.add.at(sums, (at[inside, 1], at[inside, 0]), rows)
    sums = cv2.GaussianBlur(sums, (0, 0), SPREAD)
    weight = sums[..., 2:]
    motion = sums[..., :2] / np.maximum(weight, 1e-4)
    share = np.clip(weight / 0.08, 0, 1)
    motion, share = (cv2.resize(one, flow.shape[1::-1]) for one in (motion, share[..., 0]))
    return flow + share[..., None] * (motion - flow)


def moved(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """(S, S, ...) uint8, resampled once from where `flow` (S, S, 2) says that it was."""
    y, x = np.mgrid[: len(flow), : len(flow)].astype(np.float32)
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
