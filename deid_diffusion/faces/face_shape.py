"""Separates what a face does (pose, expression) from whose face it is, in landmarks.

Model, in a canonical frame whose unit is the eye distance (x to the image's right, y down, z away from the viewer):

    landmarks = shift + scale * R(yaw, pitch, roll) (mean + expression @ B + shape)

`mean` is the average of many people, `expression` a few readable numbers, B their linear effect (least squares over
people who do not exist), and `shape` what is left: the geometry that identifies. Rebuilding the points with the
shape replaced keeps pose and expression and drops the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .geometry import EYES, IRIS_LEFT, IRIS_RIGHT, fit_similarity

# Bone moves little with expression: brows' bridge, nose, eye corners, temples, forehead.
# fmt: off
RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 10, 151, 9, 8, 127, 356, 234, 454, 93, 323)
# fmt: on
IRISES = (468, 473)
EXPRESSION_NAMES = ("mouth_open", "smile", "eyes_open", "brow_raise", "gaze_x", "gaze_y")


def rotation_from_angles(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """(3, 3) image-from-canonical. Positive: yaw to the image's right, pitch up, roll clockwise in the image.

    Args:
        yaw_deg, pitch_deg, roll_deg: of the head, in degrees.
    """
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return tilt @ turn @ nod


def angles_from_rotation(rotation: np.ndarray) -> tuple[float, float, float]:
    """The inverse of `rotation_from_angles`: yaw, pitch, roll in degrees."""
    # The third column is minus the direction the face looks in.
    x, y, z = -rotation[:, 2]
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    upright = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]]) @ [x, y]
    yaw = np.arctan2(upright[0], -z)
    pitch = np.arcsin(np.clip(-upright[1], -1, 1))
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a face stands in its crop: scale (pixels per eye distance), rotation (3, 3), shift (3,)."""

    scale: float
    rotation: np.ndarray
    shift: np.ndarray

    def place(self, canonical: np.ndarray) -> np.ndarray:
        """(N, 3) canonical -> (N, 3) crop pixels."""
        return self.scale * canonical @ self.rotation.T + self.shift

    def unplace(self, landmarks: np.ndarray) -> np.ndarray:
        """(N, 3) crop pixels -> (N, 3) canonical."""
        return (landmarks - self.shift) @ self.rotation / self.scale


@dataclass(frozen=True, eq=False)
class FaceShape:
    """The average face and how expression moves it.

    Attributes:
        mean: (478, 3) float32, canonical frame.
        expression_mean: (E,) float32, average of the expression numbers.
        expression_basis: (E, 478, 3) float32, shift per unit of each.
        shape_basis: (P, 478, 3) float32, orthonormal directions in which people differ.
        shape_std: (P,) float32, how far people lie along each.
    """

    mean: np.ndarray
    expression_mean: np.ndarray
    expression_basis: np.ndarray
    shape_basis: np.ndarray
    shape_std: np.ndarray

    def locate(self, landmarks: np.ndarray) -> Placement:
        """Pose and place of (478, 3) crop-pixel landmarks, from the points that expression leaves alone."""
        rigid = list(RIGID)
        return Placement(*fit_similarity(self.mean[rigid], landmarks[rigid]))

    def shape_of(self, canonical: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """(478, 3) canonical and (E,) -> (P,) shape parameters in standard deviations: whose face, by geometry."""
        rest = canonical - self.expressed(expression)
        return np.tensordot(self.shape_basis, rest, axes=([1, 2], [0, 1])) / np.maximum(self.shape_std, 1e-6)

    def expressed(self, expression: np.ndarray, shape_params: np.ndarray | None = None) -> np.ndarray:
        """(E,) and optionally (P,) -> (478, 3) canonical face of nobody, or of that shape, with that expression."""
        shape = self.mean + np.tensordot(expression - self.expression_mean, self.expression_basis, axes=1)
        if shape_params is not None:
            shape = shape + np.tensordot(shape_params * self.shape_std, self.shape_basis, axes=1)
        return shape

    def save(self, path: Path) -> None:
        """Writes the arrays as safetensors, half precision."""
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in vars(self).items()}
        save_file(arrays, path, metadata={"expression": ",".join(EXPRESSION_NAMES)})

    @classmethod
    def load(cls, path: Path) -> FaceShape:
        """Reads what `save` wrote."""
        from safetensors.numpy import load_file

        return cls(**{name: value.astype(np.float32) for name, value in load_file(path).items()})


