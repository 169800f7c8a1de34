"""Writes and reads detections files: where faces are, as JSON lines that people review, edit and hand back.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeidError
from ..messages import brief, brief_error, brief_path, not_a_path
from ..types import Face, FaceReport, Outcome, Redaction, member
from ..weight_files import sha256_of
from .detect import LEAST_SIDE, TEMPLATE
from .sightings import Origin, Sighting

_ROW = {"file", "frame", "pts", "time_s", "box", "points", "score", "track_id", "origin"}
_HEAD = {"file", "sha256", "width", "height", "frames", "start_s", "stop_s", "failed", "tracks", "redact_with"}
BY_HAND = "left as it is by hand"
FORM = "the JSON lines that `deid detect` writes, a first line for each file and one for each face and frame"


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


def read_face_lists(path: str | PathLike) -> dict[str, FaceList]:
    """Reads a detections file.

    Args:
        path: of the file.

    Returns:
        what it says of each picture and clip, by its name, in the file's order.

    Raises:
        FaceListError: it cannot be read, or says what cannot be; names the line.
    """
    if not_a_path(path):
        raise FaceListError(f"wanted the path of a detections file, got {not_a_path(path)}")
    name = brief_path(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FaceListError(f"{name}: wanted a detections file, got {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise FaceListError(f"{name}: wanted {FORM}, got no text") from None
    heads: dict[str, FaceList] = {}
    rows: dict[str, dict[int, list[Sighting]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            data = _parsed(line)
            if "box" not in data:
                head = _head(data)
                if head.file in heads:
                    raise ValueError(f"wanted one first line for {brief(head.file)}, got a second")
                heads[head.file], rows[head.file] = head, {}
            else:
                _add_row(data, heads, rows)
        except ValueError as error:
            raise FaceListError(f"{name}, line {number}: {error}") from None
    if not heads:
        raise FaceListError(f"{name}: wanted {FORM}, got none; leave --boxes out to have the faces detected")
    return {file: _checked(replace(head, sightings=_whole(rows[file])), name) for file, head in heads.items()}


def _checked(listed: FaceList, name: str) -> FaceList:
    """The list itself; a number that no track has would leave a face as somebody did not mean it."""
    if unknown := sorted(set(listed.redact_with) - listed.numbers):
        raise FaceListError(f"{name}: wanted tracks of {brief(listed.file)} as redact_with, got {unknown[:5]}")
    return listed


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


def _parsed(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"wanted JSON, got something else ({brief_error(error)})") from None
    if not isinstance(data, dict) or not isinstance(data.get("file"), str):
        raise ValueError(f"wanted {FORM}, got {brief(data)}")
    return data


def _check_keys(data: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"wanted {', '.join(sorted(known))}, got {', '.join(map(brief, unknown[:5]))}")


def _head(data: Mapping[str, Any]) -> FaceList:
    _check_keys(data, _HEAD)
    width, height, frames = (_whole_number(data, name, 1) for name in ("width", "height", "frames"))
    if not isinstance(data.get("sha256"), str) or len(data["sha256"]) not in (0, 64):
        raise ValueError(f"wanted the file's sha256, got {brief(data.get('sha256'))}")
    given = [(name, data.get(name)) for name in ("start_s", "stop_s")]
    start_s, stop_s = (None if value is None else float(_numbers(value, (), name)) for name, value in given)
    failed = data.get("failed", [])
    if not isinstance(failed, list) or any(type(frame) is not int for frame in failed):
        raise ValueError(f"wanted numbers of frames as failed, got {brief(failed)}")
    try:
        tracks = tuple(
            TrackSummary(one["track_id"], tuple(_numbers(one["box"], (4,), "box").tolist()), one["frames"],
                         float(one["start_s"]), float(one["stop_s"]))
            for one in data["tracks"]
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"wanted tracks as `deid detect` wrote them, got others ({brief_error(error)})") from None
    span, hidden = (start_s, stop_s), _hidden(data.get("redact_with", {}))
    return FaceList(data["file"], data["sha256"], width, height, frames, *span, tuple(failed), tracks, {}, hidden)


def _hidden(data: Any) -> dict[int, Redaction]:
    """How single tracks are hidden, by their numbers."""
    if not isinstance(data, dict) or not all(track.isdecimal() for track in data):
        raise ValueError(f'wanted {{"track_id": "blur"}} as redact_with, got {brief(data)}')
    return {int(track): member(Redaction, how, "redact_with") for track, how in data.items()}


def _add_row(
    data: Mapping[str, Any], heads: Mapping[str, FaceList], rows: Mapping[str, dict[int, list[Sighting]]]
) -> None:
    _check_keys(data, _ROW)
    if data["file"] not in heads:
        raise ValueError(f"{brief(data['file'])} has no first line above, with its sha256 and size")
    head = heads[data["file"]]
    frame, sighting = _whole_number(data, "frame", 0), _sighting(data, head)
    if frame >= head.frames:
        raise ValueError(f"wanted a frame from 0 to {head.frames - 1}, got {frame}")
    row = rows[head.file].setdefault(frame, [])
    track = sighting.face.track_id
    if track is not None and track in [one.face.track_id for one in row]:
        raise ValueError(f"wanted track {track} once in frame {frame}, got it twice; give one of them another number")
    row.append(sighting)


def _sighting(data: Mapping[str, Any], head: FaceList) -> Sighting:
    box = _numbers(data["box"], (4,), "box")
    _check_box(box, head)
    track = data.get("track_id")
    if track is not None and (type(track) is not int or track < 0):
        raise ValueError(f"wanted a whole number or null as track_id, got {brief(track)}")
    origins = [origin.value for origin in Origin]
    if data.get("origin", "found") not in origins:
        raise ValueError(f"wanted {', '.join(origins)} as origin, got {brief(data['origin'])}")
    score = float(_numbers(data.get("score", 1.0), (), "score"))
    if not 0 <= score <= 1:
        raise ValueError(f"wanted a score from 0 to 1, got {brief(score)}")
    points = None if data.get("points") is None else _numbers(data["points"], (5, 2), "points")
    slack = 0.1 * (box[2:] - box[:2])
    # A box that was moved, and its points not: they are another place's.
    if points is None or (points.mean(0) < box[:2] - slack).any() or (points.mean(0) > box[2:] + slack).any():
        points, score = box[:2] + TEMPLATE * (box[2:] - box[:2]), 0.0
    return Sighting(Face(box, points, score, track), Origin(data.get("origin", "found")))


def _check_box(box: np.ndarray, head: FaceList) -> None:
    size = np.array([head.width, head.height])
    inside = np.minimum(box[2:], size) - np.maximum(box[:2], 0)
    side = box[2:] - box[:2]
    if np.abs(box).max() <= 1:
        wanted = "pixels, got what looks like fractions: multiply by width and height"
    elif not (side > 0).all():
        wanted = "x0 y0 x1 y1 with x1 > x0 and y1 > y0"
    elif (side < np.minimum(LEAST_SIDE, size)).any():
        wanted = f"a box at least {LEAST_SIDE} px wide and high"
    # Tracks may leave the picture; a box that is mostly outside was made for another size.
    elif (inside < 1).any() or (side > 2 * size).any():
        wanted = "a box inside the picture"
    else:
        return
    raise ValueError(f"{head.width} x {head.height}: wanted {wanted}; got {' '.join(f'{v:g}' for v in box)}")


def _whole_number(data: Mapping[str, Any], name: str, least: int) -> int:
    value = data.get(name)
    if type(value) is not int or not least <= value < 1e9:
        raise ValueError(f"wanted a whole number from {least} on as {name}, got {brief(value)}")
    return value


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.shape != shape or array.dtype.kind not in "iuf" or not (np.abs(array) < 1e9).all():
        wanted = {(): "a number", (4,): "four numbers in pixels", (5, 2): "five points x y in pixels"}[shape]
        raise ValueError(f"wanted {wanted} as {name}, got {brief(value)}")
    return array.astype(float)


def _whole(rows: Mapping[int, Sequence[Sighting]]) -> dict[int, tuple[Sighting, ...]]:
    """Where no line of a track is one that found it, all of them count as such: somebody took the others out."""
    found = {one.face.track_id for row in rows.values() for one in row if one.origin is Origin.FOUND} - {None}
    return {
        frame: tuple(one if one.face.track_id in found else replace(one, origin=Origin.FOUND) for one in row)
        for frame, row in rows.items()
    }
