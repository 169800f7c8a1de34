"""Cuts the upright square around each face."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..types import Face, FaceCrop
from .estimator import FaceAnalysis, FaceEstimator
from .geometry import FIVE, SIZE, apply, compose, crop_from_image, invert
from .masks import GROWTH, box_ellipse, face_mask


def cut(image: np.ndarray, matrix: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Samples a square from a picture.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3) crop_from_image, a similarity.
        size: side of the crop.

    Returns:
        (size, size, 3) uint8, reflected where the square leaves the picture.
    """
    corners = apply(invert(matrix), np.array([[0, 0], [size, 0], [size, size], [0, size]], float))
    margin = 8
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(0)).astype(int) - margin, 0, [width - 1, height - 1])
    high = np.clip(np.ceil(corners.max(0)).astype(int) + margin, low + 1, [width, height])
    # Only the neighbourhood is read, so the cost does not grow with the picture.
    window = image[low[1] : high[1], low[0] : high[0]]
    local = matrix.copy()
    local[:, 2] = apply(matrix, low.astype(float))
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.75:  # shrink by area first: one sample a pixel would alias
        shrunk = [max(1, round(side * scale)) for side in window.shape[1::-1]]
        factor = np.array(window.shape[1::-1]) / shrunk
        window = cv2.resize(window, shrunk, interpolation=cv2.INTER_AREA)
        local = np.concatenate([local[:, :2] * factor, local[:, 2:]], axis=1)
    # OpenCV's coordinates have their origin in the centre of the first pixel, ours at its corner.
    centred = local.copy()
    centred[:, 2] += local[:, :2].sum(1) * 0.5 - 0.5
    # A strip of one pixel has nothing to reflect, and OpenCV loops forever trying.
    border = cv2.BORDER_REFLECT_101 if min(window.shape[:2]) > 1 else cv2.BORDER_REPLICATE
    return cv2.warpAffine(window, centred, (size, size), flags=cv2.INTER_CUBIC, borderMode=border)


def first_crop(face: Face, size: int = SIZE) -> np.ndarray:
    """(2, 3) crop_from_image by the detector's five points, good enough to read landmarks from.

    Args:
        face: the detection.
        size: side S of the crop in pixels.
    """
    return crop_from_image(face.landmarks.astype(float), size)


def make_crop(
    image: np.ndarray,
    face: Face,
    landmarks: np.ndarray,
    size: int = SIZE,
    growth: float = GROWTH,
    before: np.ndarray | None = None,
) -> FaceCrop:
    """The final crop of a face.

    Args:
        image: (H, W, 3) uint8.
        face: the detection; the ellipse in its box is part of the mask, whatever the landmarks say.
        landmarks: (478, 2) x y in image pixels.
        size: side of the crop in pixels.
        growth: of the mask, see `masks.face_mask`.
        before: (2, 3) crop_from_image of SIZE px of the face a moment ago; None where it was not seen.
    """
    matrix = crop_from_image(landmarks[list(FIVE)].astype(float), size)
    if before is not None:
        matrix = steadied(matrix, before * (size / SIZE), size)
    matrix = holding(matrix, box_ellipse(face), size)
    points = apply(matrix, landmarks).astype(np.float32)
    return FaceCrop(
        cut(image, matrix, size), face_mask(points, apply(matrix, box_ellipse(face)), size, growth), points, matrix
    )


def disagreement(face: Face, landmarks: np.ndarray) -> float:
    """How far the read landmarks lie from the detection, in face sizes: centre offset over the box's mean side.

    Args:
        face: the detection.
        landmarks: (478, 2) x y in image pixels.
    """
    side = float((face.box[2] - face.box[0] + face.box[3] - face.box[1]) / 2)
    centre = (face.box[:2] + face.box[2:]) / 2
    return float(np.linalg.norm((landmarks.min(0) + landmarks.max(0)) / 2 - centre)) / side


# Of the side: how far from its centre a detection may reach before the crop grows, and by how much it grows at most.
HELD, MOST_HELD = 0.47, 1.6
# From one frame to the next: the share of the least change of a crop's side and angle that is believed, and the log of
# the side and the radians that count as sure.
BELIEVED, SURE_CHANGE = 0.25, (0.04, 0.06)
# Landmarks further than this from the detection, in face sizes, are not this face's.
FAR_OFF = 0.35


