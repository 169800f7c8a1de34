"""Looks for faces in whatever a picture with transparency shows, and takes them out of the alpha channel.

Alpha is a picture, too: of an ink drawing, of a photo whose white became transparency, of a mask made from the
photo's own lightness, it is the face. And colour lies under alpha 0 that no viewer shows and every editor does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import cv2
import numpy as np

from ..messages import brief, brief_repr
from ..types import Face

SAME = 0.35  # boxes that overlap by more (intersection over union) are one face, as in `faces.detect.merge`
SURER = 0.1  # score by which a face must be clearer in alpha than in colour, to be read there
RAMP = 0.2  # of the way from a region's edge to its middle: where alpha rises from its surroundings' to opaque
EVEN = 0.02  # of full alpha: what differs by less shows nothing
HIDDEN = 0.02  # of full alpha: what shows less on average is invisible


@dataclass(frozen=True, eq=False)
class View:
    """What there is to anonymize in a picture.

    Attributes:
        faces: of all views.
        image: (H, W, 3) uint8 RGB: the colour, and about a face that another view shows clearer, that view.
    """

    faces: list[Face]
    image: np.ndarray
    __repr__ = brief_repr


def look(detect: Callable[[np.ndarray], list[Face]], image: np.ndarray, alpha: np.ndarray | None) -> View:
    """Finds faces in colour, in what viewers show of it, and in alpha. Without alpha it is `detect(image)`.

    Args:
        detect: finds faces in (H, W, 3) uint8 RGB.
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8 or uint16; None when opaque.
    """
    faces = detect(image)
    if not shows(alpha):
        return View(faces, image)
    found = [(face, 0, face.score) for face in faces]
    others = views(image, alpha)
    for number, (view, handicap) in enumerate(others, 1):
        found += [(face, number, face.score - handicap) for face in detect(view)]
    canvas, kept = image.copy(), []
    for group in _groups(found):
        best, number, _ = max(group, key=lambda item: item[2])
        boxes = np.stack([face.box for face, _, _ in group])
        kept.append(replace(best, box=np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])))
        if number:
            window = _around(kept[-1], image.shape)
            canvas[window] = others[number - 1][0][window]
    return View(kept, canvas)


def shows(alpha: np.ndarray | None) -> TypeGuard[np.ndarray]:
    """Whether alpha, (H, W) or None, can show anything: it is there and not the same everywhere."""
    return alpha is not None and alpha.size > 0 and int(alpha.min()) != int(alpha.max())


def views(image: np.ndarray, alpha: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The picture on white, on black, alpha as a grey picture and its negative; no two alike, none of them plain.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8 or uint16; not the same everywhere.

    Returns:
        (H, W, 3) uint8, and what is taken off the score of a face to say where it is best read.
    """
    weight = alpha[..., None].astype(np.float32) / np.iinfo(alpha.dtype).max
    on_black = image * weight
    stretched = np.dstack([_stretched(alpha)] * 3)
    found = [(np.rint(on_black + 255 * (1 - weight)), 0.0), (np.rint(on_black), 0.0)]
    found += [(stretched, SURER), (255 - stretched, SURER)]
    kept: list[tuple[np.ndarray, float]] = []
    for view, handicap in ((view.astype(np.uint8), handicap) for view, handicap in found):
        if view.min() != view.max() and not any(np.array_equal(view, v) for v in [image, *(v for v, _ in kept)]):
            kept.append((view, handicap))
    return kept


def without_faces(alpha: np.ndarray | None, changed: np.ndarray) -> np.ndarray | None:
    """Alpha with nothing left of what it showed where pixels were changed.

    What goes there follows from its surroundings: the same, where they are even and the face was no different;
    nothing, where the face could not be seen; else it is opaque, and meets its surroundings at the edge. Of alpha
    inside only the mean is read.

    Args:
        alpha: (H, W) uint8 or uint16; None when opaque.
        changed: (H, W) bool.

    Raises:
        ValueError: `changed` is not bool, or has another shape than alpha.
    """
    if not shows(alpha):
        return alpha
    if changed.shape != alpha.shape or changed.dtype != bool:
        raise ValueError(f"changed must be {alpha.shape} bool, got {brief(changed)}")
    top = np.iinfo(alpha.dtype).max
    out = alpha.copy()
    parts, labels, boxes, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8), connectivity=8)
    for part in range(1, parts):
        x, y, width, height = boxes[part, :4]
        window = slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2)
        inside, outside = labels[window] == part, ~changed[window]
        mean = float(alpha[window][inside].mean()) / top
        out[window][inside] = _filled(alpha[window] / np.float32(top), inside, outside, mean)[inside] * top + 0.5
    return out


def _filled(alpha: np.ndarray, inside: np.ndarray, outside: np.ndarray, mean: float) -> np.ndarray:
    """(H, W) float32 in [0, 1]: alpha inside, from alpha outside and the mean that was inside."""
    ring = outside & (cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    if mean < HIDDEN:
        return np.zeros_like(alpha)
    if not ring.any():
        return np.ones_like(alpha)
    low, middle, high = np.quantile(alpha[ring], [0.05, 0.5, 0.95])
    if high - low <= EVEN and abs(mean - middle) <= EVEN:
        return np.full_like(alpha, middle)
    # The nearest pixel of the surroundings, and how far it is.
    distance, nearest = cv2.distanceTransformWithLabels(
        (~ring).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(nearest.max() + 1, np.float32)
    values[nearest[ring]] = alpha[ring]
    share = np.clip(distance / max(RAMP * float(distance[inside].max()), 1), 0, 1)
    return values[nearest] * (1 - share) + share


def _stretched(alpha: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of full contrast: a face in a few levels of alpha is one to whoever turns up the contrast."""
    low, high = np.quantile(alpha, [0.01, 0.99])
    if low == high:
        low, high = float(alpha.min()), float(alpha.max())
    return np.rint(np.clip((alpha - np.float32(low)) / np.float32(high - low), 0, 1) * 255).astype(np.uint8)


def _groups(found: Sequence[tuple[Face, int, float]]) -> list[list[tuple[Face, int, float]]]:
    """Detections of one face together, by overlap with the first of them, the surest; those of one view stay apart."""
    groups: list[list[tuple[Face, int, float]]] = []
    for item in sorted(found, key=lambda item: -item[2]):
        for group in groups:
            if _overlap(item[0].box, group[0][0].box) > SAME and all(item[1] != number for _, number, _ in group):
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    both = float(np.prod(sides))
    return both / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both)


def _around(face: Face, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of all that is looked at when a face is read: about twice its box to each side."""
    side = float((face.box[2:] - face.box[:2]).max())
    low = np.maximum(np.floor(face.box[:2] - 1.5 * side), 0).astype(int)
    high = np.minimum(np.ceil(face.box[2:] + 1.5 * side), [shape[1], shape[0]]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])
