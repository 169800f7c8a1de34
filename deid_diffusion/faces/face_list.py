"""What a detections file says: where faces are, as JSON lines that people review, edit and hand back.

The first line of each picture or clip says of which file it is, and what was found in it; then comes a line for each
face and frame:

    {"file": "clip.mp4", "sha256": "...", "width": 1280, "height": 720, "frames": 250, "tracks": [...]}
    {"file": "clip.mp4", "frame": 0, "box": [x0, y0, x1, y1], "points": [[x, y], ...], "track_id": 0, ...}

A line that a person writes needs `file`, `frame` and `box` only; the first line of a clip may say how single tracks
are hidden, `"redact_with": {"1": "blur"}`. What cannot be true is refused: a box of another clip, or in other units,
hides a few pixels somewhere and leaves the face.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeidError
from ..messages import brief, brief_path
from ..types import Face, FaceReport, Outcome, Redaction
from ..weight_files import sha256_of
from .detect import TEMPLATE
from .sightings import Origin, Sighting

BY_HAND = "left as it is by hand"


class FaceListError(DeidError, ValueError):
    """A detections file cannot be read, has another form, or is of another picture or clip."""


@dataclass(frozen=True)
class TrackSummary:
    """What was found of one face.

    Attributes:
        track_id: its number; of a picture, the face's.
        box: x0 y0 x1 y1 in pixels, of the first frame that found it.
        frames: in how many it was told.
        start_s, stop_s: times of the first and last of them; 0 in pictures.
    """

    track_id: int
    box: tuple[float, float, float, float]
    frames: int = 1
    start_s: float = 0.0
    stop_s: float = 0.0

    def report(self) -> FaceReport:
        """Its line of the report once somebody took it out."""
        box = np.array(self.box)
        face = Face(box, box[:2] + TEMPLATE * (box[2:] - box[:2]), track_id=self.track_id)
        return FaceReport(face, Outcome.KEPT, 0, reason=BY_HAND)


@dataclass(frozen=True, eq=False)
class FaceList:
    """What a detections file says of one picture or clip.

    Attributes:
        file: its name.
        sha256: of the file; empty when not known.
        width, height: in pixels, upright.
        frames: how many were looked at; 1 for a picture.
        start_s, stop_s: the part of the clip that was looked at; None for all.
        failed: frames in which looking failed: they are blurred as a whole.
        tracks: what was found, before anybody edited it.
        sightings: by frame, from 0. A `track_id` is that of the file, or None; a score of 0 is a face that has to be
            looked at, for its landmarks are not known.
        redact_with: by track, how it is hidden, whatever the method makes of the others. Of clips.
    """

    file: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    frames: int = 1
    start_s: float | None = None
    stop_s: float | None = None
    failed: tuple[int, ...] = ()
    tracks: tuple[TrackSummary, ...] = ()
    sightings: Mapping[int, Sequence[Sighting]] = field(default_factory=dict)
    redact_with: Mapping[int, Redaction] = field(default_factory=dict)

    @property
    def removed(self) -> tuple[TrackSummary, ...]:
        """Those that somebody took out, to be left as they are."""
        left = {one.face.track_id for row in self.sightings.values() for one in row}
        return tuple(track for track in self.tracks if track.track_id not in left)

    @property
    def numbers(self) -> set[int]:
        """Of all tracks, those that somebody took out among them."""
        told = {one.face.track_id for row in self.sightings.values() for one in row}
        return {number for number in told if number is not None} | {track.track_id for track in self.tracks}

    @property
    def next_number(self) -> int:
        """A number from which on no track has one."""
        return max(self.numbers, default=-1) + 1

    @property
    def boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """Of a picture: all of its boxes."""
        found = [one.face.box.astype(float).tolist() for one in self.sightings.get(0, ())]
        return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in found)

    def describe(self) -> list[Any]:
        """Plain values that differ for lists that do."""
        rows = [
            [frame, one.origin.value, one.face.track_id, one.face.box.tolist(), one.face.landmarks.tolist()]
            for frame, row in sorted(self.sightings.items())
            for one in row
        ]
        hidden = [[track, how.value] for track, how in sorted(self.redact_with.items())]
        return [self.sha256, self.start_s, self.stop_s, rows, *([hidden] if hidden else [])]

    def lines(self, stamps: Mapping[int, Mapping[str, Any]] | None = None) -> Iterator[str]:
        """JSON lines, the first one about the file.

        Args:
            stamps: by frame, what else its lines say: "pts", "time_s".
        """
        head: dict[str, Any] = {"file": self.file, "sha256": self.sha256, "width": self.width, "height": self.height}
        span = {name: getattr(self, name) for name in ("start_s", "stop_s") if getattr(self, name) is not None}
        failed = {"failed": list(self.failed)} if self.failed else {}
        tracks = [vars(track) | {"box": list(track.box)} for track in self.tracks]
        how = {str(track): one.value for track, one in self.redact_with.items()}
        hidden = {"redact_with": how} if how else {}
        yield json.dumps(head | {"frames": self.frames} | span | failed | hidden | {"tracks": tracks})
        for frame, row in sorted(self.sightings.items()):
            for one in row:
                points = [[round(float(x), 2), round(float(y), 2)] for x, y in one.face.landmarks]
                line = {"file": self.file, "frame": frame, **(stamps or {}).get(frame, {})}
                line |= {"box": [round(float(v), 2) for v in one.face.box], "points": points}
                line |= {"score": round(float(one.face.score), 4), "track_id": one.face.track_id}
                yield json.dumps(line | {"origin": one.origin.value})


def summarized(frames: Sequence[Sequence[Sighting]], times_s: Sequence[float] = (0.0,)) -> tuple[TrackSummary, ...]:
    """What was found of each face.

    Args:
        frames: the sightings of each, with the `track_id` set.
        times_s: of each.
    """
    seen: dict[int, list[tuple[int, Sighting]]] = {}
    for number, row in enumerate(frames):
        for one in row:
            if one.face.track_id is not None:
                seen.setdefault(one.face.track_id, []).append((number, one))
    found = []
    for track, rows in sorted(seen.items()):
        first = next((one for _, one in rows if one.origin is Origin.FOUND), rows[0][1])
        x0, y0, x1, y1 = (round(float(v), 2) for v in first.face.box)
        start, stop = round(times_s[rows[0][0]], 3), round(times_s[rows[-1][0]], 3)
        found.append(TrackSummary(track, (x0, y0, x1, y1), len(rows), start, stop))
    return tuple(found)


def face_list_of(lists: Mapping[str, FaceList], path: Path) -> FaceList:
    """What a detections file says of one picture or clip.

    Args:
        lists: as from `read_face_lists`.
        path: of the picture or clip; its name, or the end of its path, is that in the file.

    Raises:
        FaceListError: nothing, or more than one thing.
    """
    place = path.as_posix()
    fitting = [name for name in lists if place == name or place.endswith(f"/{name}")]
    if len(fitting) != 1:
        got = ", ".join(map(brief, fitting or list(lists)[:3]))
        raise FaceListError(f"{brief_path(path)}: wanted its boxes, got those of {got}")
    return lists[fitting[0]]


def check_same(listed: FaceList, path: Path, start_s: float | None = None, stop_s: float | None = None) -> None:
    """Whether a list is of this very file and part of it.

    Args:
        listed: what the detections file says.
        path: of the picture or clip.
        start_s, stop_s: the part of the clip that is taken.

    Raises:
        FaceListError: it is not.
    """
    name = brief_path(path)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise FaceListError(f"{name}: wanted to read it, got {error.strerror}; check the path") from None
    if listed.sha256 not in ("", digest):
        raise FaceListError(
            f"{name}: wanted the file that the boxes are of, got another one (its sha256 differs); run `deid detect` "
            "on this one"
        )
    if (listed.start_s, listed.stop_s) != (start_s, stop_s):
        spans = [_part(listed.start_s, listed.stop_s), _part(start_s, stop_s)]
        raise FaceListError(f"{name}: wanted the part that the boxes are of, {spans[0]}, got {spans[1]}; say the same")


def _part(start_s: float | None, stop_s: float | None) -> str:
    """As the command line says it."""
    words = [f"{name} {value:g}" for name, value in (("--from", start_s), ("--to", stop_s)) if value is not None]
    return " ".join(words) or "the whole clip"
