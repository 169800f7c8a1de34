"""Hides a face that is not replaced: blank, blur or pixelate, in a way that cannot be undone.

What is left of a redacted region, whatever its size in pixels:

- BLANK: nothing; a constant grey.
- PIXELATE: `CELLS` x `CELLS` mean colours of 32 levels a channel, over a region 1.3 times the face: fewer than five
  cells across the face itself.
- BLUR: the same few numbers, drawn as a smooth surface. A plain Gaussian blur can be undone to the precision of its
  8 bits; this one holds no more than the pixelated face does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..faces.task import FaceTask
from ..types import Face, Outcome, Redaction, member
from .protocol import Context, register

CELLS = 6  # across the longer side of the region
ENLARGE = 1.3  # side of the redacted box over the side of the face's box
GREY = 128


@register(*(how.value for how in Redaction))
@dataclass(frozen=True)
class Redact:
    """Hides every face, the classical way. Runs no model but the detector."""

    name: str
    reads_faces: bool = False
    uses_targets: bool = False

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """Every task REDACTED."""
        how = Redaction(self.name)
        return [replace(task, redaction=how).decided(Outcome.REDACTED, f"method {self.name}") for task in tasks]


def redact_face(image: np.ndarray, face: Face, how: Redaction) -> tuple[np.ndarray, np.ndarray]:
    """Hides one face.

    Args:
        image: (H, W, 3) uint8 RGB.
        face: where it is; its whole box, enlarged, goes, and an ellipse about its landmarks that follows its roll.
        how: one of `Redaction`.

    Returns:
        a new image; changed (H, W) bool, False where it is bit-equal to the old.
    """
    changed = face_region(face, image.shape[:2])
    return redact(image, changed, how), changed


def redact(image: np.ndarray, region: np.ndarray, how: Redaction) -> np.ndarray:
    """Hides whatever lies in a region; each connected part of it by itself.

    Args:
        image: (H, W, 3) uint8 RGB.
        region: (H, W) bool, or a mask in which everything above 0 goes.
        how: one of `Redaction`.

    Returns:
        a new image, bit-equal to the old off the region.

    Raises:
        ValueError: a region of another size than the image's.
    """
    if region.shape != image.shape[:2]:
        raise ValueError(f"region must have the image's size {image.shape[:2]}, got {region.shape}")
    how = member(Redaction, how, "how")
    out = image.copy()
    # Where the region lies: to label the whole picture takes longer than all the rest.
    left, top, wide, high = cv2.boundingRect((region > 0).astype(np.uint8))
    if not wide:
        return out
    parts, labels, boxes, _ = cv2.connectedComponentsWithStats(
        (region[top : top + high, left : left + wide] > 0).astype(np.uint8), connectivity=8
    )
    for part in range(1, parts):
        x, y, width, height = boxes[part, :4]
        inside = labels[y : y + height, x : x + width] == part
        window = slice(top + y, top + y + height), slice(left + x, left + x + width)
        out[window][inside] = _hidden(image[window], how)[inside]
    return out


def face_region(face: Face, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the face's box times `ENLARGE`, at least a pixel more on each side, and the landmarks' ellipse.

    Args:
        face: the detection.
        shape: (H, W) of the picture.
    """
    centre, half = (face.box[:2] + face.box[2:]) / 2, (face.box[2:] - face.box[:2]) / 2
    half = np.maximum(half * ENLARGE, half + 1)
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.maximum(np.ceil(centre + half), 0).astype(int)
    region = np.zeros(shape, np.uint8)
    region[low[1] : high[1], low[0] : high[0]] = 1
    eyes, mouth = face.landmarks[:2].mean(0), face.landmarks[3:].mean(0)
    across, down = face.landmarks[1] - face.landmarks[0], mouth - eyes
    size = float(max(2 * np.hypot(*across), 1.8 * np.hypot(*down)))
    middle = eyes + 0.4 * down
    angle = float(np.degrees(np.arctan2(down[1], down[0])))
    limit = 4.0 * max(shape)  # beyond it landmarks are nonsense, and OpenCV's integers overflow
    if size > 0 and np.abs(middle).max() < limit and size < limit:
        axes = (round(0.8 * size), round(0.6 * size))  # along the face, across it
        cv2.ellipse(region, (round(float(middle[0])), round(float(middle[1]))), axes, angle, 0, 360, 1, cv2.FILLED)
    return region.astype(bool)


def _hidden(window: np.ndarray, how: Redaction) -> np.ndarray:
    if how is Redaction.BLANK:
        return np.full_like(window, GREY)
    height, width = window.shape[:2]
    cell = max(height, width) / CELLS
    rows, columns = max(int(height / cell), 1), max(int(width / cell), 1)
    cells = cv2.resize(window, (columns, rows), interpolation=cv2.INTER_AREA) // 8 * 8 + 4
    if how is Redaction.PIXELATE:
        return cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR), (0, 0), cell / 2)
