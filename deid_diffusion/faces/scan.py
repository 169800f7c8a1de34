"""Looks through a clip, frame by frame: where faces are, which of them are one, and what each is like.

The first of two passes. It keeps detections, readings of a few numbers and one thumbnail, never a frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..imaging.shots import is_cut, thumbnail
from ..types import Face, Outcome
from .attributes import Attributes
from .face_list import FaceList
from .looks import Find, Follow, Looks
from .motion import summarize, weighted_median
from .ood_score import no_face
from .saved_looks import SavedLooks
from .sightings import Origin, Sighting, fill
from .task import FaceTask
from .tracks import ODD, Linker, group_people, join_backwards

log = logging.getLogger(__name__)
READ_S, READ_LATER_S = 0.1, 0.25  # between two readings of a track: of the first `ENOUGH`, and of those after them
ENOUGH = 10
KEPT = 8  # frames: a track's speed is measured over some
SHARP_SCORE = 0.5  # of a detection that says something about the person
LookAt = Callable[[np.ndarray, Face], Face]  # a face of which only the box is known -> with its points; score 0: none
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
        ood_score: how unlike photos of faces it is, see `FaceAnalysis`.
    """

    values: Mapping[str, float]
    embedding: np.ndarray
    weight: float
    sure: bool = True
    kept: bool = False
    reason: str = ""
    ood_score: float = 0.0


