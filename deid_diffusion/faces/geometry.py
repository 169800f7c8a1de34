"""Moves points and squares between the picture and the crop."""

from __future__ import annotations

import numpy as np

SIZE = 256  # px, side of a crop where nothing else is said

# FaceMesh numbers of the two irises and the mouth corners: what the crop is aligned on.
IRIS_LEFT, IRIS_RIGHT, MOUTH_LEFT, MOUTH_RIGHT, NOSE_TIP = 468, 473, 61, 291, 1
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))  # corners, upper and lower lid, as the viewer sees left and right
FIVE = (IRIS_LEFT, IRIS_RIGHT, NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT)
# Where the recognisers of the Open Model Zoo want these five, as fractions of their side.
OMZ_TEMPLATE = np.array([(0.3156, 0.4616), (0.6827, 0.4598), (0.5003, 0.6405), (0.3495, 0.8247), (0.6534, 0.8233)])

# The ArcFace template: 5 points in a 112 px square, as fractions of its side.
ARCFACE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
ARCFACE = ARCFACE / 112


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps (..., 2) x y by a (2, 3) `dst_from_src`.

    Args:
        matrix: (2, 3) `dst_from_src`.
        points: (..., 2) x y in the source's pixels.
    """
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) `dst_from_src` -> (2, 3) `src_from_dst`."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """(2, 3) `c_from_b` and `b_from_a` -> `c_from_a`."""
    return np.concatenate([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], axis=1)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Best scale, rotation and shift with `target ~ scale * source @ rotation.T + shift` (Umeyama 1991, eq. 40 to 42).

    Args:
        source: (N, D) points, D = 2 or 3.
        target: (N, D) points.

    Returns:
        scale, rotation (D, D) without reflection, shift (D,).
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(y.T @ x / len(x))
    sign = np.ones(len(s))
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[-1] = -1
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum() / max((x**2).sum() / len(x), 1e-12))
    return scale, rotation, target_mean - scale * rotation @ source_mean


def crop_from_image(five: np.ndarray, size: int) -> np.ndarray:
    """The (2, 3) map of the upright square that the model sees.

    Centre: the eyes' midpoint plus 0.1 of the way to the mouth. Side: 2 max(2 eye distance, 1.8 eye-to-mouth
    distance). The eyes come to lie level, so a face on its side stands upright in its crop.

    Args:
        five: (5, 2) eye, eye, nose tip, mouth corner, mouth corner: x y in image pixels, left to right of the face
            when upright.
        size: side of the crop in pixels.
    """
    eyes, mouth = five[:2].mean(0), five[3:].mean(0)
    across, down = five[1] - five[0], mouth - eyes
    side = 2 * max(2 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)), 4.0)
    # In profile the eyes nearly coincide and their angle is noise; the eye-to-mouth axis then says what is up.
    right = across + np.array([down[1], -down[0]])
    angle = np.arctan2(right[1], right[0])
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    centre = eyes + 0.1 * down
    return np.concatenate([linear, (size / 2 - linear @ centre)[:, None]], axis=1)


def hull_distance(points: np.ndarray, size: int, directions: int = 36) -> np.ndarray:
    """Signed distance in pixels of each pixel centre to the convex hull of points, negative inside.

    Args:
        points: (N, 2) x y in crop pixels.
        size: side of the square.
        directions: how many half-planes bound the hull; it is never cut smaller than it is.

    Returns:
        (size, size) float32; outside it is a lower bound, exact but for the corners.
    """
    angle = np.arange(directions) * (2 * np.pi / directions)
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    support = (points @ normals.T).max(0)
    grid = np.arange(size) + 0.5
    # One half-plane at a time: all of them would be 150 MB at 1024 pixels.
    across = (normals[:, :1] * grid).astype(np.float32)
    down = (normals[:, 1:] * grid - support[:, None]).astype(np.float32)
    furthest = across[0] + down[0][:, None]
    plane = np.empty_like(furthest)
    for row, column in zip(across[1:], down[1:], strict=True):
        np.maximum(furthest, np.add(row, column[:, None], out=plane), out=furthest)
    return furthest


def roll_deg(points: np.ndarray) -> float:
    """Clockwise turn of a face in the image, degrees in (-180, 180], from its (5, 2) points."""
    across, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    right = across + np.array([down[1], -down[0]])
    return float(np.degrees(np.arctan2(right[1], right[0])))
