"""Measures one face of one picture by detector, judges and networks, through the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.detectors import FaceDetector, match_face
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.nets import FaceNets, five_points
from deid_diffusion.evaluation.pairing import HashedPicture
from deid_diffusion.evaluation.utility import cheeks, head_pose_deg, ita_deg, normalised
from deid_diffusion.types import Face

NAN = float("nan")
# Which point lies where another one was once the picture is mirrored: of five, and of the 68 of iBUG 300-W.
MIRRORED_FIVE = np.array([1, 0, 2, 4, 3])
MIRRORED_68 = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
])  # fmt: skip


@dataclass(frozen=True, eq=False)
class FaceMeasurement:
    """What the networks measure on one face; NaN where none of them measures it.

    Attributes:
        points: (P, 2) x y in image pixels, the landmarks that are really measured.
        five: (5, 2) x y in image pixels: eyes, nose tip, mouth corners, left to right as the viewer sees them.
        pose_deg: (3,) yaw, pitch, roll in degrees.
        age: in years.
        male: probability of presenting as male, 0..1.
        expression: (7,) probabilities, in the order of `nets.NetOptions.expression`.
        ita_deg: skin tone as individual typology angle in degrees.
        features: (D,) in the feature space of the quality distances, or (0,).
    """

    points: np.ndarray
    five: np.ndarray
    pose_deg: np.ndarray
    age: float
    male: float
    expression: np.ndarray
    ita_deg: float
    features: np.ndarray

    def conditioning(self) -> np.ndarray:
        """(F,) float32: landmarks normalised for place, size and roll, then the attributes: all that can condition a
        generator."""
        attributes = [*self.expression, self.age, self.male, self.ita_deg]
        return np.concatenate([normalised(self.points, self.five), attributes]).astype(np.float32)


class FaceMeasurer:
    """Measures faces by one detector, some judges and some networks, behind one cache.

    Args:
        detector: finds the faces.
        judges: recognisers, in the order in which `embeddings` answers.
        nets: optional networks for attributes, landmarks, pose and features.
        cache: where their answers are kept.
    """

    def __init__(self, detector: FaceDetector, judges: tuple[Judge, ...], nets: FaceNets, cache: ArrayCache) -> None:
        self.detector, self.judges, self.nets, self._cache = detector, judges, nets, cache

    def faces(self, picture: HashedPicture) -> list[Face]:
        """The faces of a picture, the largest first."""

        def detect() -> np.ndarray:
            rows = [np.concatenate([f.box, f.landmarks.ravel(), [f.score]]) for f in self.detector(picture.pixels)]
            return np.array(rows, dtype=np.float32).reshape(-1, 15)

        rows = self._cache.get(f"{picture.digest} {self.detector.name} {self.detector.weight_hash}", detect)
        faces = [Face(row[:4], row[4:14].reshape(5, 2), float(row[14])) for row in rows]
        return sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))

    def embeddings(self, picture: HashedPicture, face: Face) -> list[np.ndarray]:
        """One (D,) float32 vector per judge.

        Args:
            picture: where the face is.
            face: box and landmarks in its pixels.
        """
        return [
            self._cache.get(self._key(picture, face, judge.weight_hash), partial(judge.embed, picture.pixels, face))
            for judge in self.judges
        ]

    def measure_face(self, picture: HashedPicture, face: Face) -> FaceMeasurement:
        """Everything about a face but who it is.

        Args:
            picture: where the face is.
            face: box and landmarks in its pixels.
        """
        size = picture.pixels.shape[:2]
        points = five = face.landmarks
        whole = len(self.detector.measured) == 5
        if "landmarks" in self.nets:
            points = self._ask("landmarks", picture, face)
            five, whole = five_points(points), True
        elif not whole:
            points = face.landmarks[list(self.detector.measured)]
        if "pose" in self.nets:
            pose = self._ask("pose", picture, face)
        else:
            pose = head_pose_deg(five, size) if whole else np.full(3, NAN)
        age, male = self._ask("age_male", picture, face) if "age_gender" in self.nets else (NAN, NAN)
        skin = cheeks(picture.pixels, face.landmarks)
        return FaceMeasurement(
            points=points,
            five=five,
            pose_deg=pose,
            age=float(age),
            male=float(male),
            expression=self._ask("expression", picture, face) if "expression" in self.nets else np.full(7, NAN),
            ita_deg=ita_deg(skin) if len(skin) else NAN,
            features=self._ask("features", picture, face) if "features" in self.nets else np.zeros(0),
        )

    def measure_mirrored(self, picture: HashedPicture, face: Face) -> FaceMeasurement | None:
        """The same face measured in the picture's mirror image and mapped back; None where no face is found there.

        A mirror image shows the same person, pose and expression, so what differs is the networks' own error.

        Args:
            picture: where the face is.
            face: box and landmarks in its pixels.
        """
        width = picture.pixels.shape[1]
        mirror = HashedPicture(np.ascontiguousarray(picture.pixels[:, ::-1]), f"{picture.digest} mirrored")
        box = np.array([width - face.box[2], face.box[1], width - face.box[0], face.box[3]])
        there = Face(box, _flipped(face.landmarks, width)[MIRRORED_FIVE], face.score)
        seen = match_face(there, self.faces(mirror))
        if seen is None:
            return None
        measurement = self.measure_face(mirror, seen)
        points = _flipped(measurement.points, width)
        if len(points) == len(MIRRORED_68):
            points = points[MIRRORED_68]
        else:
            points = points[[self.detector.measured.index(MIRRORED_FIVE[n]) for n in self.detector.measured]]
        return replace(
            measurement,
            points=points,
            five=_flipped(measurement.five, width)[MIRRORED_FIVE],
            pose_deg=measurement.pose_deg * np.array([-1, 1, -1], np.float32),
        )

    def _ask(self, what: str, picture: HashedPicture, face: Face) -> np.ndarray:
        kind = "age_gender" if what == "age_male" else what
        key = self._key(picture, face, f"{what} {self.nets.hashes[kind]}")
        return self._cache.get(key, lambda: getattr(self.nets, what)(picture.pixels, face))

    @staticmethod
    def _key(picture: HashedPicture, face: Face, what: str) -> str:
        place = " ".join(f"{v:.2f}" for v in [*face.box, *face.landmarks.ravel()])
        return f"{picture.digest} {what} {place}"


def _flipped(points: np.ndarray, width: int) -> np.ndarray:
    """(P, 2) x y, counted from the picture's corner, in its mirror image."""
    return np.column_stack([width - points[:, 0], points[:, 1]]).astype(points.dtype)