def read_expression(canonical: np.ndarray) -> dict[str, float]:
    """(478, 3) canonical landmarks -> mouth_open, eyes_open, brow_raise in 0..1 and gaze_x, gaze_y in -1..1.

    Formulas on distances in eye distances; the eye aspect ratio is Soukupova and Cech 2016, eq. 1, with one lid pair.
    """

    def gap(a: int, b: int) -> float:
        return float(np.linalg.norm(canonical[a] - canonical[b]))

    eyes = (*EYES[0], IRIS_LEFT), (*EYES[1], IRIS_RIGHT)
    aspect = np.mean([gap(upper, lower) / max(gap(a, b), 1e-6) for a, b, upper, lower, _ in eyes])
    gaze = np.mean([_gaze(canonical[list(eye)]) for eye in eyes], axis=0)
    lift = np.mean([canonical[eye, 1] - canonical[brow, 1] for eye, brow in ((468, 105), (473, 334))])
    return {
        "mouth_open": float(np.clip(gap(13, 14) / 0.5, 0, 1)),
        "eyes_open": float(np.clip(aspect / 0.45, 0, 1)),
        "brow_raise": float(np.clip((lift - 0.2) / 0.4, 0, 1)),
        "gaze_x": float(np.clip(gaze[0], -1, 1)),
        "gaze_y": float(np.clip(gaze[1], -1, 1)),
    }


def _gaze(eye: np.ndarray) -> np.ndarray:
    """(5, 3) corners, lids, iris -> (2,) iris offset in half eye widths, x to the right, y up."""
    corner_a, corner_b, _, _, iris = eye
    half = max(float(np.linalg.norm(corner_b - corner_a)) / 2, 1e-6)
    offset = iris - (corner_a + corner_b) / 2
    # An iris that looks straight ahead sits 0.13 half widths above the line of the corners (median of 7,500 faces).
    return np.array([offset[0] / half, -offset[1] / half - 0.13])


def fit_face_shape(landmarks: np.ndarray, smile: np.ndarray, mirror: np.ndarray, persons: int = 24) -> FaceShape:
    """Fits the model to many faces of different people.

    Args:
        landmarks: (N, 478, 3) crop pixels.
        smile: (N,) in 0..1.
        mirror: (478,) number of each point's mirror image.
        persons: directions of difference between people to keep.
    """
    rigid = list(RIGID)
    centred = landmarks - landmarks[:, rigid].mean(1, keepdims=True)
    centred /= np.linalg.norm(centred[:, IRISES[0]] - centred[:, IRISES[1]], axis=-1)[:, None, None]
    mean = centred.mean(0)
    for _ in range(4):  # generalised Procrustes analysis (Gower 1975), from the average picture pose
        mean = (mean + mean[mirror] * [-1, 1, 1]) / 2
        mean /= np.linalg.norm(mean[IRISES[0]] - mean[IRISES[1]])
        canonical = np.stack(
            [Placement(*fit_similarity(mean[rigid], face[rigid])).unplace(face) for face in landmarks]
        )
        mean = canonical.mean(0)
    mean = (mean + mean[mirror] * [-1, 1, 1]) / 2
    canonical = np.stack([Placement(*fit_similarity(mean[rigid], face[rigid])).unplace(face) for face in landmarks])
    read = [read_expression(face) | {"smile": s} for face, s in zip(canonical, smile, strict=True)]
    expression = np.array([[row[name] for name in EXPRESSION_NAMES] for row in read])
    expression_mean = expression.mean(0)
    rest = (canonical - mean).reshape(len(canonical), -1)
    basis = np.linalg.lstsq(expression - expression_mean, rest, rcond=None)[0]
    rest = rest - (expression - expression_mean) @ basis
    _, singular, directions = np.linalg.svd(rest - rest.mean(0), full_matrices=False)
    shape = (-1, *mean.shape)
    return FaceShape(
        mean.astype(np.float32),
        expression_mean.astype(np.float32),
        basis.reshape(shape).astype(np.float32),
        directions[:persons].reshape(shape).astype(np.float32),
        (singular[:persons] / len(rest) ** 0.5).astype(np.float32),
    )


def mirror_numbers(landmarks: np.ndarray) -> np.ndarray:
    """(N, 478, 3) -> (478,): which point is each one's mirror image, from the average face.

    Raises:
        ValueError: the average face is not symmetric enough to pair its points.
    """
    from scipy.optimize import linear_sum_assignment

    face = landmarks.mean(0)
    face = face - (face[IRISES[0]] + face[IRISES[1]]) / 2
    flipped = face * [-1, 1, 1]
    distance = np.linalg.norm(face[:, None] - flipped[None], axis=-1)
    _, partner = linear_sum_assignment(distance + distance.T)
    if not (partner[partner] == np.arange(len(partner))).all():
        raise ValueError("the average face is not symmetric enough to pair its points; give more faces")
    return partner
