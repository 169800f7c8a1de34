"""Says where each face of a clip is in all frames, also in those that missed it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from ..types import Face
from .tracks import GAP_S, Track, centre_of, moved, shot_of

EXTEND_S = 0.2  # how long a track goes on beyond both its ends
GROWTH = 1.0  # of a box's sides per second in which nobody saw the face
MOST_GROWN = 1.5  # of a box's sides


class Origin(str, Enum):
    """How it is known where a face is."""

    FOUND = "found"
    INTERPOLATED = "interpolated"  # between two frames that found it
    EXTENDED = "extended"  # just before the first or after the last of them
    HELD = "held"  # lost; it could still be about where it was


@dataclass(frozen=True, eq=False)
class Sighting:
    """Where a face is in one frame.

    Attributes:
        face: box and landmarks; `track_id` is the track's number.
        origin: how that is known.
    """

    face: Face
    origin: Origin = Origin.FOUND


def fill(
    tracks: Collection[Track],
    times_s: Sequence[float],
    starts: Sequence[int],
    size: tuple[int, int],
    people: Mapping[int, int] | None = None,
    first: int = 0,
    told: Mapping[int, Mapping[int, Sighting]] | None = None,
) -> list[list[Sighting]]:
    """Where all faces are in all frames.

    Found where a detection was; interpolated in gaps up to `GAP_S`; `EXTEND_S` further at both ends of a track, in a
    growing box; and a lost face is held, in that box, until somebody is found there, the same person is found
    elsewhere, or the shot ends. Before its first detection it is held for `GAP_S`, and what was never seen clearly
    for as long as it was seen, up to `GAP_S`. Faces that left the picture are not held,
    and what was never clear does not go on at the place of a face that is.

    Args:
        tracks: all of them.
        times_s: of all frames.
        starts: frames with which shots begin, 0 first.
        size: width and height in pixels.
        people: see `group_people`; without, every track is somebody else.
        first: of the frames to tell about. To be called for a clip in parts, from its beginning on.
        told: by track and frame, what somebody says of frames that did not find it. Then nothing is held that is not
            told, and a track goes on beyond its ends only where a detection is the last that is told.

    Returns:
        the sightings of each frame from `first` on.
    """
    frames: list[dict[int, Sighting]] = [{} for _ in times_s[first:]]
    for track in tracks:
        for frame, sighting in [*_known(track, times_s), *(told or {}).get(track.number, {}).items()]:
            if frame >= first:
                frames[frame - first][track.number] = sighting
    found = [list(sightings.values()) for sightings in frames]
    clear = {track.number for track in tracks if track.is_clear}
    for track in tracks:
        shot = shot_of(track.first, starts)
        end = starts[shot + 1] if shot + 1 < len(starts) else len(times_s)
        if track.released is not None:
            end = min(end, track.released)
        forward = range(max(track.last + 1, first), end)
        backward = range(track.first - 1, max(starts[shot], first) - 1, -1)
        for back, stretch in ((False, forward), (True, backward)):
            for frame in stretch:
                sighting = _beyond(track, times_s, frame, back, size)
                held = sighting is not None and sighting.origin is Origin.HELD
                if track.number in frames[frame - first] or (held and told is not None):
                    break
                near = found[frame - first]
                if (
                    sighting is None
                    or (held and _is_hit(sighting.face, near, people))
                    or (not track.is_clear and _is_of(sighting.face, near, clear))
                ):
                    track.released = track.released if back else frame
                    break
                frames[frame - first][track.number] = sighting
    return [list(sightings.values()) for sightings in frames]


def _known(track: Track, times_s: Sequence[float]) -> list[tuple[int, Sighting]]:
    """Found and interpolated."""
    known, before = [], None
    for frame, face in track.found.items():
        for between in range(frame if before is None else before + 1, frame):
            share = (times_s[between] - times_s[before]) / (times_s[frame] - times_s[before])
            known.append((between, Sighting(_mixed(track.found[before], face, share), Origin.INTERPOLATED)))
        known.append((frame, Sighting(face)))
        before = frame
    return known


def _beyond(track: Track, times_s: Sequence[float], frame: int, back: bool, size: tuple[int, int]) -> Sighting | None:
    """Before the first or after the last detection; None where the face is no longer looked for."""
    end = track.first if back else track.last
    lost_s = abs(times_s[frame] - times_s[end])
    extended = lost_s <= EXTEND_S + 1e-6
    last = track.found[end]
    ahead = moved(track, times_s, end, times_s[end] + (-1 if back else 1) * min(lost_s, EXTEND_S))
    centre, limits = centre_of(ahead), np.array(size)
    if not extended and (lost_s > _hold_s(track, back) + 1e-6 or _leaves(last.box, ahead, limits)):
        return None
    half = (ahead[2:] - ahead[:2]) / 2 * min(1 + GROWTH * lost_s, MOST_GROWN)
    if ((centre + half <= 0) | (centre - half >= limits)).any():
        return None
    shift = centre - centre_of(last.box)
    face = replace(last, box=np.concatenate([centre - half, centre + half]), landmarks=last.landmarks + shift)
    return Sighting(face, Origin.EXTENDED if extended else Origin.HELD)


def _hold_s(track: Track, back: bool) -> float:
    """How long the face may still be there, after its last detection or (`back`) before its first.

    What was never seen clearly may be no face, and is held for as long as it was seen.
    """
    if track.is_clear:
        return GAP_S if back else np.inf
    return min(track.seen_s, GAP_S)


def _leaves(box: np.ndarray, ahead: np.ndarray, limits: np.ndarray) -> bool:
    """Whether a box at the picture's border was about to leave it."""
    side = box[2:] - box[:2]
    shift = centre_of(ahead) - centre_of(box)
    near_low, near_high = box[:2] < 0.1 * side, box[2:] > limits - 0.1 * side
    return bool((near_low & (shift < -0.02 * side)).any() or (near_high & (shift > 0.02 * side)).any())


def _is_hit(face: Face, found: Sequence[Sighting], people: Mapping[int, int] | None) -> bool:
    """Whether somebody was found where a lost face is held, or the same person elsewhere."""
    for other in (sighting.face for sighting in found):
        centre = centre_of(other.box)
        if (centre > face.box[:2]).all() and (centre < face.box[2:]).all():
            return True
        if people is not None and people[other.track_id] == people[face.track_id]:
            return True
    return False


def _is_of(face: Face, found: Sequence[Sighting], clear: Collection[int]) -> bool:
    """Whether a place where only an unclear track may go on is that of a clear face, which is treated anyway."""
    centre = centre_of(face.box)
    for other in (one.face for one in found if one.origin is Origin.FOUND and one.face.track_id in clear):
        half = (other.box[2:] - other.box[:2]) / 2
        if (np.abs(centre_of(other.box) - centre) < half).all() and (face.box[2:] - face.box[:2] < 3 * half).all():
            return True
    return False


def _mixed(one: Face, other: Face, share: float) -> Face:
    """Between two faces: the first at 0, the other at 1."""
    box, landmarks = (getattr(one, name) * (1 - share) + getattr(other, name) * share for name in ("box", "landmarks"))
    return replace(one, box=box, landmarks=landmarks, score=min(one.score, other.score))