class Scan:
    """Everything that is known about a clip so far.

    Attributes:
        linker: the tracks.
        readings: of each track, by its number.
        size: width and height in pixels.
        failed: frames in which the detector broke: nobody knows who is in them.
        told: by track and frame, what a list says of frames that did not find it.
        saved: what an earlier run found, to which what it lacks is added; None where nothing is kept.
    """

    def __init__(
        self,
        glance: Find,
        look: Find,
        read: Read | None = None,
        listed: FaceList | None = None,
        look_at: LookAt | None = None,
        follow: Follow | None = None,
        peek: Find | None = None,
    ) -> None:
        """Takes what finds faces and what reads them.

        Args:
            glance: quick, for every frame.
            look: thorough, for the first frame of a shot, every `looks.LOOK_S`, and where a track loses its face.
            read: (H, W, 3) uint8, all its faces, the places of those to read -> their analyzed tasks by place; None
                when nothing is to be read.
            listed: where faces are, as somebody says; then nothing is looked for.
            look_at: reads the points of listed faces that have none; None leaves them as they are.
            follow: (H, W, 3) uint8, faces where they should be -> those that are seen clearly there; None where
                nothing can.
            peek: quicker than `glance`, for large faces that come in between two of those; None for none.
        """
        self.read, self.listed, self._look_at = read, listed, look_at
        self.saved: SavedLooks | None = None
        self.linker = Linker(0 if listed is None else listed.next_number)
        self._looks = Looks(self.linker, glance, look, follow, peek)
        self.readings = dict[int, list[Reading]]()
        self.size = (0, 0)
        self._thumbnail: np.ndarray | None = None
        self._faces: list[Face] = []
        self.failed: set[int] = set()
        self.told: dict[int, dict[int, Sighting]] = {}
        self._read_s: dict[int, float] = {}
        self._tried: dict[int, int] = {}

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
        if repeated and not cut and self.listed is None:
            self.failed |= {number} if number - 1 in self.failed else set()
            self.linker.add(self._faces, time_s)
            if self.saved is not None:
                self.saved.add(number, self._faces)
            return
        try:
            faces = self._found(image, time_s, cut)
        except Exception:
            if not number and self.listed is None:  # it never worked, so that no frame would be left
                raise
            log.exception("looking for faces failed")
            self.failed.add(number)
            faces = []
        tasks: dict[int, FaceTask] = {}

        def embed(places: Sequence[int]) -> dict[int, np.ndarray]:
            tasks.update(self._read(image, faces, places))
            return {p: tasks[p].embedding for p in places if p in tasks and tasks[p].embedding is not None}

        numbers = self.linker.add(faces, time_s, cut, embed if self.read is not None else None)
        self._faces = faces
        if self.read is not None:
            due = [place for place, track in enumerate(numbers) if self._is_due(track, time_s)]
            tasks.update(self._read(image, faces, [place for place in due if place not in tasks]))
            for place, task in tasks.items():
                self._learn(numbers[place], task, time_s)

    def _found(self, image: np.ndarray, time_s: float, cut: bool) -> list[Face]:
        """The faces of a frame: as they are listed, as an earlier run found them, or looked for."""
        number = len(self.linker.times_s)
        if self.listed is not None:
            if number in self.listed.failed:
                self.failed.add(number)
            return self._told(image, self.listed.sightings.get(number, ()))
        faces = None if self.saved is None else self.saved.get(number)
        if faces is None:
            faces = self._looks(image, time_s, cut, self._faces)
            if self.saved is not None:
                self.saved.add(number, faces)
        if faces:
            self._looks.seen_s = time_s
        return faces

    def _told(self, image: np.ndarray, row: Sequence[Sighting]) -> list[Face]:
        """The faces of a frame as they are listed; of those that nobody found there, only the place is kept."""
        number, faces = len(self.linker.times_s), []
        for one in row:
            face = one.face
            if one.origin is not Origin.FOUND:
                assert face.track_id is not None  # or it would count as found
                self.told.setdefault(face.track_id, {})[number] = one
            elif face.score or self._look_at is None:
                faces.append(face)
            else:
                faces.append(replace(self._look_at(image, face), track_id=face.track_id))
        return faces

    def _read(self, image: np.ndarray, faces: Sequence[Face], places: Sequence[int]) -> dict[int, FaceTask]:
        """What reading says; nothing where it fails, so that the track learns from other frames."""
        assert self.read is not None
        try:
            return self.read(image, faces, [place for place in places if faces[place].score])
        except Exception:
            log.exception("reading faces failed")
            return {}

    def _is_due(self, track: int, time_s: float) -> bool:
        """Whether a track is to be read again."""
        wait_s = READ_S if len(self.readings.get(track, [])) < ENOUGH else READ_LATER_S
        return time_s - self._read_s.get(track, -np.inf) >= wait_s - 1e-6

    def _learn(self, number: int, task: FaceTask, time_s: float) -> None:
        """Adds a reading to a track."""
        self._read_s[number] = time_s
        self._tried[number] = self._tried.get(number, 0) + 1
        if task.embedding is None:
            return
        size = float(np.sqrt(np.prod(task.face.box[2:] - task.face.box[:2])))
        weight = max(task.face.score, 0.05) * min(size, 200.0)
        values = task.analysis.attributes.to_dict()
        sure, kept = task.face.score >= SHARP_SCORE, task.outcome is Outcome.KEPT
        reason, odd = task.reason or task.borderline, task.analysis.ood_score
        reading = Reading(values, task.embedding, weight, sure, kept, reason, odd)
        self.readings.setdefault(number, []).append(reading)
        self._update(number)

    def _update(self, number: int) -> None:
        """Tells a track what its readings say."""
        track, rows = self.linker.tracks[number], self.readings.get(number, [])
        track.embedding = self.mean_embedding(number)
        odd = [(row.ood_score, row.weight) for row in rows if row.ood_score]  # 0: nothing here can tell
        track.ood_score = weighted_median([score for score, _ in odd], [weight for _, weight in odd]) if odd else None

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

    def doubt(self, number: int) -> str:
        """Why a track may be no face, so that none must be generated there; empty for what is one.

        No detection of it is clear, and its readings are unlike photos of faces, or do not fit in most frames.

        Args:
            number: of the track.
        """
        track, rows = self.linker.tracks[number], self.readings.get(number, [])
        if track.is_clear:
            return ""
        if track.ood_score is not None and track.ood_score >= ODD:
            return no_face(track.ood_score)
        if len(rows) < self._tried.get(number, 0) / 2:
            return "may be no face: landmarks do not fit the detection in most frames"
        return ""

    def finish(self) -> None:
        """Links backwards, once all frames are there."""
        joined = join_backwards(self.linker) if self.listed is None else {}
        for later, earlier in joined.items():
            self.readings.setdefault(earlier, []).extend(self.readings.pop(later, []))
            self._tried[earlier] = self._tried.get(earlier, 0) + self._tried.pop(later, 0)
            self._update(earlier)

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
        told = None if self.listed is None else self.told
        return fill(list(linker.tracks.values()), linker.times_s, linker.starts, self.size, people, first, told)
