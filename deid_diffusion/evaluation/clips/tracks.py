"""Follows faces through the frames of a clip, and keeps a few numbers of each face and frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from deid_diffusion.evaluation.detectors import match_face
from deid_diffusion.evaluation.metrics import unit_norm
from deid_diffusion.evaluation.table import Columns
from deid_diffusion.evaluation.warp import crop_box, square_box
from deid_diffusion.types import Face

GAP_S = 0.5  # a face that was not seen for so long begins a new track
SIDE = 112  # px, of a picture in a filmstrip
EVENLY = 12  # pictures of a strip that lie evenly over its track


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a filmstrip.

    Attributes:
        time_s: of its frame.
        reason: why it is shown.
        jpeg: the file: the output's face with what is around it, 112 x 112.
    """

    time_s: float
    reason: str
    jpeg: bytes


class Strip:
    """Pictures of one track's outputs: evenly over time, its ends, and where something is worst."""

    def __init__(self) -> None:
        self._step, self._seen = 1, 0
        self._even: list[Picture] = []
        self._last: tuple[float, np.ndarray] | None = None
        self._worst: dict[str, tuple[float, Picture]] = {}

    def add(self, time_s: float, output: np.ndarray, face: Face, worst: dict[str, float]) -> None:
        """Offers a frame.

        Args:
            time_s: of it.
            output: (H, W, 3) uint8 RGB.
            face: where it is.
            worst: numbers by reason; the frame with the highest of each is kept. NaN counts as none.
        """
        crop = crop_box(output, square_box(face.box, 1.6), SIDE)
        if self._seen % self._step == 0:
            self._even.append(_picture(time_s, "", crop))
            if len(self._even) > EVENLY:
                self._even, self._step = self._even[::2], 2 * self._step
        for reason, value in worst.items():
            if np.isfinite(value) and value > self._worst.get(reason, (-np.inf,))[0]:
                self._worst[reason] = value, _picture(time_s, reason, crop)
        self._last, self._seen = (time_s, crop), self._seen + 1

    def pictures(self) -> list[Picture]:
        """In order of time."""
        found = [*self._even, *(picture for _, picture in self._worst.values())]
        if self._last is not None:
            found.append(_picture(self._last[0], "end", self._last[1]))
        return sorted(found, key=lambda picture: picture.time_s)


class Identity:
    """What one judge makes of a track: sums of embeddings, never the embeddings."""

    def __init__(self) -> None:
        self.sums: list[np.ndarray] = []
        self.seen_sums: list[np.ndarray] = []
        self.seen = 0
        self._before: list[np.ndarray] | None = None

    def add(self, pair: Sequence[np.ndarray], seen: bool, follows: bool) -> tuple[float, float]:
        """Counts a frame.

        Args:
            pair: (D,) embeddings of source and output, of norm 1.
            seen: whether a face was found in the output.
            follows: whether the frame before was one of this track.

        Returns:
            cosines to the frame before, of source and output; NaN where one of them has none.
        """
        self.sums = [a + b for a, b in zip(self.sums, pair, strict=True)] if self.sums else list(pair)
        near = float("nan"), float("nan")
        if seen:
            self.seen += 1
            self.seen_sums = (
                [a + b for a, b in zip(self.seen_sums, pair, strict=True)] if self.seen_sums else list(pair)
            )
            if self._before is not None and follows:
                near = float(pair[0] @ self._before[0]), float(pair[1] @ self._before[1])
        self._before = list(pair) if seen else None
        return near

    @property
    def spread(self) -> tuple[float, float]:
        """Mean cosine distance between any two frames, of source and output, where both show a face; else NaN."""
        if self.seen < 2:
            return float("nan"), float("nan")
        mean = [float(one @ one) / self.seen**2 for one in self.seen_sums]
        # |mean|^2 counts every frame with itself, too.
        return tuple(1 - (self.seen * one - 1) / (self.seen - 1) for one in mean)  # type: ignore[return-value]


@dataclass(eq=False)
class EvalTrack:
    """One face as the judging detector sees it in the source, from a frame to a frame of one shot.

    Attributes:
        number: from 0.
        face: as last seen.
        frame, time_s: when that was.
        start_s: when it was first seen.
        rows: see `ClipWatch`, one row a frame.
        identities: one for each judge.
        strip: pictures of its outputs.
    """

    number: int
    face: Face
    frame: int
    time_s: float
    start_s: float
    rows: Columns = field(default_factory=Columns)
    identities: list[Identity] = field(default_factory=list)
    strip: Strip = field(default_factory=Strip)


def link(tracks: Sequence[EvalTrack], found: Sequence[Face]) -> list[EvalTrack | None]:
    """For each face the track that it goes on with, or None.

    Args:
        tracks: that may go on.
        found: faces of the next frame.
    """
    linked: list[EvalTrack | None] = [None] * len(found)
    for track in sorted(tracks, key=lambda one: (-one.frame, one.number)):
        free = [face for face, taken in zip(found, linked, strict=True) if taken is None]
        best = match_face(track.face, free)
        if best is not None:
            linked[next(n for n, face in enumerate(found) if face is best)] = track
    return linked


def merged(tracks: Sequence[EvalTrack], judge: int, threshold: float | None) -> list[list[EvalTrack]]:
    """Tracks by person, as a judge sees the sources.

    Args:
        tracks: all of a clip.
        judge: its number.
        threshold: cosine from which two means are of one person; None leaves every track alone.
    """
    people: list[list[EvalTrack]] = []
    for track in tracks:
        own = track.identities[judge].sums[0]
        best, most = None, -2.0 if threshold is None else threshold
        for person in people if threshold is not None else ():
            both = unit_norm(np.stack([own, np.sum([one.identities[judge].sums[0] for one in person], axis=0)]))
            if (cosine := float(both[0] @ both[1])) >= most:
                best, most = person, cosine
        if best is None:
            people.append([track])
        else:
            best.append(track)
    return people


def _picture(time_s: float, reason: str, crop: np.ndarray) -> Picture:
    return Picture(time_s, reason, cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())
