"""Anonymizes clips: looks through them first, then gives every track one new face."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .anonymizer import FaceAnonymizer
from .clip_result import ClipResult
from .faces.attributes import Attributes
from .faces.motion import COARSE, FINE, smooth
from .faces.scan import Scan
from .faces.task import FaceTask, ImageAnalysis
from .faces.tracks import Origin, Sighting
from .imaging.pictures import Picture
from .messages import brief, brief_error
from .methods.protocol import find_method
from .methods.redact import redact
from .methods.roles import Role, Roles, as_set
from .methods.sequence import FacesInSequence, FrameTasks
from .methods.targets import TrackTargets
from .result import AnonymizedImage
from .settings import Settings
from .timing import Timing
from .types import Face, Outcome, Redaction

log = logging.getLogger(__name__)
STRIDE = 2  # frames
Progress = Callable[[str, int, float], None]  # "look" or "write", frames so far, seconds of the clip so far


@dataclass(frozen=True)
class ClipOptions:
    """What is to be chosen about a clip and not about its faces.

    Attributes:
        audio: "keep" copies it as it is; a voice identifies. "drop" leaves it out.
        crf: constant rate factor of the encoder; lower is better and larger.
        codec: of the output; None for that of the source's family.
        stride: a new face is generated every so many frames, and carried along between; None for 2.
        motion: "fine" passes speech and blinks in eighths of a step; "coarse" in the steps of photos.
        start_s, stop_s: what part of the clip is written; None for all.
        ahead_s: how far a stream looks ahead.
    """

    audio: str = "keep"
    crf: int = 18
    codec: str | None = None
    stride: int | None = None
    motion: str = "fine"
    start_s: float | None = None
    stop_s: float | None = None
    ahead_s: float = 1.0

    def __post_init__(self):
        for name, choices in (("audio", ("keep", "drop")), ("motion", ("fine", "coarse"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {brief(getattr(self, name))}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride must be >= 1, got {brief(self.stride)}")
        if self.start_s is not None and self.stop_s is not None and not self.start_s < self.stop_s:
            raise ValueError(f"wanted a part that stops after it starts, got {self.start_s} s to {self.stop_s} s")


class VideoAnonymizer:
    """Anonymizes clips with a FaceAnonymizer's models: same person, same stranger, from the first frame to the last.

    Memory does not grow with the length but for a few numbers a face and frame.
    """

    def __init__(self, anonymizer: FaceAnonymizer, options: ClipOptions | None = None) -> None:
        self.anonymizer, self.options = anonymizer, options or ClipOptions()

    def __call__(
        self,
        path: str | PathLike,
        out: str | PathLike,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> ClipResult:
        """Anonymizes a file.

        Args:
            path, out: from where, to where; nothing half-written is left under the latter name.
            seed: the same seed gives the same clip.
            settings: as for pictures; `candidates` does not count.
            progress: called after each frame.
            changes: single fields of Settings.

        Raises:
            ValueError: settings that clips or the loaded pipeline cannot follow.
            ClipError: a clip that cannot be read or written.
        """
        from .imaging.clips import ClipReader, ClipWriter

        run, options = self._begin(seed, settings, changes), self.options
        tell = progress or (lambda *_: None)
        with ClipReader(path, options.start_s, options.stop_s) as frames:
            for frame in frames:
                with run.timing("detect"):
                    run.scan.add(frame.image, frame.time_s, frame.repeated)
                tell("look", frame.index, frame.time_s)
        run.scan.finish()
        run.settle()
        with ClipReader(path, options.start_s, options.stop_s) as frames:
            with ClipWriter(out, frames, audio=options.audio, crf=options.crf, codec=options.codec) as writer:
                for frame, result in run.results((frame.image, frame) for frame in frames):
                    writer.write(frame, result.image, result.changed_mask)
                    tell("write", frame.index, frame.time_s)
        return run.finish(Path(out))

    def stream(
        self,
        frames: Iterable[np.ndarray],
        seed: int = 0,
        settings: Settings | None = None,
        fps: float = 30.0,
        **changes: Any,
    ) -> Iterator[AnonymizedImage]:
        """Anonymizes frames as they come, `options.ahead_s` behind them.

        Args:
            frames: (H, W, 3) uint8 RGB, all of one size.
            seed, settings, changes: as in `__call__`.
            fps: frames a second.

        Yields:
            the frames in their order. A person who comes back is recognised; what is known of a track after the
            look-ahead settles what it becomes.

        Raises:
            ValueError: settings that clips cannot follow, frames that are none.
        """
        run = self._begin(seed, settings, changes)
        ahead = max(1, round(self.options.ahead_s * fps))

        def looked() -> Iterator[tuple[np.ndarray, None]]:
            waiting: deque[np.ndarray] = deque()
            number = 0
            for image in frames:
                _check_frame(image, run.scan.size)
                run.scan.add(image, len(run.scan.linker.times_s) / fps)
                waiting.append(image)
                if len(waiting) > ahead:
                    run.settle(number)
                    yield waiting.popleft(), None
                    number += 1
            run.settle(number)
            yield from ((image, None) for image in waiting)

        for _, result in run.results(looked()):
            yield result

    def _begin(self, seed: int, settings: Settings | None, changes: Mapping[str, Any]) -> _Run:
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0 on, got {brief(seed)}")
        settings = replace(settings or Settings(), **changes)
        if find_method(settings.method).name == "k-same":
            raise ValueError(
                "k-same averages people of a set of pictures and does not follow motion; take inpaint, blur, pixelate "
                "or blank for clips"
            )
        self.anonymizer.check(settings)
        return _Run(self.anonymizer, seed, replace(settings, candidates=1), self.options)


class _Run:
    """One clip on its way."""

    def __init__(self, anonymizer: FaceAnonymizer, seed: int, settings: Settings, options: ClipOptions) -> None:
        self.anonymizer, self.seed, self.settings, self.timing = anonymizer, seed, settings, Timing()
        self.method = find_method(settings.method)
        reads = self.method.reads_faces or settings.keep is not None or settings.only is not None
        self.scan = Scan(
            getattr(anonymizer.detect, "glance", anonymizer.detect), anonymizer.detect, self._read if reads else None
        )
        self.policy = TrackTargets(anonymizer.same_person(settings), anonymizer.bank, seed)
        self.roles = Roles(self.scan, self.policy, settings, FINE if options.motion == "fine" else COARSE)
        self.context = anonymizer.context(settings, self.policy, self.timing)
        self.stride = (options.stride or STRIDE) if self.method.uses_targets else 1
        self.sequence = FacesInSequence(self.method, self.context, self.stride)
        self.result = ClipResult(None)
        self._people: dict[int, int] = {}
        self._starts: set[int] = set()
        self._first, self._sightings = 0, list[list[Sighting]]()

    def settle(self, first: int = 0) -> None:
        """Says where all faces are, from a frame on, with what is known by now."""
        self._people = self.scan.people(self.anonymizer.thresholds["far_0.01"])
        self._starts = set(self.scan.linker.starts)
        self._first, self._sightings = first, self.scan.sightings(self._people, first)

    def results(self, frames: Iterable[tuple[np.ndarray, Any]]) -> Iterator[tuple[Any, AnonymizedImage]]:
        """Anonymizes frames that were looked at.

        Args:
            frames: (H, W, 3) uint8 RGB, and what comes back with the result.

        Yields:
            the results in order, at most a block behind.
        """
        block: list[_Prepared] = []
        prepared = (self._prepared(number, *frame) for number, frame in enumerate(frames))
        for before, now, after in _with_neighbours(prepared):
            now.tasks = [_smoothed(task, before, after) for task in now.tasks]
            block.append(now)
            ends = after is None or after.number in self._starts
            if ends or len(block) >= self.stride or now.number in self._starts:
                yield from self._finished(block)
                block = []

    def _prepared(self, number: int, image: np.ndarray, source: Any) -> _Prepared:
        """A frame with its faces read."""
        sightings, time_s = self._sightings[number - self._first], self.scan.linker.times_s[number]
        frame = _Prepared(number, time_s, image, source, sightings)
        if number in self.scan.failed:
            frame.failure = "looking for faces failed"
            return frame
        try:
            frame.tasks = self._tasks(image, sightings)
            frame.stepped = {t.number: t.wanted for t in frame.tasks if t.pending and t.wanted is not None}
        except Exception as error:
            log.exception("reading frame %d failed", number)
            frame.failure = brief_error(error)
        return frame

    def _finished(self, block: Sequence[_Prepared]) -> Iterator[tuple[Any, AnonymizedImage]]:
        """The frames of a block; blurred as a whole where that fails."""
        try:
            rows = self._generate([FrameTasks(one.number, one.time_s, one.tasks) for one in block])
        except Exception as error:
            log.exception("generating failed")
            rows = [[_failed(task, error) for task in one.tasks] for one in block]
        for frame, tasks in zip(block, rows, strict=True):
            yield frame.source, self._composited(frame, tasks)

    def _generate(self, block: Sequence[FrameTasks]) -> list[list[FaceTask]]:
        if self.method.uses_targets:
            return self.sequence(block)
        pending = [task for frame in block for task in frame.tasks if task.pending]
        done = iter(self.method(pending, self.context) if pending else [])
        return [[next(done) if task.pending else task for task in frame.tasks] for frame in block]

    def _composited(self, frame: _Prepared, tasks: Sequence[FaceTask]) -> AnonymizedImage:
        if frame.failure:
            return self._blurred(frame, frame.failure)
        try:
            analysis = ImageAnalysis(Picture(frame.image), frame.image, tuple(tasks), self.timing)
            result = self.anonymizer.composite(analysis, tasks, self.settings)
        except Exception as error:
            log.exception("frame %d failed", frame.number)
            return self._blurred(frame, brief_error(error))
        self.result.add(frame.time_s, frame.sightings, result.faces)
        return result

    def finish(self, path: Path | None) -> ClipResult:
        """The report."""
        self.result.path, (self.result.width, self.result.height) = path, self.scan.size
        self.result.seconds = self.timing.seconds
        for number, track in self.result.tracks.items():
            track.person = self._people.get(number)
        return self.result

    def _read(self, image: np.ndarray, faces: Sequence[Face], places: Sequence[int]) -> dict[int, FaceTask]:
        with self.timing("read"):
            return self.anonymizer.read(image, faces, self.settings, places)

    def _tasks(self, image: np.ndarray, sightings: Sequence[Sighting]) -> list[FaceTask]:
        """The faces of a frame, ready for the method or decided."""
        tasks = [FaceTask(one.face, one.face.track_id, seed=self.seed) for one in sightings]
        if self.scan.read is None:
            return tasks
        roles = [self.roles(task.number, self._people) for task in tasks]
        kept = [role is not None and role.kept for role in roles]
        tasks = [
            task.decided(Outcome.KEPT, role.reason) if keep else task
            for task, role, keep in zip(tasks, roles, kept, strict=True)
        ]
        if not self.method.reads_faces:
            return tasks
        tasks = [_hidden(*three) for three in zip(tasks, roles, sightings, strict=True)]
        open_places = [place for place, task in enumerate(tasks) if task.pending]
        read = self._read(image, [task.face for task in tasks], open_places) if open_places else {}
        for place, found in read.items():
            tasks[place] = self._ready(tasks[place], found, roles[place], sightings[place])
        return tasks

    def _ready(self, task: FaceTask, found: FaceTask, role: Role, sighting: Sighting) -> FaceTask:
        """With what was read in this frame, less what may not pass."""
        if found.outcome in (Outcome.REDACTED, Outcome.FAILED):
            return task.decided(found.outcome, found.reason)
        likely = self.anonymizer.thresholds.get("far_0.05", self.policy.threshold)
        if sighting.origin is not Origin.FOUND and float(found.embedding @ role.embedding) < likely:
            return task.decided(
                Outcome.REDACTED, f"{sighting.origin.value}, and not seen there", redaction=Redaction.BLUR
            )
        wanted = as_set(role.motion(found.analysis.attributes.to_dict()), self.settings)
        return replace(
            found, number=task.number, seed=task.seed, outcome=None, reason="", embedding=role.embedding,
            wanted=wanted, targets=(role.target,),
        )  # fmt: skip

    def _blurred(self, frame: _Prepared, reason: str) -> AnonymizedImage:
        everything = np.ones(frame.image.shape[:2], bool)
        self.result.frames += 1
        self.result.note(frame.time_s, f"the whole frame was blurred: {reason}")
        image = redact(frame.image, everything, Redaction.BLUR)
        return AnonymizedImage(image, (), {}, everything, Picture(frame.image))


@dataclass(eq=False)
class _Prepared:
    """A frame on its way: its faces with what was read, or why that failed."""

    number: int
    time_s: float
    image: np.ndarray
    source: Any
    sightings: Sequence[Sighting]
    tasks: list[FaceTask] = field(default_factory=list)
    failure: str = ""
    stepped: dict[int, Attributes] = field(default_factory=dict)


def _with_neighbours(items: Iterable[_Prepared]) -> Iterator[tuple[_Prepared | None, _Prepared, _Prepared | None]]:
    """Each one with that before and that after it."""
    before = now = None
    for after in items:
        if now is not None:
            yield before, now, after
        before, now = now, after
    if now is not None:
        yield before, now, None


def _smoothed(task: FaceTask, before: _Prepared | None, after: _Prepared | None) -> FaceTask:
    """With its motion smoothed over the frames before and after it."""
    if not task.pending or task.wanted is None:
        return task
    near = [None if frame is None else frame.stepped.get(task.number) for frame in (before, after)]
    return replace(task, wanted=smooth(near[0], task.wanted, near[1]))


def _failed(task: FaceTask, error: Exception) -> FaceTask:
    return task.decided(Outcome.FAILED, f"generating failed: {brief_error(error)}") if task.pending else task


def _hidden(task: FaceTask, role: Role | None, sighting: Sighting) -> FaceTask:
    """Redacted where the track says that nothing can be generated: a lost face, or one that nobody could read."""
    if task.pending and sighting.origin is Origin.HELD:
        return task.decided(Outcome.REDACTED, "lost; it could still be there", redaction=Redaction.BLUR)
    if task.pending and role is None:
        return task.decided(Outcome.REDACTED, "landmarks do not fit the detection in any frame")
    return task


def _check_frame(image: np.ndarray, size: tuple[int, int]) -> None:
    shape = getattr(image, "shape", ())
    if len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"frames must be (H, W, 3) uint8 RGB, got {brief(image)}")
    if size != (0, 0) and (shape[1], shape[0]) != size:
        raise ValueError(f"frames must all be {size[0]} x {size[1]}, got {shape[1]} x {shape[0]}")
