"""Finds plain backdrop beside a face: what a picture shows there is known without looking behind the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .skin import down_the_face

# Cheeks and forehead, whose median is the colour of the skin.
_SKIN = (117, 118, 101, 50, 205, 346, 347, 330, 280, 425, 151, 9)
FLAT = 7.0  # levels: within 5 px, a plain backdrop's standard deviation is below that
UNLIKE_SKIN = 56.0  # levels of one channel: a backdrop as near to the skin as that cannot be told from a neck
REACH = 0.16  # of the crop's side, how far from the mask backdrop is read
LEAST = 0.01  # of the crop, the smallest piece of backdrop
BLURS = (0.012, 0.03, 0.08)  # of the side: it is continued from nearby, and where there is none from farther off
LEFT_OVER = 0.075  # of the side, how far past the mask what is left over of a face reaches at most
UNLIKE_BACKDROP = 10.0  # levels


@dataclass(frozen=True, eq=False)
class Backdrop:
    """Plain backdrop in the frame of a crop, below the forehead.

    Attributes:
        colour: (S, S, 3) float32, 0 to 255: the backdrop as it goes on behind the face.
        trust: (S, S) float32 in [0, 1]: 0 where none is near.
        seen: (S, S) bool, where it was read.
        below: (S, S) float32 in [0, 1]: 0 above the forehead's middle, where hair is around a face.
    """

    colour: np.ndarray
    trust: np.ndarray
    seen: np.ndarray
    below: np.ndarray


def find_backdrop(
    image: np.ndarray, known: np.ndarray, mask: np.ndarray, landmarks: np.ndarray, skin: np.ndarray
) -> Backdrop | None:
    """Reads the plain backdrop around a mask and continues it smoothly across.

    Args:
        image: (S, S, 3) uint8 RGB crop.
        known: (S, S) bool, which of its pixels may be read.
        mask: (S, S) bool, True = replaced.
        landmarks: (478, 2) x y in crop pixels.
        skin: (3,) RGB of the face's skin, 0 to 255.

    Returns:
        None where there is no plain backdrop.
    """
    size, pixels, readable = len(mask), image.astype(np.float32), known.astype(np.float32)
    share = np.maximum(cv2.blur(readable, (5, 5)), 1e-6)[..., None]
    mean = cv2.blur(pixels * readable[..., None], (5, 5)) / share
    variance = cv2.blur(pixels**2 * readable[..., None], (5, 5)) / share - mean**2
    below = _below_hair(landmarks, size)
    flat = known & (share[..., 0] > 0.5) & (largest(variance) < FLAT**2) & (below > 0)
    flat &= largest(np.abs(mean - skin)) > UNLIKE_SKIN
    _, piece, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] > LEAST * size**2
    seen = flat & large[piece] & (distance_to(mask) < REACH * size)
    if not seen.any():
        return None
    colour, trust = _continued(mean, seen)
    return Backdrop(colour, trust, seen, below)


def _continued(mean: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) and where it holds -> (S, S, 3) everywhere, smooth; (S, S) in [0, 1], 0 where nothing is near.

    A plane, for walls are lit from one side, and what differs from it nearby. On a quarter of the resolution: both are
    smooth.
    """
    size = len(seen)
    small = (max(size // 4, 1),) * 2
    weight = cv2.resize(seen.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    total = cv2.resize(mean * seen[..., None], small, interpolation=cv2.INTER_AREA)
    axis = np.linspace(-1, 1, small[0], dtype=np.float32)
    places = np.stack(
        [np.ones(small, np.float32), np.broadcast_to(axis, small), np.broadcast_to(axis[:, None], small)]
    )
    rows, weights = places.reshape(3, -1), weight.reshape(-1)
    # Bound to be level where little is seen: a plane through one corner says nothing of the others.
    normal = (rows * weights) @ rows.T + np.diag([0, 1, 1]).astype(np.float32)
    plane = np.tensordot(places, np.linalg.solve(normal, rows @ total.reshape(-1, 3)), axes=(0, 0))
    rest, field, trust = total - plane * weight[..., None], np.zeros_like(plane), np.zeros(small, np.float32)
    for blur in BLURS:
        near = cv2.GaussianBlur(weight, (0, 0), blur * small[0])
        nearby = cv2.GaussianBlur(rest, (0, 0), blur * small[0]) / np.maximum(near, 1e-6)[..., None]
        gain = np.clip(near / 0.05, 0, 1) * (1 - trust)
        field, trust = field + nearby * gain[..., None], trust + gain
    whole = cv2.resize(np.dstack([plane + field, trust]), (size, size), interpolation=cv2.INTER_LINEAR)
    return whole[..., :3], whole[..., 3]


def left_over(image: np.ndarray, known: np.ndarray, mask: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(S, S) bool: what a mask leaves of a face on plain backdrop, rims of ears above all, and cut strands.

    It lies beside the mask with nothing but backdrop around it, so that the picture is as well without.

    Args:
        image, known, mask, landmarks: as of `find_backdrop`.
    """
    nothing, size = np.zeros_like(mask), len(mask)
    backdrop = find_backdrop(image, known, mask, landmarks, skin_colour(image, landmarks))
    if backdrop is None:
        return nothing
    away = distance_to(mask)
    odd = known & (largest(np.abs(image - backdrop.colour)) > UNLIKE_BACKDROP) & (away < 1.5 * LEFT_OVER * size)
    _, piece = cv2.connectedComponents(odd.astype(np.uint8), connectivity=8)
    # Hair, neck and clothes go on beyond; so does what leaves the crop.
    goes_on = (away > LEFT_OVER * size) | (backdrop.below <= 0)
    goes_on[[0, -1]] = goes_on[:, [0, -1]] = True
    islands = np.setdiff1d(piece[odd & (away < 2.5)], piece[odd & goes_on])
    found = np.isin(piece, islands[islands > 0])
    around = cv2.dilate(found.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) > 0
    return around & known & (backdrop.trust > 0.3)


def skin_colour(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(3,) RGB, 0 to 255: the median at cheeks and forehead.

    Args:
        image: (S, S, 3) uint8 crop.
        landmarks: (478, 2) x y in its pixels.
    """
    x, y = np.clip(np.rint(landmarks[list(_SKIN), :2] - 0.5).astype(int), 0, len(image) - 1).T
    return np.median(image[y, x].astype(np.float32), axis=0)


def distance_to(mask: np.ndarray) -> np.ndarray:
    """(S, S) bool -> (S, S) float32, px to the nearest True."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def largest(channels: np.ndarray) -> np.ndarray:
    """(S, S, 3) -> (S, S): as `max` over the last axis, many times as fast."""
    return np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])


def _below_hair(landmarks: np.ndarray, size: int) -> np.ndarray:
    """(S, S) in [0, 1]: 1 up to half the way from mouth to eyes above the eyes, 0 from nine tenths of it on."""
    down = down_the_face(torch.from_numpy(landmarks[None, :, :2]).float(), size)[0, 0]
    return np.clip((down.numpy() + 0.9) / 0.4, 0, 1)
