"""Frames of a clip on their way from reading to writing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from .faces.attributes import Attributes
from .faces.motion import smooth
from .faces.sightings import Sighting
from .faces.task import FaceTask
from .imaging.pictures import Picture
from .methods.redact import redact, redact_face
from .result import AnonymizedImage
from .types import Face, Outcome, Redaction

FADE = 3  # frames in which a new face and the blur before or after it show together


@dataclass(eq=False)
class Prepared:
    """A frame on its way: its faces with what was read, or why that failed."""

    number: int
    time_s: float
    image: np.ndarray
    source: Any
    sightings: Sequence[Sighting]
    tasks: list[FaceTask] = field(default_factory=list)
    failure: str = ""
    unseen: set[int] = field(default_factory=set)
    repeats: list[Prepared] = field(default_factory=list)
    stepped: dict[int, Attributes] = field(default_factory=dict)


def is_repeat(frame: Prepared, last: Prepared) -> bool:
    """Whether a frame is the last one once more: the same array, and the same faces.

    Args:
        frame, last: one after the other.
    """
    numbers = [sorted(str(one.face.track_id) for one in row.sightings) for row in (frame, last)]
    return frame.image is last.image and numbers[0] == numbers[1]


def with_neighbours(items: Iterable[Prepared]) -> Iterator[tuple[Prepared | None, Prepared, Prepared | None]]:
    """Each one with that before and that after it.

    Args:
        items: in their order.
    """
    before = now = None
    for after in items:
        if now is not None:
            yield before, now, after
        before, now = now, after
    if now is not None:
        yield before, now, None


def smoothed(task: FaceTask, before: Prepared | None, after: Prepared | None) -> FaceTask:
    """With its motion smoothed over the frames before and after it.

    Args:
        task: with `wanted`.
        before, after: the frames; None where there is none.
    """
    assert task.wanted is not None
    near = [None if frame is None else frame.stepped.get(task.number) for frame in (before, after)]
    return replace(task, wanted=smooth(near[0], task.wanted, near[1]))


def fading(
    frames: Iterable[tuple[Prepared, list[FaceTask]]],
) -> Iterator[tuple[Prepared, list[FaceTask], dict[int, float]]]:
    """Says how much of the blur before or after it shows in a new face already, so that nothing pops.

    Args:
        frames: with their decided tasks, in order.

    Yields:
        the same, at most `FADE` frames behind, and by track the share of the blur, in (0, 1), of those that are
        replaced and have a hidden frame near.
    """
    held: list[tuple[Prepared, list[FaceTask], dict[int, float]]] = []
    for frame, tasks in frames:
        shares = dict[int, float]()
        for away, (_, others, near) in enumerate(reversed(held), 1):
            share = 1 - away / (FADE + 1)
            _veil(tasks, others, shares, share)
            _veil(others, tasks, near, share)
        held.append((frame, tasks, shares))
        if len(held) > FADE:
            yield held.pop(0)
    yield from held


def _veil(tasks: Sequence[FaceTask], others: Sequence[FaceTask], shares: dict[int, float], share: float) -> None:
    """Adds to the shares of some tasks what others ask for, whose faces are hidden."""
    hidden = {task.number for task in others if task.hidden and task.redaction is Redaction.BLUR}
    for task in tasks:
        if task.outcome is Outcome.REPLACED and task.number in hidden:
            shares[task.number] = max(share, shares.get(task.number, 0.0))


def veiled(result: AnonymizedImage, image: np.ndarray, shares: Iterable[tuple[Face, float]]) -> AnonymizedImage:
    """A result in which new faces are blurred in part.

    Args:
        result: of a frame.
        image: (H, W, 3) uint8 RGB, the frame.
        shares: its faces, with the share of the blur over each.
    """
    for face, share in shares:
        if share:
            hidden, region = redact_face(image, face, Redaction.BLUR)
            mixed = cv2.addWeighted(result.image, 1 - share, hidden, share, 0)
            shown = np.where(region[..., None], mixed, result.image)
            result = replace(result, image=shown, changed_mask=result.changed_mask | region)
    return result


def blurred_whole(image: np.ndarray) -> AnonymizedImage:
    """A frame of which nothing is to be seen.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    # A blur this wide is the same from a small copy, and a hundred times as fast.
    small = cv2.resize(image, (96, max(96 * height // width, 1)), interpolation=cv2.INTER_AREA)
    small = redact(small, np.ones(small.shape[:2], bool), Redaction.BLUR)
    shown = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return AnonymizedImage(shown, (), {}, np.ones((height, width), bool), Picture(image))
