"""Takes one clip through its two passes: looks at frames, then anonymizes them with what was seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .anonymizer import FaceAnonymizer
from .clip_frames import Prepared, blurred_whole, fading, is_repeat, smoothed, veiled, with_neighbours
from .clip_options import ClipOptions
from .clip_reading import ClipReading
from .clip_result import ClipResult
from .clip_tasks import ClipTasks
from .compositing.steady import Steady
from .faces.face_list import FaceList
from .faces.lids import GAIN, blinking
from .faces.motion import COARSE, FINE
from .faces.scan import Scan
from .faces.task import FaceTask, ImageAnalysis
from .imaging.pictures import Picture
from .messages import brief_error
from .methods.audition import Audition, KeyFrames
from .methods.protocol import find_method
from .methods.roles import Roles
from .methods.sampling import as_set
from .methods.sequence import FacesInSequence, FrameTasks
from .methods.targets import TrackTargets
from .methods.unseen import Unseen
from .result import AnonymizedImage
from .settings import Settings
from .timing import Timing
from .types import Face, Outcome, Redaction

log = logging.getLogger(__name__)
# Frames. Generated in every third, a talking face flickers less than in every second (1.56 for 1.75 times its source),
# moves as well, and takes an eighth less.
STRIDE = 3
PEEK = 320  # px, long side of a frame in which only large faces are looked for
MOST_REPEATS = 30  # of a frame that share its result; they wait for it in memory


class ClipRun:
    """One clip on its way."""

    def __init__(
        self,
        anonymizer: FaceAnonymizer,
        seed: int,
        settings: Settings,
        options: ClipOptions,
        listed: FaceList | None = None,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            anonymizer: its models are used.
            seed: the same seed gives the same clip; from 0.
            settings: of one candidate, checked against the pipeline.
            options: stride and motion count here.
            listed: where faces are, as somebody says, instead of looking for them.
        """
        self.method = find_method(settings.method)
        reads = self.method.reads_faces or settings.keep is not None or settings.only is not None
        anonymizer = anonymizer.in_graphs() if reads else anonymizer
        self.anonymizer, self.seed, self.settings, self.timing = anonymizer, seed, settings, Timing()
        look = anonymizer.detect
        glance: Any = getattr(look, "glance", look)  # not every detector has it
        follow = self._timed(look.follow) if hasattr(look, "follow") else None
        peek = self._timed(partial(glance, side=PEEK)) if glance is not look else None
        self.reading = ClipReading(anonymizer, settings, self.timing)
        read = self.reading if reads else None
        self.scan = Scan(self._timed(glance), self._timed(look), read, listed, anonymizer.look_at, follow, peek)
        own = anonymizer.default_policy(settings)
        people: Any = own if hasattr(own, "for_person") else None  # not every policy of somebody's own has it
        self.policy = TrackTargets(
            anonymizer.same_person(settings), anonymizer.bank, seed, settings.level.reach, people=people,
            looks=settings.looks,
        )  # fmt: skip
        self.parts = FINE if options.motion == "fine" else COARSE
        self.context = anonymizer.context(settings, self.policy, self.timing)
        self.keys = KeyFrames()
        self.stride = (options.stride or STRIDE) if self.method.uses_targets else 1
        self.hidden: set[int] = set()
        self.begin()

    def begin(self) -> None:
        """Forgets what was generated, and settles where all faces are with what is known by now."""
        audition = (
            Audition(self.method, self.context, self.keys, self.scan, self.seed) if self.method.uses_targets else None
        )
        self.roles = Roles(self.scan, self.policy, self.settings, self.parts, audition)
        self.sequence = FacesInSequence(self.method, self.context, self.stride)
        self.unseen = Unseen(self.context)
        self.tasks = ClipTasks(
            self.anonymizer, self.method, self.settings, self.scan, self.roles, self.reading, self.policy.threshold,
            {} if self.scan.listed is None else self.scan.listed.redact_with,
        )  # fmt: skip
        self.reading.forget()
        self._steady = dict[int, Steady]()
        self.result = ClipResult(None)
        self.settle()

    def look(self, image: np.ndarray, time_s: float, repeated: bool = False) -> None:
        """The first pass: looks at the next frame, see `Scan.add`.

        Args:
            image: (H, W, 3) uint8 RGB.
            time_s: of the frame.
            repeated: whether it is the frame before once more.
        """
        self.reading.latest = []
        self.scan.add(image, time_s, repeated)
        self.keys.add(self.scan, self.reading.latest)
        self.reading.latest = None

    def settle(self, first: int = 0) -> None:
        """Says where all faces are, from a frame on, with what is known by now."""
        self._people = self.scan.people(self.anonymizer.thresholds["far_0.01"])
        self._starts = set(self.scan.linker.starts)
        self._first, self._sightings = first, self.scan.sightings(self._people, first)

    def needs(self, number: int) -> bool:
        """Whether the result of a frame depends on its picture: somebody is in it, or nobody knows.

        Args:
            number: of a frame that was looked at.
        """
        return bool(self._sightings[number - self._first]) or number in self.scan.failed

    def results(self, frames: Iterable[tuple[np.ndarray, Any]]) -> Iterator[tuple[Any, AnonymizedImage]]:
        """Anonymizes frames that were looked at.

        Args:
            frames: (H, W, 3) uint8 RGB, and what comes back with the result.

        Yields:
            the results in order, at most a block and a fade behind.
        """
        for frame, tasks, shares in fading(self._decided(frames)):
            result = self._composited(frame, tasks, shares)
            yield frame.source, result
            for again in frame.repeats:
                if frame.failure:
                    self._count_blurred(again.time_s, frame.failure)
                else:
                    reports = {report.face.track_id: report for report in result.faces}
                    same = [reports[one.face.track_id] for one in again.sightings]
                    self.result.add(again.time_s, again.sightings, same)
                yield again.source, result

    def _decided(self, frames: Iterable[tuple[np.ndarray, Any]]) -> Iterator[tuple[Prepared, list[FaceTask]]]:
        """The distinct frames in order, with what becomes of their faces."""
        block: list[Prepared] = []
        for before, now, after in with_neighbours(self._distinct(frames)):
            now.tasks = [self._moving(task, before, after) for task in now.tasks]
            block.append(now)
            ends = after is None or after.number in self._starts
            if ends or len(block) >= self.stride or now.number in self._starts:
                yield from self._finished(block)
                block = []

    def _moving(self, task: FaceTask, before: Prepared | None, after: Prepared | None) -> FaceTask:
        """With its motion smoothed over the frames before and after it, and the lids apart from it."""
        if not task.pending or task.wanted is None:
            return task
        rest = as_set(self.roles.settled[task.number].motion.rest, self.settings)
        return blinking(smoothed(task, before, after), rest.eyes_open, GAIN)

    def _distinct(self, frames: Iterable[tuple[np.ndarray, Any]]) -> Iterator[Prepared]:
        """The frames, each with those after it that are the same picture with the same faces."""
        last: Prepared | None = None
        for number, (image, source) in enumerate(frames):
            sightings, time_s = self._sightings[number - self._first], self.scan.linker.times_s[number]
            frame = Prepared(number, time_s, image, source, sightings)
            if last is not None and len(last.repeats) < MOST_REPEATS and is_repeat(frame, last):
                last.repeats.append(frame)
                continue
            if last is not None:
                yield last
            last = self._prepared(frame)
        if last is not None:
            yield last

    def _prepared(self, frame: Prepared) -> Prepared:
        """The frame with its faces read."""
        if frame.number in self.scan.failed:
            frame.failure = "looking for faces failed"
            return frame
        try:
            given = frame.image, frame.sightings, self._people, self.hidden, self.seed
            frame.tasks, frame.unseen = self.tasks(*given)
            frame.stepped = {t.number: t.wanted for t in frame.tasks if t.pending and t.wanted is not None}
        except Exception as error:
            log.exception("reading frame %d failed", frame.number)
            frame.failure = brief_error(error)
        return frame

    def _finished(self, block: Sequence[Prepared]) -> Iterator[tuple[Prepared, list[FaceTask]]]:
        """The frames of a block with their decided tasks."""
        try:
            rows = self._generate([FrameTasks(one.number, one.time_s, one.tasks) for one in block])
        except Exception as error:
            log.exception("generating failed")
            rows = [[_failed(task, error) for task in one.tasks] for one in block]
        for frame, tasks in zip(block, rows, strict=True):
            try:
                tasks = self.unseen(frame.image, frame.time_s, tasks, frame.unseen)
            except Exception as error:
                log.exception("carrying faces to frame %d failed", frame.number)
                frame.failure = frame.failure or brief_error(error)
            yield frame, [self._eased(task) for task in tasks]

    def _eased(self, task: FaceTask) -> FaceTask:
        """With what its track's faces share, and as little to be seen of hiding it as can be."""
        if task.outcome is Outcome.REPLACED:
            if task.number not in self._steady:
                self._steady[task.number] = Steady(task.draw_seed(use="texture"))
            return replace(task, steady=self._steady[task.number])
        blank = task.redaction is None and self.settings.redact_with is Redaction.BLANK
        if task.outcome is Outcome.REDACTED and blank and task.number in self._steady:
            return replace(task, redaction=Redaction.BLUR)  # between frames with a face, a blank would flash
        return task

    def _generate(self, block: Sequence[FrameTasks]) -> list[list[FaceTask]]:
        if self.method.uses_targets:
            return self.sequence(block)
        pending = [task for frame in block for task in frame.tasks if task.pending]
        done = iter(self.method(pending, self.context) if pending else [])
        return [[next(done) if task.pending else task for task in frame.tasks] for frame in block]

    def _composited(self, frame: Prepared, tasks: Sequence[FaceTask], shares: Mapping[int, float]) -> AnonymizedImage:
        if frame.failure:
            return self._blurred(frame, frame.failure)
        if not frame.sightings:
            self.result.add(frame.time_s, (), ())
            return AnonymizedImage(frame.image, (), {}, np.zeros(frame.image.shape[:2], bool))
        try:
            analysis = ImageAnalysis(Picture(frame.image), frame.image, tuple(tasks), self.timing)
            result = self.anonymizer.composite(analysis, tasks, self.settings)
            result = veiled(result, frame.image, [(task.face, shares.get(task.number, 0.0)) for task in tasks])
        except Exception as error:
            log.exception("frame %d failed", frame.number)
            return self._blurred(frame, brief_error(error))
        self.result.add(frame.time_s, frame.sightings, result.faces)
        return result

    def too_similar(self) -> set[int]:
        """Tracks whose faces, all together, are still those of their sources."""
        similar = set()
        for number in self.result.tracks:
            role = self.roles.settled.get(number)
            if role is not None and not role.kept:
                track = self.result.tracks[number]
                track.similarity = self.sequence.pooled_similarity(number, role.embedding)
                if track.similarity is not None and track.similarity >= self.policy.threshold:
                    similar.add(number)
        return similar - self.hidden

    def finish(self, path: Path, notes: Sequence[str]) -> ClipResult:
        """The report.

        Args:
            path: where the clip is.
            notes: what is to be known about the whole clip.
        """
        self.result.path, (self.result.width, self.result.height) = path, self.scan.size
        self.result.seconds, self.result.notes = self.timing.seconds, list(notes)
        for number, track in self.result.tracks.items():
            track.person = self._people.get(number)
        if self.scan.listed is not None:
            self.result.add_kept(self.scan.listed.removed)
        return self.result

    def _timed(self, find: Callable[..., list[Face]]) -> Callable[..., list[Face]]:
        def timed(*given: Any) -> list[Face]:
            with self.timing("detect"):
                return find(*given)

        return timed

    def _blurred(self, frame: Prepared, reason: str) -> AnonymizedImage:
        frame.failure = reason
        self._count_blurred(frame.time_s, reason)
        return blurred_whole(frame.image)

    def _count_blurred(self, time_s: float, reason: str) -> None:
        self.result.frames += 1
        self.result.blurred_frames += 1
        self.result.note(time_s, f"the whole frame was blurred: {reason}")


def _failed(task: FaceTask, error: Exception) -> FaceTask:
    return task.decided(Outcome.FAILED, f"generating failed: {brief_error(error)}") if task.pending else task
