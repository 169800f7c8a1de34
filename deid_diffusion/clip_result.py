"""Holds what became of a clip: a line for each track, and the time spans that somebody should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .faces.face_list import BY_HAND, TrackSummary
from .faces.sightings import Origin, Sighting
from .types import FaceReport, Outcome

JOIN_S = 0.5  # spans of one kind that are closer than this are one


@dataclass
class Span:
    """A part of a clip to be looked at.

    Attributes:
        start_s, stop_s: seconds from the clip's start.
        reason: why.
        track: whose face; None for the whole frame.
    """

    start_s: float
    stop_s: float
    reason: str
    track: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {"start_s": round(self.start_s, 3), "stop_s": round(self.stop_s, 3), **self._about()}

    def _about(self) -> dict[str, Any]:
        return {"reason": self.reason, "track_id": self.track}


@dataclass(eq=False)
class TrackReport:
    """What happened to one face through a shot. Holds no embedding and no pixels.

    Attributes:
        number: of the track.
        first: the first report that surely saw it, for box, score and seed.
        start_s, stop_s: times of its first and last frame.
        origins: frames by how it was known where the face is: found, interpolated, extended, held.
        outcomes: frames by what became of it.
        reasons: why it was not replaced, with the number of frames.
        similarity: cosine of the mean of all generated faces to the mean of the source; None when not measured.
        person: tracks of one person share this number.
    """

    number: int
    first: FaceReport
    start_s: float
    stop_s: float = 0.0
    origins: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    similarity: float | None = None
    person: int | None = None

    @property
    def outcome(self) -> Outcome:
        """The worst that happened: FAILED before KEPT, CLOAKED, REPLACED and REDACTED in every frame."""
        if self.outcomes[Outcome.FAILED]:
            return Outcome.FAILED
        worse = (Outcome.KEPT, Outcome.CLOAKED, Outcome.REPLACED)
        return next((one for one in worse if self.outcomes[one]), Outcome.REDACTED)

    def to_json(self, seeds: bool = False) -> dict[str, Any]:
        """A line of the report: that of its first face, with counts of frames.

        Args:
            seeds: whether its seed is told, too; then the line is confidential.
        """
        frames = {origin.value: self.origins[origin] for origin in Origin}
        frames |= {outcome.value: self.outcomes[outcome] for outcome in Outcome}
        reason = "; ".join(f"{text} ({count} frames)" for text, count in self.reasons.most_common(3))
        similarity = None if self.similarity is None else round(float(self.similarity), 4)
        return self.first.to_json(seeds) | {
            "track_id": self.number, "person": self.person, "outcome": self.outcome.value, "similarity": similarity,
            "reason": reason, "start_s": round(self.start_s, 3), "stop_s": round(self.stop_s, 3), "frames": frames,
        }  # fmt: skip


@dataclass(eq=False)
class ClipResult:
    """A finished clip.

    Attributes:
        path: where it is.
        width, height: in pixels, upright.
        frames: how many were written.
        tracks: one report for each track, by its number.
        review: what somebody should look at, in order of time.
        notes: what is to be known about the whole clip.
        seconds: time by stage.
        blurred_frames: how many were blurred as a whole, as nobody could say who is in them.
    """

    path: Path | None
    width: int = 0
    height: int = 0
    frames: int = 0
    tracks: dict[int, TrackReport] = field(default_factory=dict)
    review: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    blurred_frames: int = 0

    @property
    def faces(self) -> tuple[TrackReport, ...]:
        """The reports, as those of a picture's faces."""
        return tuple(self.tracks[number] for number in sorted(self.tracks))

    def add(self, time_s: float, sightings: Sequence[Sighting], reports: Sequence[FaceReport]) -> None:
        """Counts a frame's faces.

        Args:
            time_s: of the frame.
            sightings: in it.
            reports: of the same faces, in the same order.
        """
        self.frames += 1
        for sighting, report in zip(sightings, reports, strict=True):
            number = sighting.face.track_id
            assert number is not None  # `fill` tells of tracks alone
            track = self.tracks.setdefault(number, TrackReport(number, report, time_s))
            track.stop_s = time_s
            track.origins[sighting.origin] += 1
            track.outcomes[report.outcome] += 1
            if report.outcome in (Outcome.REDACTED, Outcome.FAILED):
                track.reasons[report.reason] += 1
            if report.outcome is not Outcome.KEPT and sighting.origin is not Origin.FOUND:
                self.note(time_s, f"nobody saw the face: {sighting.origin.value}", number)
            elif report.outcome is Outcome.FAILED or (report.tries and report.outcome is Outcome.REDACTED):
                self.note(time_s, "the face could not be replaced", number)
            elif report.borderline:
                self.note(time_s, "may be a person to leave alone", number)

    def add_kept(self, removed: Sequence[TrackSummary]) -> None:
        """Reports tracks that somebody took out of the list of faces.

        Args:
            removed: those that were found at first.
        """
        for one in removed:
            counts = Counter({Outcome.KEPT: one.frames}), Counter({BY_HAND: one.frames})
            self.tracks[one.track_id] = TrackReport(
                one.track_id, one.report(), one.start_s, one.stop_s, Counter(), *counts
            )
        if removed:
            numbers = ", ".join(str(one.track_id) for one in removed)
            self.notes.append(f"left as they are, for they were taken out of the boxes by hand: tracks {numbers}")

    def note(self, time_s: float, reason: str, track: int | None = None) -> None:
        """Puts a frame on the review list; next to one for the same reason it makes that longer.

        Args:
            time_s: of the frame.
            reason: in words.
            track: its number; None for the whole frame.
        """
        for span in reversed(self.review[-64:]):
            if (span.reason, span.track) == (reason, track) and time_s - span.stop_s <= JOIN_S:
                span.stop_s = time_s
                return
        self.review.append(Span(time_s, time_s, reason, track))
