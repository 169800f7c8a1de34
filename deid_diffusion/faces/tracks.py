"""Links the detections of a clip into tracks.

Every detection is in a track from its first frame; nothing is dropped for being unsure or short. Tracks end at cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..types import Face

GAP_S = 1.0  # longest time for which a lost face is interpolated
VELOCITY_S = 0.1  # over which the speed of a face is measured
CLEAR_SCORE = 0.75  # of a detection that is surely a face
# How unlike photos of faces a track is that is none, unless it was seen clearly. Hands are at 1.1 to 1.5, faces in
# good light at 0.5 to 0.9, faces in the dark or of 40 pixels at 1.3 to 2.3.
ODD = 0.95
CLOSE = 0.15  # costs of two links that differ by less: the identity encoder decides
_NEVER = 1e6
Embed = Callable[[Sequence[int]], Mapping[int, np.ndarray]]  # places of faces -> (D,) unit norm of those it can read


@dataclass(eq=False)
class Track:
    """One face through one shot.

    Attributes:
        number: from 0.
        found: the detections by frame, in order of time.
        embedding: (D,) unit norm, the mean of what the identity encoder said; None while nothing was read.
        ood_score: median of how unlike photos of faces it is, see `FaceAnalysis`; None while nothing tells.
        best: the highest score of all its detections, also of those that a stream has dropped.
        seen_s: seconds from its first detection to its last, likewise.
        released: the frame from which on a lost face is no longer held, once `fill` has found it.
    """

    number: int
    found: dict[int, Face] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    ood_score: float | None = None
    best: float = 0.0
    seen_s: float = 0.0
    released: int | None = None

    @property
    def first(self) -> int:
        """The first frame that found it."""
        return next(iter(self.found))

    @property
    def last(self) -> int:
        """The last frame that found it."""
        return next(reversed(self.found))

    @property
    def is_clear(self) -> bool:
        """Whether it was seen clearly at least once. Hands and prints reach 0.7 for a second, and no more."""
        return self.best >= CLEAR_SCORE


class Linker:
    """Links forward in time, a frame at a time.

    Attributes:
        tracks: all that there are, by number.
        times_s: of the frames so far.
        starts: the frames with which shots begin.
    """

    def __init__(self, next_number: int = 0) -> None:
        """No frame is there yet.

        Args:
            next_number: the first number that is free for a new track.
        """
        self.tracks: dict[int, Track] = {}
        self.times_s: list[float] = []
        self.starts: list[int] = []
        self._next = next_number
        self._named: dict[int, int] = {}  # the track of the shot by the `track_id` that faces brought

    @property
    def shot_s(self) -> float:
        """Time of the first frame of the latest shot."""
        return self.times_s[self.starts[-1]] if self.starts else np.inf

    def add(self, faces: Sequence[Face], time_s: float, cut: bool = False, embed: Embed | None = None) -> list[int]:
        """Takes the detections of the next frame.

        Args:
            faces: in any order. Those with a `track_id` are in that track, through one shot; no two have the same.
            time_s: of the frame; increasing.
            cut: whether a new shot begins with it.
            embed: the identity encoder, asked only where two links are about as good.

        Returns:
            the track's number for each face, in their order.

        Raises:
            ValueError: a time that is not later than that of the frame before.
        """
        if self.times_s and not time_s > self.times_s[-1]:
            raise ValueError(f"frames must come in order of time, got {time_s:.3f} s after {self.times_s[-1]:.3f} s")
        frame = len(self.times_s)
        self.times_s.append(time_s)
        if cut or not self.starts:
            self.starts.append(frame)
        open_tracks = [
            track
            for track in self.tracks.values()
            if track.last >= self.starts[-1] and time_s - self.times_s[track.last] <= GAP_S
        ]
        numbers = [-1 if face.track_id is None else self._of_shot(face.track_id) for face in faces]
        open_tracks = [track for track in open_tracks if track.number not in numbers]
        free = np.array([number < 0 for number in numbers], bool)
        for row, column in assign(self._costs(open_tracks, faces, free, time_s, embed)):
            numbers[column] = open_tracks[row].number
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self._new()
            track = self.tracks[numbers[place]]
            track.best = max(track.best, face.score)
            track.seen_s += time_s - self.times_s[track.last] if track.found else 0.0
            track.found[frame], track.released = replace(face, track_id=track.number), None
        return numbers

    def _of_shot(self, name: int) -> int:
        """The track of a `track_id` in this shot; a new one where it has none yet."""
        number = self._named.get(name)
        if number is None:
            number = self._new(None if name in self.tracks else name)
        elif self.tracks[number].last < self.starts[-1]:
            number = self._new()
        self._named[name] = number
        return number

    def _new(self, number: int | None = None) -> int:
        """The number of a new track."""
        if number is None:
            number, self._next = self._next, self._next + 1
        self.tracks[number] = Track(number)
        return number

    def _costs(
        self, tracks: Sequence[Track], faces: Sequence[Face], free: np.ndarray, time_s: float, embed: Embed | None
    ) -> np.ndarray:
        """(tracks, faces): what each link costs; `_NEVER` where it is none. Those that are not free have a track."""
        costs = np.full((len(tracks), len(faces)), _NEVER)
        for row, track in enumerate(tracks):
            lost_s = time_s - self.times_s[track.last]
            box = self.predicted(track, time_s)
            # Detections come 1 / 60 to 1 / 10 s apart: until then nothing is lost, and a fast head moves this far.
            reach = 0.7 + 1.5 * max(lost_s - 0.1, 0.0)
            for column in np.nonzero(free)[0].tolist():
                costs[row, column] = link_cost(box, faces[column].box, reach)
        return costs if embed is None else _told_apart(costs, tracks, embed)

    def predicted(self, track: Track, time_s: float) -> np.ndarray:
        """(4,) the box at a time after the track's last detection, at constant velocity.

        Args:
            track: one of `tracks`.
            time_s: in seconds, not before that detection.
        """
        return moved(track, self.times_s, track.last, time_s)


def link_cost(predicted: np.ndarray, box: np.ndarray, reach: float) -> float:
    """How unlikely it is that a (4,) box is the predicted one: 0 for the same, about 1 at the limit.

    Args:
        predicted, box: x0 y0 x1 y1.
        reach: how far, in face sizes, the centres may be apart.
    """
    sizes = [np.sqrt(np.prod(one[2:] - one[:2])) for one in (predicted, box)]
    size = float(np.mean(sizes))
    apart = float(np.linalg.norm(centre_of(predicted) - centre_of(box))) / max(size, 1e-6)
    ratio = max(sizes) / max(min(sizes), 1e-6)
    if apart > reach or ratio > 2.5:
        return _NEVER
    return 0.5 * (1 - iou(predicted, box)) + 0.5 * apart / reach


def assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """The links (row, column), cheapest first, each row and column once.

    Where greed costs more than the best assignment, two links are about as good, and the identity encoder decides.
    """
    links, rows, columns = [], set[int](), set[int]()
    for place in np.argsort(costs, axis=None, kind="stable").tolist():
        row, column = divmod(place, costs.shape[1])
        if costs[row, column] < _NEVER and row not in rows and column not in columns:
            links.append((row, column))
            rows.add(row)
            columns.add(column)
    return links


def join_backwards(linker: Linker) -> dict[int, int]:
    """Links backwards in time: a track that begins in the middle of a shot may go on one that was lost.

    Looking back, the face's speed after the gap says where it was before; forwards that was not known.

    Args:
        linker: its tracks are joined in place.

    Returns:
        the number of the earlier track, which it now has, for each later one that is gone.
    """
    times, joined = linker.times_s, {}
    for later in sorted(linker.tracks.values(), key=lambda track: track.first):
        start = shot_of(later.first, linker.starts)
        earlier = [
            track
            for track in linker.tracks.values()
            if linker.starts[start] <= track.last < later.first and times[later.first] - times[track.last] <= GAP_S
        ]
        costs = [
            link_cost(
                moved(later, times, later.first, times[track.last]),
                track.found[track.last].box,
                0.7 + 1.5 * (times[later.first] - times[track.last]),
            )
            for track in earlier
        ]
        if costs and min(costs) < _NEVER:
            best = earlier[int(np.argmin(costs))]
            best.found |= {frame: replace(face, track_id=best.number) for frame, face in later.found.items()}
            best.best = max(best.best, later.best)
            best.seen_s = times[best.last] - times[best.first]
            joined[later.number] = best.number
            del linker.tracks[later.number]
    return joined


def group_people(tracks: Collection[Track], threshold: float) -> dict[int, int]:
    """Which tracks are of one person.

    Args:
        tracks: with or without embeddings.
        threshold: cosine of mean embeddings from which two are one person, unless both are in one frame.

    Returns:
        for each track's number, the least number of the person's tracks.
    """
    known = [track for track in tracks if track.embedding is not None]
    people = {track.number: {track.number} for track in tracks}
    frames = {track.number: set(track.found) for track in tracks}
    pairs = [
        (float(a.embedding @ b.embedding), a.number, b.number)
        for place, a in enumerate(known)
        for b in known[place + 1 :]
    ]
    for cosine, a, b in sorted(pairs, reverse=True):
        one, other = people[a], people[b]
        if cosine < threshold or one is other or any(frames[x] & frames[y] for x in one for y in other):
            continue
        one |= other
        people |= dict.fromkeys(other, one)
    return {number: min(person) for number, person in people.items()}


def shot_of(frame: int, starts: Sequence[int]) -> int:
    """Which shot a frame is of, from 0.

    Args:
        frame: its number.
        starts: the frames with which shots begin, in order, 0 first.
    """
    return int(np.searchsorted(starts, frame, side="right")) - 1


def moved(track: Track, times_s: Sequence[float], end: int, time_s: float) -> np.ndarray:
    """(4,) the box of one of the track's ends, moved on at the speed it had there to a time beyond.

    Args:
        track: with at least one detection.
        times_s: of all frames so far.
        end: the track's first frame or its last one.
        time_s: in seconds, before the first or after the last.
    """
    back = times_s[end] > time_s
    order = list(track.found) if back else list(reversed(track.found))
    near = [frame for frame in order[:60] if abs(times_s[frame] - times_s[end]) <= VELOCITY_S]
    box = track.found[end].box.astype(float)
    passed = times_s[end] - times_s[near[-1]]
    if not passed:
        return box
    velocity = (centre_of(box) - centre_of(track.found[near[-1]].box)) / passed
    return box + np.tile(velocity * (time_s - times_s[end]), 2)


def _told_apart(costs: np.ndarray, tracks: Sequence[Track], embed: Embed) -> np.ndarray:
    """The costs with what the identity encoder says, where a track or a face has two links that are about as good."""
    possible = costs < _NEVER
    columns = sorted(
        {column for row in costs if _is_close(row) for column in np.nonzero(row < _NEVER)[0].tolist()}
        | {column for column in range(costs.shape[1]) if _is_close(costs[:, column])}
    )
    if not columns:
        return costs
    costs, embeddings = costs.copy(), embed(columns)
    for row, column in zip(*np.nonzero(possible), strict=True):
        if int(column) in embeddings and tracks[row].embedding is not None:
            costs[row, column] += 0.5 * (1 - float(tracks[row].embedding @ embeddings[int(column)]))
    return costs


def _is_close(costs: np.ndarray) -> bool:
    """Whether the two best of (N,) links are about as good."""
    best = np.sort(costs)[:2]
    return len(best) == 2 and best[1] < _NEVER and best[1] - best[0] < CLOSE


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union in [0, 1].

    Args:
        one, other: (4,) x0 y0 x1 y1.
    """
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    both = float(np.prod(sides))
    return both / max(float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - both, 1e-9)


def centre_of(box: np.ndarray) -> np.ndarray:
    """(2,) of a (4,) box."""
    return (box[:2] + box[2:]).astype(float) / 2
