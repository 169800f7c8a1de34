"""One clip on the page: its tracks, what was decided about each, and the clip that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..anonymizer import FaceAnonymizer
from ..faces.detect import TEMPLATE
from ..faces.face_list import FaceList, check_same, face_list_of
from ..faces.face_list_reader import read_face_lists
from ..faces.sightings import Origin, Sighting
from ..imaging.shots import is_cut, thumbnail
from ..jobs.detections import look_through
from ..jobs.plan import Job
from ..jobs.run import JobResult
from ..settings import Settings
from ..types import Face, Redaction
from ..video import ClipOptions, VideoAnonymizer
from .choices import DECISIONS, KEEP, REDACTIONS, REPLACE
from .follow import follow, small_grey
from .sessions import VisitError
from .shown import cut, jpeg, shrunk

STILL_S = 0.5  # between two frames that the page can show
STILL = 960  # pixels, the long side of those
FACES = 6  # thumbnails of a track
AROUND_S = 10.0  # how far a drawn box is followed, in both directions
METHODS = (REPLACE, *REDACTIONS)
Tell = Callable[[float, str], None]  # a share in [0, 1] and a few words; raises where the visitor wants it to stop


class Clip:
    """A clip. Its methods are called by one worker at a time.

    Attributes:
        name: as the visitor's file is called.
        decisions: what was decided about single tracks, of DECISIONS; the others become what all do.
        drawn: numbers of those that a visitor drew.
        images: what the page shows, as JPEG files by name.
        version: counts the changes.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet.

        Args:
            path: the file, in a folder of its own.
        """
        self.path, self.name = path, path.name
        self.decisions: dict[int, str] = {}
        self.drawn: set[int] = set()
        self.images: dict[str, bytes] = {}
        self.version = 0
        self.result: JobResult | None = None
        self._listed: FaceList | None = None
        self._looked: FaceList | None = None
        self._stamps: dict[int, dict[str, Any]] = {}
        self._stills: list[tuple[int, float]] = []  # frame and time

    @property
    def out_path(self) -> Path:
        """Where the finished clip is written, as on the command line."""
        return self.path.parent / "out" / f"{self.path.stem}_anon{self.path.suffix.lower() or '.mp4'}"

    @property
    def list_path(self) -> Path:
        """Where the detections file is written."""
        return self.path.parent / "out" / "faces.jsonl"

    def look(self, anonymizer: FaceAnonymizer, max_pixels: int, tell: Tell) -> None:
        """Finds the faces and links them to tracks.

        Args:
            anonymizer: its detector is used.
            max_pixels: frames of more are refused.
            tell: how far it is.

        Raises:
            ClipError: it cannot be read.
        """
        self._stills, last = [], -np.inf

        def seen(frame: Any, count: int | None) -> None:
            nonlocal last
            height, width = frame.image.shape[:2]
            if height * width > max_pixels:
                raise VisitError(
                    f"{self.name}: wanted frames of at most {max_pixels:,} pixels, got {width} x {height}; "
                    "deid web --max-pixels N raises the limit"
                )
            if frame.time_s - last >= STILL_S - 1e-6:
                last = frame.time_s
                self.images[f"still-{len(self._stills)}"] = jpeg(shrunk(frame.image, STILL))
                self._stills.append((frame.index, frame.time_s))
            tell((frame.index + 1) / max(count or 0, frame.index + 1) if count else 0.0, "looking for faces")

        self._looked, self._stamps = look_through(self.path, self.name, anonymizer.detect, seen=seen)
        self._listed = self._looked
        self._changed()
        self._thumbnails(self._tracks())

    def take_list(self, path: Path) -> None:
        """Takes a detections file, which somebody may have edited, instead of what was found.

        Args:
            path: of the file.

        Raises:
            FaceListError: it cannot be read, or is of another clip.
        """
        listed = face_list_of(read_face_lists(path), Path(self.name))
        check_same(listed, self.path)
        if listed.frames != self.listed.frames:
            raise VisitError(f"{path.name}: wanted {self.listed.frames} frames, got {listed.frames}; look again")
        # What somebody took out is kept, and shown as such where it was found here, too.
        assert self._looked is not None  # or there were no frames to compare
        back = [track.track_id for track in listed.removed if track in self._looked.tracks]
        number, sightings = listed.next_number, {}
        for frame in range(listed.frames):
            row = listed.sightings.get(frame, ())
            named = [one for one in self._looked.sightings.get(frame, ()) if one.face.track_id in back]
            for one in row:
                # A box without a number is a face of its own, for one frame and what `fill` makes of it.
                if one.face.track_id is None:
                    one, number = replace(one, face=replace(one.face, track_id=number)), number + 1
                named.append(one)
            sightings[frame] = tuple(named)
        self._listed = replace(listed, sightings=sightings)
        self.decisions = {track: how.value for track, how in listed.redact_with.items()}
        self.decisions |= {track.track_id: KEEP for track in listed.removed}
        self.drawn = set(self._tracks()) - {track.track_id for track in listed.tracks}
        self._changed()
        self._thumbnails(self._tracks())

    def decide(self, number: int, decision: str | None) -> None:
        """Says what becomes of a track.

        Args:
            number: of the track.
            decision: one of DECISIONS; None for what becomes of all.

        Raises:
            VisitError: there is no such track or decision.
        """
        if number not in self._tracks() or decision not in (None, *DECISIONS):
            raise VisitError("wanted a face of this clip, and what becomes of it; got another; load the page again")
        self.decisions.pop(number, None)
        if decision is not None:
            self.decisions[number] = decision
        self._changed()

    def remove(self, number: int) -> None:
        """Forgets a track that a visitor drew.

        Args:
            number: of the track.

        Raises:
            VisitError: it was not drawn; such a one can be kept.
        """
        if number not in self.drawn:
            raise VisitError("wanted a box that was drawn here, got another face; keep it instead")
        rows = {f: tuple(s for s in row if s.face.track_id != number) for f, row in self.listed.sightings.items()}
        self._listed = replace(self.listed, sightings=rows)
        self.drawn -= {number}
        self.decisions.pop(number, None)
        self._changed()

    def draw(self, still: int, box: Sequence[float], tell: Tell) -> int:
        """Adds a face that was missed: the box is followed from the frame in which it was drawn, both ways.

        Args:
            still: number of the frame that the page shows.
            box: x0 y0 x1 y1 as shares of the sides.
            tell: how far it is.

        Returns:
            the track's number.

        Raises:
            VisitError: a box that is none.
        """
        from ..imaging.clips import ClipReader

        shares = np.asarray(box, np.float64).reshape(4).clip(0, 1)
        listed = self.listed
        sides = np.array([listed.width, listed.height] * 2)
        if not ((shares[2:] - shares[:2]) * sides[:2] >= 4).all():
            raise VisitError("wanted a box at least 4 px wide and high, got a smaller one; draw it larger")
        frame, time_s = self._stills[still]
        numbers, frames, cuts, before = [], [], [], None
        number_of = {stamp["pts"]: number for number, stamp in self._stamps.items()}
        with ClipReader(self.path, max(0.0, time_s - AROUND_S), time_s + AROUND_S) as reader:
            for one in reader:
                tell(0.0, "following the box")
                thumb = thumbnail(one.image)
                if before is not None and is_cut(before, thumb):
                    cuts.append(len(frames))
                before = thumb
                numbers.append(number_of[one.pts])
                frames.append(small_grey(one.image))
        middle = numbers.index(frame)
        start = max((place for place in cuts if place <= middle), default=0)
        stop = min((place for place in cuts if place > middle), default=len(frames))
        places = dict(enumerate(follow(frames[middle:stop], shares), middle))
        places |= {middle - step: one for step, one in enumerate(follow(frames[start : middle + 1][::-1], shares))}
        number = listed.next_number
        rows = dict(listed.sightings)
        for place, where in places.items():
            pixels = where * sides
            face = Face(pixels, pixels[:2] + TEMPLATE * (pixels[2:] - pixels[:2]), 0.0, number)
            rows[numbers[place]] = (*rows.get(numbers[place], ()), Sighting(face))
        self._listed = replace(listed, sightings=rows)
        self.drawn |= {number}
        self._changed()
        self._thumbnails([number])
        return number

    def render(self, anonymizer: FaceAnonymizer, method: str, audio: str, tell: Tell, settings: Settings) -> None:
        """Writes the clip.

        Args:
            anonymizer: its models are used.
            method: one of METHODS: what becomes of tracks about which nothing else was decided.
            audio: "keep" or "drop".
            tell: how far it is.
            settings: the privacy dial and the key.

        Raises:
            ClipError, ValueError: it cannot be written.
        """
        if method not in METHODS:
            raise VisitError(f"method must be one of {', '.join(METHODS)}")
        self.out_path.parent.mkdir(exist_ok=True)

        def progress(stage: str, done: int, count: int | None) -> None:
            words = {"look": "reading the faces", "write": "making the clip"}[stage]
            share = done / max(count or self.listed.frames, done)
            tell(0.3 * share if stage == "look" else 0.3 + 0.7 * share, words)

        video = VideoAnonymizer(anonymizer, ClipOptions(audio=audio))
        listed = self.edited(method)
        if all(number in listed.redact_with or self.decisions.get(number) == KEEP for number in self._tracks()):
            settings = Settings(method="blank")  # nobody needs to be read
        done = video(self.path, self.out_path, settings=settings, progress=progress, boxes=listed)
        # The page has a switch for the sound, and shows who is kept.
        notes = [note.partition("; --audio")[0] for note in done.notes if not note.startswith("left as they are")]
        about = {
            "width": done.width, "height": done.height, "sha256": self.listed.sha256, "frames": done.frames,
            "blurred_frames": done.blurred_frames, "notes": notes,
            "review": [span.to_json() for span in done.review],
        }  # fmt: skip
        rows = tuple(track.to_json() for track in done.faces)
        job = Job(Path(self.name), Path(self.out_path.name), 0, self.name)
        self.result = JobResult(job, rows, dict(done.seconds), about)
        self.version += 1

    def write_list(self) -> None:
        """Writes the detections file, as edited: what `deid run --boxes` takes."""
        self.list_path.parent.mkdir(exist_ok=True)
        self.list_path.write_text("\n".join(self.edited().lines(self._stamps)) + "\n", encoding="utf-8")

    @property
    def listed(self) -> FaceList:
        """What was found and drawn.

        Raises:
            VisitError: nothing yet.
        """
        if self._listed is None:
            raise VisitError("wanted a clip that was looked through, got one that was not; add it again")
        return self._listed

    def edited(self, method: str = "") -> FaceList:
        """Likewise, without the tracks that are kept, and with how single ones are hidden.

        Args:
            method: what becomes of the others, spelled out; empty leaves that open.
        """
        rows = self.listed.sightings.items()
        kept = [number for number, how in self.decisions.items() if how == KEEP]
        left = {frame: tuple(one for one in row if one.face.track_id not in kept) for frame, row in rows}
        decided = {number: self.decisions.get(number, method) for number in self._tracks()}
        hidden = {number: Redaction(how) for number, how in decided.items() if how in REDACTIONS}
        return replace(self.listed, sightings=left, redact_with=hidden)

    def state(self) -> dict[str, Any]:
        """What the page needs to know."""
        listed = self.listed
        sides = [listed.width, listed.height] * 2
        stills = [
            {
                "time_s": time_s,
                "boxes": [
                    {"track": one.face.track_id, "box": (one.face.box / sides).clip(0, 1).round(4).tolist()}
                    for one in listed.sightings.get(frame, ())
                ],
            }
            for frame, time_s in self._stills
        ]
        about: dict[str, Any] = {"name": self.name, "out_name": self.out_path.name, "version": self.version}
        about |= {"width": listed.width, "height": listed.height, "duration_s": self._time(listed.frames - 1)}
        tracks = [self._track_state(number, rows) for number, rows in self._tracks().items()]
        done = {} if self.result is None else {**self.result.picture, "faces": list(self.result.faces)}
        return {**about, "stills": stills, "tracks": tracks, "result": done}

    def _track_state(self, number: int, rows: list[tuple[int, Sighting]]) -> dict[str, Any]:
        spans: list[dict[str, Any]] = []
        for frame, one in rows:
            now, then = self._time(frame), self._time(frame + 1)
            if spans and spans[-1]["origin"] == one.origin.value and frame == spans[-1]["last"] + 1:
                spans[-1] |= {"stop_s": then, "last": frame}
            else:
                spans.append({"start_s": now, "stop_s": then, "origin": one.origin.value, "last": frame})
        thumbs = sum(f"track-{number}-{place}" in self.images for place in range(FACES))
        told = {"number": number, "decision": self.decisions.get(number), "drawn": number in self.drawn}
        shown = [{name: value for name, value in span.items() if name != "last"} for span in spans]
        return {**told, "thumbs": thumbs, "spans": shown}

    def _time(self, frame: int) -> float:
        """When a frame is shown; what is after the last one begins when that ends."""
        if frame in self._stamps:
            return float(self._stamps[frame]["time_s"])
        last = len(self._stamps) - 1
        return self._time(last) + (self._time(last) / last if last > 0 else 0.04)

    def _tracks(self) -> dict[int, list[tuple[int, Sighting]]]:
        """Frames and sightings of each track, by its number; of those that a list took out, nothing is known."""
        found: dict[int, list[tuple[int, Sighting]]] = {}
        for frame, row in sorted(self.listed.sightings.items()):
            for one in row:
                if one.face.track_id is not None:
                    found.setdefault(one.face.track_id, []).append((frame, one))
        return dict(sorted(found.items()))

    def _thumbnails(self, wanted: Any) -> None:
        """A few pictures of each track, spread over the time that it is seen."""
        from ..imaging.clips import ClipReader

        due: dict[int, list[tuple[str, Sighting]]] = {}
        for number, rows in self._tracks().items():
            if number not in wanted:
                continue
            clear = [row for row in rows if row[1].origin is Origin.FOUND] or rows
            places = np.unique(np.linspace(0, len(clear) - 1, min(FACES, len(clear))).round().astype(int))
            for place, at in enumerate(places):
                frame, one = clear[at]
                due.setdefault(frame, []).append((f"track-{number}-{place}", one))
        with ClipReader(self.path) as reader:
            for frame in reader:
                for name, one in due.pop(frame.index, ()):
                    self.images[name] = jpeg(cut(frame.image, one.face), 96)
                if not due:
                    break

    def _changed(self) -> None:
        self.version, self.result = self.version + 1, None
        self.out_path.unlink(missing_ok=True)
