"""Brings a generated face to frames in which nobody sees the source: behind a hand, blurred, half turned away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from ..faces.align import cut
from ..faces.geometry import apply, compose
from ..faces.masks import blended, box_ellipse, face_mask
from ..faces.task import FaceTask
from ..types import Face, FaceCrop, Outcome
from .carrying import flow_between, moved, wrong_share
from .protocol import Context

CARRY_S = 0.5  # since the last frame that showed it; later nobody knows what it does there
# A share of the mask in which the moved source differs from the source by so many levels, or to which the way back
# does not lead: the flow is wrong there.
WRONG_SHARE, WRONG_LEVELS, LEAST_LEVELS = 0.2, 24.0, 6.0


class Unseen:
    """The last generated face of each track, to be carried on by the optical flow of the source."""

    def __init__(self, context: Context) -> None:
        """No face is known yet.

        Args:
            context: the identity encoder and the policy count.
        """
        self.context = context
        self._last: dict[
            int, tuple[float, FaceTask]
        ] = {}  # time of the last frame that showed it, and the latest face

    def __call__(
        self, image: np.ndarray, time_s: float, tasks: Sequence[FaceTask], unseen: Collection[int]
    ) -> list[FaceTask]:
        """Carries the faces that a frame does not show.

        Args:
            image: (H, W, 3) uint8 RGB, the frame.
            time_s: of the frame; increasing.
            tasks: all of its faces, decided, numbered by their tracks.
            unseen: tracks of those redacted that may be carried.

        Returns:
            the tasks in order: REPLACED where the flow can be followed and the result passes the policy, else as they
            were.
        """
        self._last = {number: last for number, last in self._last.items() if time_s - last[0] <= CARRY_S}
        done = []
        for task in tasks:
            seen = task.number not in unseen
            carried = None if seen or task.number not in self._last else self._carried(image, task)
            task = carried or task
            if task.outcome is Outcome.REPLACED:
                shown_s = time_s if seen else self._last[task.number][0]
                self._last[task.number] = shown_s, task
            else:
                self._last.pop(task.number, None)
            done.append(task)
        return done

    def _carried(self, image: np.ndarray, task: FaceTask) -> FaceTask | None:
        """The face from the frame before; None where it may not be used."""
        _, before = self._last[task.number]
        moved = carry(image, task.face, before)
        if moved is None:
            return None
        embedding = self.context.embed(blended(moved.crop, moved.generated)[None])[0]
        similarity = float(embedding @ before.embedding)
        if self.context.policy.rejection(before, similarity):
            return None
        why = f"carried from a frame before: {task.reason}"
        return replace(moved, similarity=similarity, seed=task.seed, reason=why, redaction=None)


def carry(image: np.ndarray, face: Face, before: FaceTask) -> FaceTask | None:
    """Moves a generated face to another frame.

    Args:
        image: (H, W, 3) uint8 RGB, the frame.
        face: where it should be.
        before: REPLACED, of another frame.

    Returns:
        the task with face, crop and generated of this frame; what either frame's mask covers is covered. None where
        the flow is wrong in too much of it.
    """
    size = len(before.crop.mask)
    matrix = compose(before.crop.crop_from_image, _from_box(face, before.face))
    here = cut(image, matrix, size)
    grey, there = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (here, before.crop.image))
    flow = flow_between(grey, there)
    # Linear: a mask that overshoots would no longer be one.
    here_from = partial(moved, flow=flow, how=cv2.INTER_LINEAR, border=cv2.BORDER_REPLICATE)
    points = before.crop.landmarks
    at_points = np.clip(points.astype(int), 0, size - 1)
    points = (points - flow[at_points[:, 1], at_points[:, 0]]).astype(np.float32)
    # Neither mask alone is sure to cover a face that nobody sees.
    mask = np.maximum(here_from(before.crop.mask), face_mask(points, apply(matrix, box_ellipse(face)), size))
    inside = mask > 0
    # In a picture of little contrast everything is alike.
    limit = min(WRONG_LEVELS, max(float(grey[inside].std()), LEAST_LEVELS))
    if wrong_share(flow, grey, there, inside, limit) > WRONG_SHARE:
        return None
    crop = FaceCrop(here, mask, points, matrix)
    return replace(before, face=face, crop=crop, generated=here_from(before.generated))


def _from_box(face: Face, before: Face) -> np.ndarray:
    """(2, 3): pixels of the frame before from those of this one, as the boxes moved."""
    side, old = (float(np.sqrt(np.prod(one.box[2:] - one.box[:2]))) for one in (face, before))
    scale = old / side
    centre, from_centre = ((one.box[:2] + one.box[2:]).astype(float) / 2 for one in (before, face))
    return np.concatenate([np.eye(2) * scale, (centre - scale * from_centre)[:, None]], axis=1)
