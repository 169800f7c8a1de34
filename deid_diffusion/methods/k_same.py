"""Averages faces in groups of k people, so that k people share one face (k-Same, Newton, Sweeney and Malin 2005).

The promise: whoever knows all sources can at best narrow a published face down to the k people it was averaged from.
It holds only if the averaged people are the published ones, so the whole set is analyzed before anything is generated,
and only if nobody is averaged with themselves, so photos that the recogniser takes for one person count once.

Every member of a group gets the same crop, to the byte: shape and texture are both averages (k-Same-M, Gross et al.
2006, with a thin-plate warp in the place of the active appearance model). Pose and expression are averaged with them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import cv2
import numpy as np

from ..errors import DeidError
from ..faces.masks import blended
from ..faces.task import FaceTask
from ..messages import brief
from ..types import FaceCrop, Outcome
from .protocol import Context, register

# FaceMesh numbers: face oval, eyes and irises, brows, nose, lips.
# fmt: off
ANCHORS = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 33, 160, 159, 158, 133, 153, 145, 144, 263, 387, 386,
    385, 362, 380, 374, 373, 468, 473, 70, 63, 105, 66, 107, 300, 293, 334, 296, 336, 168, 197, 5, 4, 98, 327, 2, 61,
    40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 13, 14,
)
# fmt: on


class TooFewPeopleError(DeidError, ValueError):
    """There are not k people to average."""


class Cohort:
    """The people of a set and the averages they share. `fit_cohort` makes it.

    Attributes:
        people: how many were told apart.
        faces: how many faces they have in the set.
    """

    def __init__(self, same: float, leaders: np.ndarray, groups: list[np.ndarray], faces: int, means: BinaryIO):
        """Takes finished parts.

        Args:
            same: cosine from which on two faces count as one person.
            leaders: (P, D) float32 unit norm, the first face of each person.
            groups: numbers of the people of each group; every person is in one.
            means: an open file of the groups' (S, S, 3) uint8 averages, one after the other.
        """
        self.people, self.faces = len(leaders), faces
        self._same, self._leaders, self._means = same, leaders, means
        self._sizes = [len(group) for group in groups]
        self._group_of = np.zeros(len(leaders), int)
        for number, group in enumerate(groups):
            self._group_of[group] = number
        self._digest = hashlib.sha256(leaders.tobytes() + self._group_of.tobytes()).hexdigest()[:16]

    def face_for(self, embedding: np.ndarray, size: int) -> tuple[np.ndarray, int] | None:
        """The face that stands for a person of the set.

        Args:
            embedding: (D,) unit norm, of the person's face.
            size: side S of the crops.

        Returns:
            the average (S, S, 3) uint8 and how many people it is of; None for somebody who is not in the set.
        """
        similarity = self._leaders @ embedding
        nearest = int(similarity.argmax())
        if similarity[nearest] < self._same:
            return None
        group = int(self._group_of[nearest])
        self._means.seek(group * size * size * 3)
        return np.frombuffer(self._means.read(size * size * 3), np.uint8).reshape(size, size, 3), self._sizes[group]

    def __str__(self) -> str:
        """What a report may say of it, and what changes with anybody who comes or goes; nothing of a face."""
        return f"{self.people} people in {len(self._sizes)} groups, {self._digest}"


@register("k-same", "average")
@dataclass(frozen=True)
class KSame:
    """The average face of each one's group of k people; by the name "average", of all people of the set.

    With one and the same face in every picture, only the surroundings tell who is who: the floor of an evaluation.
    """

    name: str = "k-same"
    reads_faces: bool = True
    uses_targets: bool = False

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """Groups the people of the settings' cohort, or of each picture by itself where there is none.

        Raises:
            TooFewPeopleError: fewer than k people.
        """
        with context.timing("average"):
            cohorts = {}
            for number in dict.fromkeys(task.picture for task in tasks):
                own = [(task.crop, task.embedding) for task in tasks if task.picture == number]
                settings = context.settings
                whole = self.name == "average"
                cohorts[number] = settings.cohort or fit_cohort(own, settings.k, context.threshold, whole)
            return [self._averaged(task, cohorts[task.picture], context) for task in tasks]

    def _averaged(self, task: FaceTask, cohort: Cohort, context: Context) -> FaceTask:
        shared = cohort.face_for(task.embedding, len(task.crop.image))
        if shared is None:
            return task.decided(Outcome.REDACTED, "is none of the people that were averaged")
        image, people = shared
        # Reported, not tested: a share of 1 / k of the source is what this method leaves, and k people have it.
        similarity = float(context.embed(blended(task.crop, image)[None])[0] @ task.embedding)
        task = replace(task, generated=image, similarity=similarity, result_seed=task.draw_seed())
        if self.name == "average":
            task = replace(task, skin_texture=None)  # it is the source's
        return task.decided(Outcome.REPLACED, f"mean of {people} people")


def fit_cohort(faces: Iterable[tuple[FaceCrop, np.ndarray]], k: int, same: float, whole: bool = False) -> Cohort:
    """Looks at every face of a set once and averages it in groups.

    Crops wait in a nameless temporary file, which is gone when this returns, however it ends; in memory a person takes
    some kilobytes.

    Args:
        faces: crop and (D,) unit-norm embedding of each; the order decides ties and nothing else.
        k: people a face is averaged from; the last group of the set may hold up to 2 k - 1.
        same: cosine from which on two faces count as one person.
        whole: average all people, k at least, as one group.

    Raises:
        TooFewPeopleError: fewer than k people.
    """
    if k < 2:
        raise ValueError(f"k must be >= 2 people, got {brief(k)}")
    points: list[np.ndarray] = []
    leaders, count, size = np.zeros((0, 0), np.float32), 0, 0
    with tempfile.TemporaryFile(prefix="deid-") as spool:
        for crop, embedding in faces:
            count, size = count + 1, len(crop.image)
            if len(points) and (leaders[: len(points)] @ embedding).max() >= same:
                continue
            if len(points) == len(leaders):  # doubled, so that a long stream is not copied at each face
                more = np.zeros((max(len(leaders), 64), len(embedding)), np.float32)
                leaders = np.concatenate([leaders.reshape(-1, len(embedding)), more])
            leaders[len(points)] = embedding
            points.append(crop.landmarks[list(ANCHORS), :2].astype(np.float32))
            spool.write(crop.image.tobytes())
        leaders = leaders[: len(points)].copy()
        if len(leaders) < k:
            raise TooFewPeopleError(
                f"k-same needs {brief(k)} people to average, got {len(leaders)} told apart in {count} faces; "
                "give more pictures at once, or a smaller k"
            )
        groups = [np.arange(len(leaders))] if whole else nearest_groups(leaders, k)
        means = tempfile.TemporaryFile(prefix="deid-")
        for group in groups:
            crops = (_read(spool, int(number), size) for number in group)
            means.write(mean_face(crops, np.stack([points[number] for number in group])).tobytes())
    return Cohort(same, leaders, groups, count, means)


def nearest_groups(embeddings: np.ndarray, k: int) -> list[np.ndarray]:
    """Splits people into groups of k, 2 k - 1 at most in the last (algorithm k-Same, Newton et al. 2005, fig. 4).

    Args:
        embeddings: (P, D) unit norm, P >= k.

    Returns:
        numbers of the people of each group: the first who is left, and the k - 1 most like them.
    """
    waiting, groups = np.arange(len(embeddings)), []
    while len(waiting) >= 2 * k:
        similarity = embeddings[waiting] @ embeddings[waiting[0]]
        similarity[0] = np.inf
        chosen = np.argsort(-similarity, kind="stable")[:k]
        groups.append(waiting[chosen])
        waiting = np.delete(waiting, chosen)
    return [*groups, waiting]


def mean_face(crops: Iterable[np.ndarray], points: np.ndarray) -> np.ndarray:
    """The average of aligned faces, each bent to the average shape first so that features do not blur.

    Args:
        crops: the (S, S, 3) uint8 crops, one at a time.
        points: (k, N, 2) x y in crop pixels, N landmarks of each.

    Returns:
        (S, S, 3) uint8.
    """
    shape, total = points.mean(0), 0
    for crop, own in zip(crops, points, strict=True):
        size = len(crop)
        field = (thin_plate(_framed(shape, size), _framed(own, size), size) - 0.5).astype(np.float32)
        total = total + cv2.remap(
            crop, field[..., 0], field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.float32)
    return np.rint(total / len(points)).astype(np.uint8)


def thin_plate(source: np.ndarray, target: np.ndarray, size: int, stiffness: float = 1e-4) -> np.ndarray:
    """The smoothest map that takes points to points (Bookstein 1989), at every pixel centre.

    Args:
        source, target: (N, 2) x y in pixels of a square.
        size: its side.
        stiffness: above 0 the points may be missed a little, so that two that coincide do no harm.

    Returns:
        (size, size, 2) float64: where each pixel of the source square lies in the target square.
    """
    source, target = source.astype(np.float64) / size, target.astype(np.float64) / size
    count = len(source)
    affine = np.concatenate([np.ones((count, 1)), source], axis=1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _bending(source, source) + stiffness * np.eye(count)
    system[:count, count:], system[count:, :count] = affine, affine.T
    weights = np.linalg.solve(system, np.concatenate([target, np.zeros((3, 2))]))
    centres = (np.arange(size) + 0.5) / size
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    bent = _bending(grid, source) @ weights[:count] + weights[count] + grid @ weights[count + 1 :]
    return bent.reshape(size, size, 2) * size


def _bending(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, 2), (N, 2) -> (M, N) r² log r², 0 where r is 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    squared = np.maximum(squared, 1e-12)
    return squared * np.log(squared)


def _framed(points: np.ndarray, size: int) -> np.ndarray:
    """Points, and the square's corners and the middles of its sides, which stay where they are."""
    rim = np.array([[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]]) * size
    return np.concatenate([points, rim])


def _read(spool: BinaryIO, number: int, size: int) -> np.ndarray:
    spool.seek(number * size * size * 3)
    return np.frombuffer(spool.read(size * size * 3), np.uint8).reshape(size, size, 3)
