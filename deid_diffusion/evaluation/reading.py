"""Asks finder, judges and nets about one face of one picture, through the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.faces import Finder
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.nets import FaceNets, five_points
from deid_diffusion.evaluation.pictures import Picture
from deid_diffusion.evaluation.utility import cheeks, head_pose_deg, ita_deg, normalised
from deid_diffusion.types import Face

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Reading:
    """What can be read off one face; NaN where nothing here can read it.

    Attributes:
        points: (P, 2) x y in image pixels, the landmarks that are really measured.
        pose_deg: (3,) yaw, pitch, roll.
        age, male: years and probability; `expression`: (7,) probabilities.
        ita_deg: skin tone.
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

    def condition(self) -> np.ndarray:
        """(F,) float32: landmarks without place, size and roll, and the attributes: all a painter could be told."""
        attributes = [*self.expression, self.age, self.male, self.ita_deg]
        return np.concatenate([normalised(self.points, self.five), attributes]).astype(np.float32)


class Reader:
    """Finder, judges and nets behind one cache."""

    def __init__(self, finder: Finder, judges: tuple[Judge, ...], nets: FaceNets, cache: ArrayCache):
        self.finder, self.judges, self.nets, self._cache = finder, judges, nets, cache

    def faces(self, picture: Picture) -> list[Face]:
        """The faces of a picture, the largest first."""

        def find() -> np.ndarray:
            rows = [np.concatenate([f.box, f.landmarks.ravel(), [f.score]]) for f in self.finder(picture.pixels)]
            return np.array(rows, dtype=np.float32).reshape(-1, 15)

        rows = self._cache.get(f"{picture.digest} {self.finder.name} {self.finder.weight_hash}", find)
        faces = [Face(row[:4], row[4:14].reshape(5, 2), float(row[14])) for row in rows]
        return sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))

    def embed(self, picture: Picture, face: Face) -> list[np.ndarray]:
        """One (D,) vector per judge."""
        return [
            self._cache.get(self._key(picture, face, j.weight_hash), lambda j=j: j.embed(picture.pixels, face))
            for j in self.judges
        ]

    def read(self, picture: Picture, face: Face) -> Reading:
        """Everything else that can be read off a face."""
        size = picture.pixels.shape[:2]
        points = five = face.landmarks
        whole = len(self.finder.measured) == 5
        if "landmarks" in self.nets:
            points = self._ask("landmarks", picture, face)
            five, whole = five_points(points), True
        elif not whole:
            points = face.landmarks[list(self.finder.measured)]
        if "pose" in self.nets:
            pose = self._ask("pose", picture, face)
        else:
            pose = head_pose_deg(five, size) if whole else np.full(3, NAN)
        age, male = self._ask("age_male", picture, face) if "age_gender" in self.nets else (NAN, NAN)
        skin = cheeks(picture.pixels, face.landmarks)
        return Reading(
            points=points,
            five=five,
            pose_deg=pose,
            age=float(age),
            male=float(male),
            expression=self._ask("expression", picture, face) if "expression" in self.nets else np.full(7, NAN),
            ita_deg=ita_deg(skin) if len(skin) else NAN,
            features=self._ask("features", picture, face) if "features" in self.nets else np.zeros(0),
        )

    def _ask(self, what: str, picture: Picture, face: Face) -> np.ndarray:
        kind = "age_gender" if what == "age_male" else what
        key = self._key(picture, face, f"{what} {self.nets.hashes[kind]}")
        return self._cache.get(key, lambda: getattr(self.nets, what)(picture.pixels, face))

    @staticmethod
    def _key(picture: Picture, face: Face, what: str) -> str:
        place = " ".join(f"{v:.2f}" for v in [*face.box, *face.landmarks.ravel()])
        return f"{picture.digest} {what} {place}"
