"""Reads detections files, which people may have edited, and refuses what cannot be true of the picture or clip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import brief, brief_error, brief_path, not_a_path
from ..types import Face, Redaction, member
from .detect import LEAST_SIDE, TEMPLATE
from .face_list import FaceList, FaceListError, TrackSummary
from .sightings import Origin, Sighting

_ROW = {"file", "frame", "pts", "time_s", "box", "points", "score", "track_id", "origin"}
_HEAD = {"file", "sha256", "width", "height", "frames", "start_s", "stop_s", "failed", "tracks", "redact_with"}
FORM = "the JSON lines that `deid detect` writes, a first line for each file and one for each face and frame"


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
