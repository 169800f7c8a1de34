"""Aligns and crops faces to what a network takes."""

from __future__ import annotations

import cv2
import numpy as np

from deid_diffusion.faces import geometry

ARCFACE = geometry.ARCFACE


def similarity_matrix(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(P, 2), (P, 2) -> (2, 3) `target_from_source`: turn, scale and shift with least squares (Umeyama 1991)."""
    scale, rotation, shift = geometry.fit_similarity(np.asarray(source, np.float64), np.asarray(target, np.float64))
    return np.column_stack([scale * rotation, shift])


def warp_image(image: np.ndarray, crop_from_image: np.ndarray, size: int) -> np.ndarray:
    """Samples a square crop.

    Args:
        image: (H, W, C) uint8.
        crop_from_image: (2, 3) similarity; points count from the outer corner of the top-left pixel.
        size: side of the crop in pixels.

    Returns:
        (size, size, C) uint8; black outside of the picture.
    """
    scale = float(np.hypot(crop_from_image[0, 0], crop_from_image[1, 0]))
    if scale < 0.5:
        # Shrinking by bilinear taps alone aliases, and recognisers notice: average first.
        shrink = 0.5 / max(scale, 1e-3)
        small = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        factor = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
        image, crop_from_image = small, np.column_stack([crop_from_image[:, :2] * factor, crop_from_image[:, 2]])
    centred = crop_from_image.copy()
    # cv2 counts from pixel centres, we count from corners: half a pixel in, half a pixel out.
    centred[:, 2] += crop_from_image[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(image, centred, (size, size), flags=cv2.INTER_LINEAR)


def warp_to_template(image: np.ndarray, landmarks: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """Aligns a face as recognisers take it.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) x y in image pixels.
        template: (5, 2) where they belong, as fractions of the side.
        size: side of the crop in pixels.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    return warp_image(image, similarity_matrix(landmarks, template * size), size)


def square_box(box: np.ndarray, grow: float = 1.0) -> np.ndarray:
    """(4,) box -> (4,) square around its centre, side = the longer edge times `grow`, in pixels."""
    centre, side = (box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2])) * grow
    return np.concatenate([centre - side / 2, centre + side / 2])


def crop_box(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """A box of the picture as a square crop.

    Args:
        image: (H, W, C) uint8.
        box: (4,) x0 y0 x1 y1 in image pixels.
        size: side of the crop in pixels.

    Returns:
        (size, size, C) uint8; black outside of the picture.
    """
    scale = size / (box[2:] - box[:2])
    return warp_image(image, np.column_stack([np.diag(scale), -scale * box[:2]]), size)


def eye_distance(landmarks: np.ndarray) -> float:
    """Pixels between the eyes of (5, 2) landmarks, at least one."""
    return max(float(np.linalg.norm(landmarks[1] - landmarks[0])), 1.0)


def face_square(landmarks: np.ndarray) -> np.ndarray:
    """(4,) upright square in which anonymizers work: face with its surroundings, twice to thrice the face's width."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    half = max(2 * eye_distance(landmarks), 1.8 * float(np.linalg.norm(mouth - eyes)))
    centre = eyes + 0.1 * (mouth - eyes)
    return np.concatenate([centre - half, centre + half])
