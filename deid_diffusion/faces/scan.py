"""Looks through a clip, frame by frame: where faces are, which of them are one, and what each is like.

The first of two passes. It keeps detections, readings of a few numbers and one thumbnail, never a frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..imaging.shots import is_cut, thumbnail
from ..types import Face, Outcome
from .attributes import Attributes
from .motion import summarize
from .sightings import Sighting, fill
from .task import FaceTask
from .tracks import Linker, group_people, iou, join_backwards

log = logging.getLogger(__name__)
LOOK_S = 0.5  # between two full looks
READ_S = 0.1  # between two readings of a track
KEPT = 8  # frames: a track's speed is measured over some
SHARP_SCORE = 0.5  # of a detection that says something about the person
Find = Callable[[np.ndarray], list[Face]]
Read = Callable[[np.ndarray, Sequence[Face], Sequence[int]], dict[int, FaceTask]]


@dataclass(frozen=True, eq=False)
class Reading:
    """What one frame says about a track.

    Attributes:
        values: attributes by name.
        embedding: (D,) float32 unit norm.
        weight: how much it counts: the score, times the size in pixels up to that of a crop.
        sure: whether the face is seen clearly enough to tell who it is.
        kept: whether the frame says that the person is to be left alone.
        reason: likewise, in words.
    """

    values: Mapping[str, float]
    embedding: np.ndarray
    weight: float
    sure: bool = True
    kept: bool = False
    reason: str = ""


class Scan:
    """Everything that is known about a clip so far.

    Attributes:
        linker: the tracks.
        readings: of each track, by its number.
        size: width and height in pixels.
        failed: frames in which the detector broke: nobody knows who is in them.
    """

    def __init__(self, glance: Find, look: Find, read: Read | None = None) -> None:
        """Takes what finds faces and what reads them.

        Args:
            glance: quick, for every frame.
            look: thorough, for the first frame of a shot, every `LOOK_S`, and where a track loses its face.
            read: (H, W, 3) uint8, all its faces, the places of those to read -> their analyzed tasks by place; None
                when nothing is to be read.
        """
        self.glance, self.look, self.read = glance, look, read
        self.linker, self.readings = Linker(), dict[int, list[Reading]]()
        self.size = (0, 0)
        self._thumbnail: np.ndarray | None = None
        self._faces: list[Face] = []
        self.failed: set[int] = set()
        self._looked_s = -np.inf
        self._read_s: dict[int, float] = {}

    def add(self, image: np.ndarray, time_s: float, repeated: bool = False) -> None:
        """Looks at the next frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            time_s: of the frame.
            repeated: whether it is the frame before once more.

        Raises:
            Exception: whatever the detector raises at the first frame; later ones are noted in `failed`.
        """
        thumb = thumbnail(image)
        cut = self._thumbnail is None or is_cut(self._thumbnail, thumb)
        self._thumbnail, self.size = thumb, (image.shape[1], image.shape[0])
        number = len(self.linker.times_s)
        if repeated and not cut:
            self.failed |= {number} if number - 1 in self.failed else set()
            self.linker.add(self._faces, time_s)
            return
        try:
            faces = self._detect(image, time_s, cut)
        except Exception:
            if not number:  # it never worked, so that no frame would be left
                raise
            log.exception("looking for faces failed")
            self.failed.add(number)
            faces = []
        tasks: dict[int, FaceTask] = {}

        def embed(places: Sequence[int]) -> dict[int, np.ndarray]:
            tasks.update(self.read(image, faces, places))
            return {place: tasks[place].embedding for place in places if tasks[place].embedding is not None}

        numbers = self.linker.add(faces, time_s, cut, embed if self.read is not None else None)
        self._faces = faces
        if self.read is not None:
            due = [p for p, n in enumerate(numbers) if time_s - self._read_s.get(n, -np.inf) >= READ_S - 1e-6]
            tasks.update(self.read(image, faces, [place for place in due if place not in tasks]))
            for place, task in tasks.items():
                self._learn(numbers[place], task, time_s)

    def _detect(self, image: np.ndarray, time_s: float, cut: bool) -> list[Face]:
        """The faces of a frame; a second, thorough look where it is due or one seems to be gone."""
        due = cut or time_s - self._looked_s >= LOOK_S - 1e-6
        faces = self.glance(image)
        if not due:
            due = any(max((iou(one.box, face.box) for face in faces), default=0.0) < 0.2 for one in self._faces)
        if due:
            faces = united(self.look(image), faces)
            self._looked_s = time_s
        return faces

    def _learn(self, number: int, task: FaceTask, time_s: float) -> None:
        """Adds a reading to a track."""
        self._read_s[number] = time_s
        if task.embedding is None:
            return
        size = float(np.sqrt(np.prod(task.face.box[2:] - task.face.box[:2])))
        weight = max(task.face.score, 0.05) * min(size, 200.0)
        values = task.analysis.attributes.to_dict()
        sure, kept = task.face.score >= SHARP_SCORE, task.outcome is Outcome.KEPT
        reading = Reading(values, task.embedding, weight, sure, kept, task.reason or task.borderline)
        self.readings.setdefault(number, []).append(reading)
        self.linker.tracks[number].embedding = self.mean_embedding(number)

    def mean_embedding(self, number: int) -> np.ndarray | None:
        """(D,) float32 unit norm: of a track; None when nothing of it could be read."""
        rows = self.readings.get(number, [])
        if not rows:
            return None
        mean = np.sum([row.weight * row.embedding for row in rows], axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)

    def median(self, number: int) -> Attributes:
        """What a track is like; it must have readings."""
        rows = self.readings[number]
        return summarize([row.values for row in rows], [row.weight for row in rows])

    def verdict(self, number: int) -> tuple[bool, str]:
        """Whether every clear frame that was read says that the person is to be left alone, and what one says."""
        rows = [row for row in self.readings.get(number, []) if row.sure]
        kept = bool(rows) and all(row.kept for row in rows)
        return kept, next((row.reason for row in rows if row.reason and row.kept == kept), "")

    def finish(self) -> None:
        """Links backwards, once all frames are there."""
        for later, earlier in join_backwards(self.linker).items():
            self.readings.setdefault(earlier, []).extend(self.readings.pop(later, []))
            self.linker.tracks[earlier].embedding = self.mean_embedding(earlier)

    def forget(self, before: int) -> None:
        """Drops where faces were in earlier frames, which a stream is done with; the last of each track stays."""
        for track in self.linker.tracks.values():
            for frame in [frame for frame in track.found if frame < min(before - KEPT, track.last)]:
                del track.found[frame]

    def people(self, threshold: float) -> dict[int, int]:
        """The person of each track, see `group_people`."""
        return group_people(list(self.linker.tracks.values()), threshold)

    def beside(self, person: int, people: Mapping[int, int]) -> set[int]:
        """The people who are in a frame together with one.

        Args:
            person: the one.
            people: of each track, as from `people`.
        """
        tracks = self.linker.tracks
        frames = set().union(*(tracks[n].found for n, one in people.items() if one == person and n in tracks))
        others = {one for n, one in people.items() if n in tracks and frames & tracks[n].found.keys()}
        return others - {person}

    def sightings(self, people: Mapping[int, int] | None = None, first: int = 0) -> list[list[Sighting]]:
        """Where all faces are, for each frame from `first` on, see `sightings.fill`.

        Args:
            people: of each track, as from `people`; without, every track is somebody else.
            first: number of a frame.
        """
        linker = self.linker
        return fill(list(linker.tracks.values()), linker.times_s, linker.starts, self.size, people, first)


def united(faces: Sequence[Face], more: Sequence[Face]) -> list[Face]:
    """Two lists of detections of one picture, each face once; the first list's own where both have it.

    Args:
        faces: all of which are taken.
        more: of which those are taken that overlap none of the others.
    """
    return [*faces, *(one for one in more if all(iou(one.box, face.box) < 0.35 for face in faces))]
