"""People among whom a judge seeks the one in a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.measure import FaceMeasurer
from deid_diffusion.evaluation.metrics import threshold_at_far, unit_norm
from deid_diffusion.evaluation.pairing import list_pictures, person_of, read_picture

FAR = 0.01


@dataclass(frozen=True, eq=False)
class Strangers:
    """People among whom a judge seeks the one in the clip.

    Attributes:
        vectors: (N, D) float32 of norm 1, one for each photo.
        people: N names.
        threshold: cosine that 1 % of the pairs of different people exceed; None for too few pairs.
        mean: of all those pairs; NaN without any.
    """

    vectors: np.ndarray
    people: tuple[str, ...]
    threshold: float | None
    mean: float

    def without(self, person: str) -> np.ndarray:
        """(M, D) vectors of all others."""
        return self.vectors[[name != person for name in self.people]] if self.people else self.vectors


def read_strangers(gallery: Path | None, measurer: FaceMeasurer, person_by: str = "stem") -> tuple[Strangers, ...]:
    """For each judge, the people of a folder of photos, and how alike they are.

    Args:
        gallery: of one face a photo, the largest; None for nobody.
        measurer: detector and judges.
        person_by: "stem" or "folder", see `pairing.person_of`.
    """
    people: list[str] = []
    rows: list[list[np.ndarray]] = [[] for _ in measurer.judges]
    for key, path in (list_pictures(gallery) if gallery else {}).items():
        picture = read_picture(path)
        for face in measurer.faces(picture)[:1]:
            people.append(person_of(key, person_by))
            for own, vector in zip(rows, measurer.embeddings(picture, face), strict=True):
                own.append(vector)
    return tuple(strangers_of(np.array(own, np.float32), people) for own in rows)


def strangers_of(vectors: np.ndarray, people: Sequence[str]) -> Strangers:
    """(N, D) embeddings and their N people -> with the threshold at a false accept rate of 1 %."""
    if not len(people):
        return Strangers(np.zeros((0, 0), np.float32), (), None, float("nan"))
    unit, who = unit_norm(vectors), np.array(people)
    pairs = np.triu(who[:, None] != who[None], 1)
    cosines = np.sort((unit @ unit.T)[pairs])
    mean = float(cosines.mean()) if len(cosines) else float("nan")
    return Strangers(unit, tuple(people), threshold_at_far(cosines, FAR), mean)
