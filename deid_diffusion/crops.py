"""Cuts every face of a picture upright, and says what of each crop must not be seen and must not be left."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .align import SIZE, box_ellipse, cut, disagreement, first_crop, make_crop
from .attributes import FaceReader
from .geometry import FIVE, apply, crop_from_image, hull_distance, invert
from .types import Face, FaceCrop, FaceReport, Outcome

# Landmarks further than this from the detection, in face sizes, are not this face's.
FAR_OFF = 0.35


def crop_faces(
    image: np.ndarray, faces: Sequence[Face], reader: FaceReader, size: int = SIZE
) -> list[FaceCrop | None]:
    """The final crop of each face, or None where the landmarks cannot be this face's.

    Args:
        image: (H, W, 3) uint8 RGB.
        faces: detections in it.
        reader: finds the landmarks.
        size: side of the crops in pixels.
    """
    if not faces:
        return []
    matrices = [first_crop(face) for face in faces]
    for _ in range(2):  # the reader's own landmarks align better than the detector's, so it looks twice
        read = reader.landmarks(np.stack([cut(image, matrix) for matrix in matrices]))
        points = [apply(invert(m), p[:, :2].astype(float)) for m, p in zip(matrices, read, strict=True)]
        matrices = [crop_from_image(p[list(FIVE)], SIZE) for p in points]
    crops: list[FaceCrop | None] = []
    for face, landmarks in zip(faces, points, strict=True):
        sound = np.isfinite(landmarks).all() and disagreement(face, landmarks) < FAR_OFF
        crops.append(make_crop(image, face, landmarks, size) if sound else None)
    return crops


def erased_mask(crop: FaceCrop, shape: tuple[int, ...], others: Sequence[Face]) -> np.ndarray:
    """(S, S) mask of all that the model must not see: the face, its neighbours', and what is no picture at all.

    Beyond the picture's border a crop is reflected, and there the source face would look back from outside its mask.
    """
    mask, size = crop.mask, len(crop.mask)
    border = np.array([[0, 0], [shape[1], 0], [shape[1], shape[0]], [0, shape[0]]], float)
    corners = np.rint(apply(crop.crop_from_image, border) - 0.5).astype(np.int32)
    mask = np.where(cv2.fillConvexPoly(np.zeros((size, size), np.uint8), corners, 1) > 0, mask, np.float32(1))
    for face in others:
        ellipse = apply(crop.crop_from_image, box_ellipse(face, share=1.0))
        if (ellipse.max(0) > 0).all() and (ellipse.min(0) < size).all():
            mask = np.maximum(mask, (hull_distance(ellipse, size) < 0).astype(np.float32))
    return mask


def blended(crop: FaceCrop, painted: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8: what the pasted face looks like at crop resolution."""
    weight = crop.mask[..., None]
    return np.rint(crop.image * (1 - weight) + painted * weight).astype(np.uint8)


def uncovered(touched: np.ndarray, faces: Sequence[Face], reports: dict[int, FaceReport]) -> list[int]:
    """Numbers of REPLACED faces of which some pixel was left: the last check before anything is called done."""
    left = []
    for number, report in reports.items():
        if report.outcome is Outcome.REPLACED:
            ellipse = np.rint(box_ellipse(faces[number], share=0.75) - 0.5)
            low = np.maximum(ellipse.min(0), 0).astype(int)
            window = touched[
                low[1] : int(max(ellipse[:, 1].max(), 0)) + 1, low[0] : int(max(ellipse[:, 0].max(), 0)) + 1
            ]
            face = cv2.fillConvexPoly(np.zeros(window.shape, np.uint8), (ellipse - low).astype(np.int32), 1) > 0
            if window.size == 0 or (face & ~window).any():
                left.append(number)
    return left
