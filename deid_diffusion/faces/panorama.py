"""Finds faces across the seam of a panorama of 360 degrees, where its left border goes on at its right one.

The picture is rolled so that its borders meet where no face is; what was made there is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..imaging.pictures import Picture
from ..types import Face

MARGIN = 0.5  # of a face's width, that the seam keeps off it on both sides


def rolled(picture: Picture, columns: int) -> Picture:
    """The picture with columns of its left border moved to its right one.

    Args:
        picture: of 360 degrees; its alpha and its 16 bit are moved along.
        columns: how many; a negative number does the reverse.
    """
    parts = {name: getattr(picture, name) for name in ("image", "alpha", "deep")}
    parts = {name: np.roll(part, -columns, axis=1) for name, part in parts.items() if part is not None}
    return replace(picture, **parts)


def seam_off_faces(picture: Picture, detect: Callable[[Picture], Sequence[Face]]) -> int:
    """By how many columns to roll the picture; 0 where no face is at its seam.

    Args:
        picture: of 360 degrees.
        detect: finds the faces of a picture; called twice.
    """
    width = picture.image.shape[1]
    half = width // 2
    across = _spans(detect(rolled(picture, half)), half)
    if not _taken(across, width)[0]:
        return 0
    spans = np.concatenate([across, _spans(detect(picture), 0)])
    for margin in (MARGIN, 0.0):
        taken = _taken(spans, width, margin)
        if not taken.all():
            return _middle_of_longest_gap(taken)
    return half  # faces all around: the halves of one are each hidden or replaced


def moved(face: Face, columns: int, width: int) -> Face:
    """A face of the rolled picture, in the picture rolled back; across the seam its box ends beyond the border.

    Args:
        face: as found in the rolled picture.
        columns: by how many it was rolled.
        width: of the picture in pixels.
    """
    shift = columns - width if face.box[0] + columns >= width else columns
    return replace(face, box=face.box + [shift, 0, shift, 0], landmarks=face.landmarks + [shift, 0])


def _spans(faces: Sequence[Face], columns: int) -> np.ndarray:
    """(N, 2) first and last column of each face, before rolling; may lie beyond the border."""
    return np.array([face.box[[0, 2]] + columns for face in faces], float).reshape(-1, 2)


def _taken(spans: np.ndarray, width: int, margin: float = MARGIN) -> np.ndarray:
    """(W,) bool: a seam left of this column would cut a face or come near one."""
    taken = np.zeros(width, bool)
    for first, last in spans:
        more = margin * (last - first)
        taken[np.arange(int(np.floor(first - more)), int(np.ceil(last + more)) + 1) % width] = True
    return taken


def _middle_of_longest_gap(taken: np.ndarray) -> int:
    start = int(np.argmax(taken))  # a column that is taken, to cut the circle at
    gaps = np.flatnonzero(np.diff(np.concatenate([[1], np.roll(taken, -start).astype(int), [1]])))
    first, end = gaps[::2], gaps[1::2]
    longest = int(np.argmax(end - first))
    return (start + int(first[longest] + end[longest]) // 2) % len(taken)