def crop_faces(
    image: np.ndarray,
    faces: Sequence[Face],
    estimator: FaceEstimator,
    size: int = SIZE,
    growth: float = GROWTH,
) -> list[FaceCrop | None]:
    """The final crop of each face, or None where the landmarks cannot be this face's.

    Args:
        image: (H, W, 3) uint8 RGB.
        faces: detections in it.
        estimator: finds the landmarks.
        size: side of the crops in pixels.
        growth: of the masks, see `masks.face_mask`.
    """
    if not faces:
        return []
    matrices = [first_crop(face) for face in faces]
    for _ in range(2):  # the estimator's own landmarks align better than the detector's
        found = estimator.landmarks(np.stack([cut(image, matrix) for matrix in matrices]))
        rows = zip(matrices, found, strict=True)
        points = [apply(invert(matrix), marks[:, :2].astype(float)) for matrix, marks in rows]
        matrices = [crop_from_image(one[list(FIVE)], SIZE) for one in points]
    return [_sound_crop(image, face, one, size, growth) for face, one in zip(faces, points, strict=True)]


def follow_faces(
    image: np.ndarray,
    faces: Sequence[Face],
    starts: Sequence[np.ndarray],
    estimator: FaceEstimator,
    size: int = SIZE,
    growth: float = GROWTH,
) -> list[tuple[FaceCrop, FaceAnalysis] | None]:
    """The final crop of each face that was elsewhere a moment ago, and what moves in it; in one look.

    Args:
        image, faces, estimator, size, growth: as in `crop_faces`.
        starts: (2, 3) crop_from_image of SIZE px of each face as it was.

    Returns:
        None where the landmarks cannot be this face's.
    """
    found: list[tuple[FaceCrop, FaceAnalysis] | None] = []
    said = estimator.analyze(np.stack([cut(image, start) for start in starts]), moving=True) if starts else []
    for face, start, analysis in zip(faces, starts, said, strict=True):
        back = invert(start)
        crop = _sound_crop(image, face, apply(back, analysis.landmarks[:, :2].astype(float)), size, growth, start)
        if crop is None:
            found.append(None)
            continue
        placed = estimator.placed(analysis, compose(crop.crop_from_image, back), size)
        found.append((crop, estimator.look_closer([crop.image], [placed])[0]))
    return found


def holding(matrix: np.ndarray, ellipse: np.ndarray, size: int) -> np.ndarray:
    """A square that is as large as a detection needs: landmarks of a blurred face may say that it is smaller.

    Else its mask would end at the crop's edge, and leave some of the face.

    Args:
        matrix: (2, 3) crop_from_image, a similarity.
        ellipse: (N, 2) image pixels, of the detection.
        size: side of the crop in pixels.

    Returns:
        (2, 3) crop_from_image, with the same centre and angle.
    """
    reach = float(np.abs(apply(matrix, ellipse) / size - 0.5).max())
    shrunk = min(max(reach / HELD, 1.0), MOST_HELD)
    middle = np.full(2, size / 2)
    linear = matrix[:, :2] / shrunk
    return np.concatenate([linear, ((matrix[:, 2] - middle) / shrunk + middle)[:, None]], axis=1)


def steadied(now: np.ndarray, before: np.ndarray, size: int) -> np.ndarray:
    """A square whose side and angle follow those of a moment ago; its centre is that of now.

    Read anew in each frame, both tremble, and a new face would swell and rock with them. The less they change, the
    less of it is believed (Casiez, Roussel and Vogel 2012). A centre that lags would let the face slide on its head.

    Args:
        now, before: (2, 3) crop_from_image, similarities.
        size: side of the crop in pixels.

    Returns:
        (2, 3) crop_from_image.
    """
    turn = now[:, :2] @ np.linalg.inv(before[:, :2])  # scale times rotation
    changes = float(np.log(np.hypot(*turn[0]))), float(np.arctan2(turn[0, 1], turn[0, 0]))
    grown, turned = (
        change * min(BELIEVED + abs(change) / sure, 1.0) for change, sure in zip(changes, SURE_CHANGE, strict=True)
    )
    step = np.exp(grown) * np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]])
    linear = step @ before[:, :2]
    centre = apply(invert(now), np.full(2, size / 2))
    return np.concatenate([linear, (size / 2 - linear @ centre)[:, None]], axis=1)


def _sound_crop(
    image: np.ndarray,
    face: Face,
    landmarks: np.ndarray,
    size: int,
    growth: float,
    before: np.ndarray | None = None,
) -> FaceCrop | None:
    """The final crop; None where the (478, 2) landmarks in the picture cannot be this face's."""
    sound = np.isfinite(landmarks).all() and disagreement(face, landmarks) < FAR_OFF
    return make_crop(image, face, landmarks, size, growth, before) if sound else None
