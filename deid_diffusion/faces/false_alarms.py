"""Takes out what passes for a face in the head of a sure one: ears, locks of hair, the light on a cheek.

A real face that is small, dark, blurred or half hidden is found again when it is looked at a little larger or smaller,
turned and mirrored; an ear or a lock in one of these views only. Elsewhere nothing is taken out, however doubtful: a
needless blur costs little there, and a missed face everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..types import Face
from .centerface import Found
from .geometry import roll_deg
from .masks import box_ellipse
from .views import extent_of, middle_of, upright_from_image, view_of

log = logging.getLogger(__name__)
SURE, DOUBTFUL = 0.8, 0.65  # scores of the face whose head it is, and of what may be none there
# Views: sizes of the face in them, of half a side; turns in degrees; and each mirrored.
SIZES, TURNS_DEG, SIDE = (0.75, 1.0, 1.3), (-15.0, 0.0, 15.0), 128
# Mean scores over the views up to which it is no face, by where it lies; measured in `docs/measured.md`.
# Where all of it lies in what becomes of the sure face, an ellipse of this share of its box: little can be lost.
COVERED, REACH = 0.3, np.array([1.2, 1.05])
# Where ears are, across and down from the middle of the sure face in halves of its sides, no larger than that.
EAR, EAR_ACROSS, EAR_DOWN, EAR_SIZE = 0.18, (0.75, 1.2), (-0.25, 0.45), 0.5
# About the sure face, likewise, with its hair.
ABOUT, ABOUT_ACROSS, ABOUT_DOWN = 0.05, 1.5, (-2.2, 1.2)
Network = Callable[[np.ndarray, float], Sequence[Found]]


def without_false_alarms(image: np.ndarray, faces: Sequence[Face], network: Network) -> list[Face]:
    """The faces, less those in a sure one's head that are not seen again.

    Args:
        image: (H, W, 3) uint8 RGB.
        faces: all that were found in it.
        network: (B, H, W, 3) uint8 and a threshold -> what it finds in each.
    """
    sure = [face for face in faces if face.score >= SURE]
    kept = [face for face in faces if not _is_false(image, face, sure, network)]
    if len(kept) < len(faces):
        log.debug("%d finds in the head of a sure face were not seen again", len(faces) - len(kept))
    return kept


def _is_false(image: np.ndarray, face: Face, sure: Sequence[Face], network: Network) -> bool:
    # What the picture's border cuts is seen by halves in all views, and may be a face all the same.
    if face.score >= DOUBTFUL or _is_cut(face, image.shape):
        return False
    least = max((_least(face, one) for one in sure), default=0.0)
    return bool(least) and _seen_again(image, face, network) <= least


def _least(face: Face, other: Face) -> float:
    """The mean score that it needs so near to another; 0 where it is not in its head, or as large."""
    half = (other.box[2:] - other.box[:2]) / 2
    smaller = float(np.sqrt(np.prod((face.box[2:] - face.box[:2]) / (2 * half))))
    if smaller >= 1:
        return 0.0
    if (np.hypot(*((box_ellipse(face, 0.75) - middle_of(other)) / (REACH * half)).T) <= 1).all():
        return COVERED
    turn = np.radians(roll_deg(other.landmarks))
    x, y = middle_of(face) - middle_of(other)
    half = half if abs(np.cos(turn)) > np.sqrt(0.5) else half[::-1]
    across, down = np.array([x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)]) / half
    across = abs(across)
    if EAR_ACROSS[0] < across < EAR_ACROSS[1] and EAR_DOWN[0] < down < EAR_DOWN[1] and smaller < EAR_SIZE:
        return EAR
    return ABOUT if across < ABOUT_ACROSS and ABOUT_DOWN[0] < down < ABOUT_DOWN[1] else 0.0


def _is_cut(face: Face, shape: tuple[int, ...]) -> bool:
    """Whether it reaches the picture's border."""
    slack = 0.05 * extent_of(face)
    return bool((face.box[:2] < slack).any() or (face.box[2:] > np.array(shape[1::-1]) - slack).any())


def _seen_again(image: np.ndarray, face: Face, network: Network) -> float:
    """Its mean score in views of several sizes, turned and mirrored."""
    base, roll, scores = SIDE / (2 * extent_of(face)), roll_deg(face.landmarks), list[float]()
    for size in SIZES:
        maps = [upright_from_image(middle_of(face), base * size, roll + turn, SIDE) for turn in TURNS_DEG]
        views = [view_of(image, one, SIDE) for one in maps]
        views += [view[:, ::-1] for view in views]
        scores += [_score(found, size) for found in network(np.stack(views), 0.05)]
    return float(np.mean(scores))


def _score(found: Found, size: float) -> float:
    """The highest score of what lies in the middle of a view, about as large as the face should be; 0 for nothing."""
    middle = np.abs((found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - SIDE / 2).max(1) < SIDE / 6 * max(size, 1)
    extent = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1) / size
    scores = found.scores[middle & (extent > SIDE / 4) & (extent < SIDE)]
    return float(scores.max(initial=0.0))
