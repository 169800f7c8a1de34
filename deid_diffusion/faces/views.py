"""Cuts out what the detector's network is shown, turned and enlarged, and takes what it found back to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ..types import Face
from .centerface import STRIDE, Found
from .geometry import apply, compose, invert


def resized(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The image at about `scale`, and the (2, 3) map image_from_resized.

    Args:
        image: (H, W, 3) uint8.
        scale: 1 gives the image itself.
    """
    height, width = image.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return image, np.array([[width / size[0], 0, 0], [0, height / size[1], 0]])


def halves(image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The image, half of it, a quarter and so on, each with its (2, 3) image_from_level: views are cheaper of these.

    Args:
        image: (H, W, 3) uint8.
    """
    levels = [(image, np.eye(2, 3))]
    while min(levels[-1][0].shape[:2]) >= 64:
        half, level_from_half = resized(levels[-1][0], 0.5)
        levels.append((half, compose(levels[-1][1], level_from_half)))
    return levels


def level_for(levels: Sequence[tuple[np.ndarray, np.ndarray]], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The smallest that is still larger than what it is wanted for.

    Args:
        levels: of `halves`.
        scale: at which the image is wanted.

    Returns:
        (h, w, 3) uint8 and (2, 3), the picture's pixels from its own.
    """
    return levels[int(np.clip(np.floor(-np.log2(scale)), 0, len(levels) - 1))]


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """First and last pixel of the tiles along one side: of equal length, which the network takes.

    Args:
        length: of the side in pixels.
        tile: pixels, at most; a multiple of 16.
        overlap: pixels, at least; likewise.
    """
    count = max(-(-(length - overlap) // (tile - overlap)), 1)
    size = -(-(length + (count - 1) * overlap) // (count * STRIDE)) * STRIDE
    starts = np.linspace(0, max(length - size, 0), count).round().astype(int)
    return [(int(start), int(start) + size) for start in starts]


def from_turned(quarters: int, shape: tuple[int, int]) -> np.ndarray:
    """(2, 3) image_from_turned of np.rot90(image, quarters).

    Args:
        quarters: 0 to 3.
        shape: height and width of the image.
    """
    height, width = shape
    corner = [(0, 0), (width, 0), (width, height), (0, height)][quarters]
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    return np.array([[cos, -sin, corner[0]], [sin, cos, corner[1]]], float)


def middle_of(face: Face) -> np.ndarray:
    """(2,) x y of the middle of a box.

    Args:
        face: of which it is.
    """
    return (face.box[:2] + face.box[2:]) / 2


def extent_of(face: Face) -> float:
    """The longer side of a box.

    Args:
        face: of which it is.
    """
    return float((face.box[2:] - face.box[:2]).max())


def upright_from_image(centre: np.ndarray, scale: float, turn_deg: float, side: int) -> np.ndarray:
    """(2, 3) view_from_image of a square view.

    Args:
        centre: (2,) x y in the image, in the middle of the view.
        scale: pixels of the view for one of the image.
        turn_deg: by which a face is turned clockwise that is to stand upright.
        side: of the view in pixels.
    """
    turn = np.radians(turn_deg)
    linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.concatenate([linear, (side / 2 - linear @ centre)[:, None]], axis=1)


def view_of(image: np.ndarray, view_from_image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) uint8: the mapped part of the picture, shrunk by area where it is larger.

    Args:
        image: (H, W, 3) uint8.
        view_from_image: (2, 3).
        side: of the view in pixels.
    """
    corners = apply(invert(view_from_image), side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float))
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    part = image[low[1] : int(corners[:, 1].max()) + 1, low[0] : int(corners[:, 0].max()) + 1]
    part, part_from_small = resized(part, min(1.5 * float(np.sqrt(np.linalg.det(view_from_image[:, :2]))), 1.0))
    shift = np.array([[1, 0, low[0]], [0, 1, low[1]]], float)
    matrix = compose(view_from_image, compose(shift, part_from_small))
    matrix[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5  # OpenCV's origin is the centre of the first pixel
    return cv2.warpAffine(part, matrix, (side, side), flags=cv2.INTER_LINEAR)


def surest(
    face: Face, maps: Sequence[np.ndarray], founds: Sequence[Found], image_shape: tuple[int, ...], side: int
) -> Face:
    """The surest face in the middle of square views, in image pixels; of score 0 when there is none.

    Args:
        face: what the views are of.
        maps: (2, 3) view_from_image of each.
        founds: what the network found in each.
        image_shape: height, width, ...
        side: of the views, in which the face has half of it.
    """
    best = replace(face, score=0.0)
    for found, matrix in zip(founds, maps, strict=True):
        middle = np.abs((found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - side / 2).max(1) < side / 6
        extent = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1)
        found = clipped(found[middle & (extent > side / 4) & (extent < side)].mapped(invert(matrix)), image_shape)
        if len(found.scores) and found.scores.max() > best.score:
            first = int(found.scores.argmax())
            best = Face(found.boxes[first], found.points[first], float(found.scores[first]))
    return best


def clipped(found: Found, shape: tuple[int, ...]) -> Found:
    """Boxes inside the picture; what has less than a pixel there is left out.

    Args:
        found: in image pixels.
        shape: height, width, ...
    """
    limits = np.array([shape[1], shape[0]] * 2, np.float32)
    boxes = np.clip(found.boxes, 0, limits)
    found = replace(found, boxes=boxes)
    return found[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)]
