"""Utility: landmark error, head pose, skin tone. Pure functions of points and pixels."""

from __future__ import annotations

import cv2
import numpy as np

from deid_diffusion.evaluation.warp import eye_distance

# A mean head in mm, x to the picture's right, y down, z away from the camera; origin at the nose tip.
_HEAD = np.array([(-31.5, -33, 30), (31.5, -33, 30), (0, 0, 0), (-25, 33, 24), (25, 33, 24)], dtype=np.float64)

# Chardon et al. 1991; under uncontrolled light the classes order people, they do not name their skin.
SKIN_CLASSES = ((55, "very light"), (41, "light"), (28, "intermediate"), (10, "tan"), (-30, "brown"), (-91, "dark"))


def landmark_error(before: np.ndarray, after: np.ndarray, scale: float) -> float:
    """Normalised mean error (NME) of landmarks in %.

    Args:
        before, after: (P, 2) x y in image pixels.
        scale: what 100 % is: the inter-pupil distance in pixels.
    """
    return float(np.linalg.norm(after - before, axis=1).mean() / scale * 100)


def head_pose_deg(landmarks: np.ndarray, picture_size: tuple[int, int]) -> np.ndarray:
    """(5, 2) landmarks and (height, width) -> (3,) yaw, pitch, roll in degrees, by five points on a mean head.

    Positive: face turned to the picture's right, down, clockwise. Coarse in absolute terms (a head is not the mean
    head), good for the difference of two measurements of one place.
    """
    height, width = picture_size
    # A portrait lens: the focal length is only known up to a guess, and cancels in differences.
    focal = 1.2 * max(height, width)
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    # The first guess, in front of the camera and tilted as the eyes are, keeps the solver off mirrored solutions.
    tilt = np.arctan2(*(landmarks[1] - landmarks[0])[::-1])
    depth = focal * 63 / eye_distance(landmarks)
    centre = (landmarks[2] - (width / 2, height / 2)) * depth / focal
    ok, turn, _ = cv2.solvePnP(
        _HEAD,
        np.ascontiguousarray(landmarks, dtype=np.float64),
        camera,
        None,
        rvec=np.array([[0.0], [0.0], [tilt]]),
        tvec=np.array([[centre[0]], [centre[1]], [depth]]),
        useExtrinsicGuess=True,
        flags=cv2.SOLVEPNP_ITERATIVE,
    )
    if not ok:
        return np.full(3, np.nan)
    r = cv2.Rodrigues(turn)[0]
    forward = -r[:, 2]
    yaw = np.arctan2(forward[0], -forward[2])
    pitch = np.arcsin(np.clip(forward[1], -1, 1))
    roll = np.arctan2(r[1, 0], r[0, 0])
    return np.degrees([yaw, pitch, roll])


def ita_deg(lab: np.ndarray) -> float:
    """(N, 3) CIELab pixels -> individual typology angle in degrees: high = light skin, low = dark."""
    lightness, _, yellow = np.median(lab, axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, max(yellow, 1e-6))))


def cheeks(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(N, 3) CIELab pixels of both cheeks; (0, 3) when they lie outside of the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) x y in its pixels.
    """
    eyes, mouth = landmarks[:2], landmarks[3:]
    radius = max(round(0.12 * eye_distance(landmarks)), 1)
    patches = []
    for x, y in 0.45 * eyes + 0.55 * mouth + 0.15 * (eyes - eyes[::-1]):
        rows = slice(max(round(y) - radius, 0), max(round(y) + radius, 0))
        patch = image[rows, max(round(x) - radius, 0) : max(round(x) + radius, 0)]
        if patch.size:
            patches.append(cv2.cvtColor(patch.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3))
    return np.concatenate(patches) if patches else np.zeros((0, 3), np.float32)


def skin_class(ita: float) -> str:
    """The name of the class an angle in degrees falls in."""
    return next(name for above, name in SKIN_CLASSES if ita > above)


def normalised(points: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(P, 2), (5, 2) -> (2P,): points without place, size and roll.

    The midpoint of the eyes is at 0, their distance is 1, and they are level.
    """
    across = landmarks[1] - landmarks[0]
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) / max(float(across @ across), 1.0)
    return ((points - landmarks[:2].mean(axis=0)) @ turn.T).ravel()
