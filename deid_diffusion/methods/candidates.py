"""Says how well a generated face does what was asked, so that the best of several can be taken."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch

from ..compositing.colour import seam_jump
from ..faces.estimator import FaceAnalysis
from ..faces.geometry import EYES, IRIS_LEFT, IRIS_RIGHT
from ..faces.skin import skin_mask
from ..pipelines.conditioning import FIELDS, POINTS

# What a miss by one `Field.scale` costs. Skin and light are brought right afterwards.
COSTS = {
    "yaw_deg": 2.0, "pitch_deg": 2.0, "roll_deg": 1.0, "mouth_open": 0.5, "smile": 2.0, "eyes_open": 0.3,
    "brow_raise": 0.2, "gaze_x": 0.2, "gaze_y": 0.2, "age": 0.5, "male": 0.5, "glasses": 0.5, "facial_hair": 0.35,
}  # fmt: skip
SOURCE_COST = 16.0  # of a cosine of 1 to the source: candidates differ by about 0.1
PLACE_COST = 30.0  # of landmarks that lie off by one eye distance
OOD_COST = 3.0  # of an OOD score higher by 1: photos spread by 0.2
# Of eyes without a white: their lightest third, as a share of the cheeks, is above this in all of 48 studio portraits,
# dark skin and closed lids included, and in nine of ten other photos.
EYE_COST, EYE_WHITE = 3.0, 0.7
_CHEEKS = (50, 280, 205, 425)
# Of a glare on the skin, as of a flash: a patch is lighter than those around it by at most this share of the range in
# nine of ten photos, and by twice that on one generated face in twenty, mostly on the bridge of the nose.
GLARE_COST, GLARE = 10.0, 0.17
# Of furrows and scars on a cheek, in levels: photos have 3.0, and 7 of 8 of them less than this; of the first
# generated faces, one man in six had more.
FURROW_COST, FURROW = 0.25, 4.5
_SIDES = ((117, 118, 101, 50, 205, 187, 192, 213, 147, 123), (346, 347, 330, 280, 425, 411, 416, 433, 376, 352))
_PATCHES = 32  # in a crop's side
SEAM_COST = 0.05  # of one level between the two sides of the mask's edge


def candidate_score(
    generated: np.ndarray,
    source: np.ndarray,
    inpaint_mask: np.ndarray,
    mesh: np.ndarray,
    wanted: Mapping[str, float],
    found: FaceAnalysis,
    similarity: float = 0.0,
) -> float:
    """The cost of conditions that are not satisfied and of what is unlike a photo; 0 = nothing of that.

    Args:
        generated: (S, S, 3) uint8 RGB.
        source: (S, S, 3) uint8 RGB, the crop; what is inpainted is not read.
        inpaint_mask: (S, S) above 0 = generated.
        mesh: (478, 2) x y in crop pixels, where the landmarks were asked to be.
        wanted: attributes that were asked for, by name.
        found: what the estimator says of what was generated.
        similarity: cosine to the source, by the identity encoder: among those that fit alike, the one less like it is
            taken.
    """
    points, values = list(POINTS), found.attributes.to_dict()
    eyes = float(np.linalg.norm(mesh[IRIS_RIGHT] - mesh[IRIS_LEFT]))
    off = float(np.linalg.norm(found.landmarks[points, :2] - mesh[points, :2], axis=1).mean())
    # In profile the eyes nearly coincide; a crop's side is about four eye distances.
    cost = PLACE_COST * off / max(eyes, len(generated) / 8) + SEAM_COST * _seam(generated, source, inpaint_mask)
    cost += OOD_COST * found.ood_score + SOURCE_COST * max(similarity, 0.0)
    cost += EYE_COST * max(EYE_WHITE - eye_white(generated, found.landmarks[:, :2]), 0.0)
    cost += GLARE_COST * max(glare(generated, found.landmarks) - GLARE, 0.0)
    if wanted.get("facial_hair", 0.0) < 0.5:  # a beard is no furrow
        cost += FURROW_COST * max(furrows(generated, found.landmarks[:, :2]) - FURROW, 0.0)
    for name, price in COSTS.items():
        if name in wanted:
            cost += price * abs(values[name] - wanted[name]) / FIELDS[name].scale
    return cost


def eye_white(image: np.ndarray, landmarks: np.ndarray) -> float:
    """How light the lightest third of the eyes is, as a share of the cheeks.

    Args:
        image: (S, S, 3) uint8 RGB.
        landmarks: (478, 2) x y in its pixels.
    """
    grey = image.astype(np.float32).mean(2)
    mask, size = np.zeros(grey.shape, np.uint8), len(grey)
    for eye in EYES:
        left, right, top, bottom = landmarks[list(eye)].astype(float)
        axes = np.maximum([np.linalg.norm(right - left), np.linalg.norm(bottom - top)], size / 64)
        turn = np.degrees(np.arctan2(*(right - left)[::-1]))
        cv2.ellipse(mask, ((left + right) / 2, axes, turn), 1, -1)
    eyes = np.sort(grey[mask > 0])
    cheeks = [grey[y, x] for x, y in np.clip(np.rint(landmarks[list(_CHEEKS)] - 0.5), 0, size - 1).astype(int)]
    return float(eyes[len(eyes) * 2 // 3 :].mean() / max(np.median(cheeks), 1.0)) if len(eyes) else 1.0


def glare(image: np.ndarray, landmarks: np.ndarray) -> float:
    """How much the patch of skin that stands out most is lighter than the skin around it.

    Args:
        image: (S, S, 3) uint8 RGB.
        landmarks: (478, 2 or 3) x y in its pixels.

    Returns:
        grey in [0, 1]; 0 where no skin is.
    """
    size = len(image)
    skin = skin_mask(torch.from_numpy(np.asarray(landmarks, np.float32))[None], size)[0, 0].numpy()

    def patches(values: np.ndarray) -> np.ndarray:
        return cv2.resize(values, (_PATCHES, _PATCHES), interpolation=cv2.INTER_AREA)

    share = patches(skin)
    grey = patches(image.astype(np.float32).mean(2) / 255 * skin) / np.maximum(share, 1e-3)
    there = (share > 0.7).astype(np.float32)
    around = cv2.blur(grey * there, (5, 5)) / np.maximum(cv2.blur(there, (5, 5)), 1e-3)
    return float(((grey - around) * there).max())


def furrows(image: np.ndarray, landmarks: np.ndarray) -> float:
    """How deep the furrows, scars and stubble of the rougher cheek are.

    Args:
        image: (S, S, 3) uint8 RGB.
        landmarks: (478, 2) x y in its pixels.

    Returns:
        standard deviation, in levels, of what is between S / 365 and S / 64 wide: the median over the cheek; 0 where
        no cheek is found. The far cheek of a turned head is not looked at, for there is none. On photos that is the
        same for light and dark skin, while as a share of the skin's lightness it would be twice as much for dark.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, coarse = len(image) / 365, len(image) / 64
    band = cv2.GaussianBlur(grey, (0, 0), fine) - cv2.GaussianBlur(grey, (0, 0), coarse)
    cheeks = [np.asarray(landmarks, np.float32)[list(side)] for side in _SIDES]
    areas = [cv2.contourArea(cheek) for cheek in cheeks]
    found = [0.0]
    for cheek, area in zip(cheeks, areas, strict=True):
        if area < 0.55 * max(areas):
            continue
        inside = np.zeros(grey.shape, np.float32)
        cv2.fillPoly(inside, [np.rint(cheek).astype(np.int32)], 1.0)
        if inside.sum() < coarse**2:
            continue
        # Of the cheek alone: what lies beside it, a nostril or hair, is none of its furrows.
        share = np.maximum(cv2.GaussianBlur(inside, (0, 0), coarse), 1e-3)
        power = cv2.GaussianBlur(band * band * inside, (0, 0), coarse) / share
        found.append(float(np.median(np.sqrt(power[inside > 0]))))
    return max(found)


def _seam(generated: np.ndarray, source: np.ndarray, inpaint_mask: np.ndarray) -> float:
    """Mean difference in levels across the edge of what was generated: hair that does not go on shows there."""
    jump, seam = seam_jump(generated.astype(np.float32), source, inpaint_mask > 0, inpaint_mask <= 0)
    total = float(seam.sum())
    return float((np.abs(jump).mean(-1) * seam).sum() / total) if total > 0 else 0.0
