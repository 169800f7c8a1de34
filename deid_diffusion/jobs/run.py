"""Works off jobs: past bad files, and on where an interrupted run stopped."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeidError
from ..imaging.pictures import Picture, PictureError, save_picture
from ..messages import brief_error, brief_path
from ..models.weights import sha256_of
from ..video import ClipOptions
from .clips import Watch, do_clip
from .journal import Journal, fingerprint
from .plan import Job, Plan, PlanError, plan

__all__ = ["Job", "JobResult", "JobsStopped", "Plan", "PlanError", "do_job", "foreign_output", "plan", "run"]
log = logging.getLogger(__name__)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class JobsStopped(RuntimeError):
    """No further job can succeed, as on a full disk."""


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        faces: a line of the report for each face, as `FaceReport.to_json` gives it: results outlive the process in
            the journal, so they are plain values from the start.
        seconds: time by stage.
        picture: `width` and `height` in pixels, upright, and `sha256` of the input file; of a clip also `frames`,
            `blurred_frames`, `notes` and `review`, see `ClipResult`; empty when it failed.
        error: why nothing was written; empty when something was.
        earlier: an earlier run had finished it.
    """

    job: Job
    faces: tuple[Mapping[str, Any], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    picture: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    earlier: bool = False

    @property
    def ok(self) -> bool:
        """Whether the output is there."""
        return not self.error

    @property
    def failed_faces(self) -> int:
        """Faces and whole frames that were hidden because a model broke, and not by a verdict."""
        return sum(face["outcome"] == "failed" for face in self.faces) + self.picture.get("blurred_frames", 0)


def run(
    jobs: Iterable[Job],
    anonymize: Callable[..., Any],
    settings: Any = None,
    journal: Journal | None = None,
    overwrite: bool = False,
    map: Callable[..., Iterable[JobResult]] = map,
    clips: ClipOptions | None = None,
    watch: Watch | None = None,
) -> Iterator[JobResult]:
    """Works jobs off and yields their results as they come; those of earlier runs first.

    Args:
        anonymize: a FaceAnonymizer, or what behaves like one.
        settings: its Settings; defaults when None.
        journal: says what is finished already. Without one nothing is, and nothing that exists is overwritten.
        overwrite: do everything anew.
        map: how to spread the work; results may come in any order.
        clips: what is to be chosen about clips.
        watch: is told of the progress of clips.

    Raises:
        JobsStopped: nothing more can be written; what is finished stays.
    """
    base = fingerprint(settings, anonymize.versions())
    made_with = {False: base, True: fingerprint(base, clips)}  # by whether it is a clip
    waiting = []
    for job in jobs:
        earlier = None if overwrite else _earlier(job, journal, made_with[job.is_clip])
        if earlier is None:
            waiting.append(job)
        else:
            yield earlier
    if journal is not None:
        _note(journal, {job.out_path: {"state": "begun"} for job in waiting})
    for result in map(partial(do_job, anonymize=anonymize, settings=settings, clips=clips, watch=watch), waiting):
        if journal is not None:
            line = _line(result, made_with[result.job.is_clip]) if result.ok else {"state": "failed"}
            _note(journal, {result.job.out_path: line})
        yield result


def do_job(
    job: Job,
    anonymize: Callable[..., Any],
    settings: Any = None,
    clips: ClipOptions | None = None,
    watch: Watch | None = None,
) -> JobResult:
    """Reads, anonymizes and writes one file, whole or not at all. A bad file is a result, not an exception.

    Raises:
        JobsStopped: nothing more can be written.
    """
    try:
        # Before it is read: boxes must never be filed under the hash of what was copied over it meanwhile.
        digest = _digest(job.in_path)
        if job.sha256 not in ("", digest):
            raise PictureError(f"{job.in_path}: was changed since its boxes were read; run it again without --boxes")
        if job.is_clip:
            faces, seconds, about = do_clip(job, digest, anonymize, settings, clips, watch)
            return JobResult(job, tuple(faces), seconds, about)
        result = anonymize(job.in_path, seed=job.seed, boxes=job.boxes, settings=settings)
        start = time.perf_counter()
        job.out_path.parent.mkdir(parents=True, exist_ok=True)
        if job.preview_path is not None:
            both = np.asarray(result.preview())
            save_picture(Picture(both), both, job.preview_path)
        result.save(job.out_path)
        seconds = {**result.seconds, "write": time.perf_counter() - start}
        height, width = result.image.shape[:2]
        about = {"width": width, "height": height, "sha256": digest}
        return JobResult(job, tuple(face.to_json() for face in result.faces), seconds, about)
    except Exception as error:
        name = brief_path(job.in_path)
        log.debug("%s failed", name, exc_info=True)
        if getattr(error.__cause__ or error, "errno", None) in _NO_ROOM:
            raise JobsStopped(str(error)) from error
        said = isinstance(error, DeidError)
        return JobResult(job, error=str(error) if said else f"{name}: {type(error).__name__}: {brief_error(error)}")


def foreign_output(job: Job, journal: Journal | None) -> JobResult | None:
    """A failure when something lies at the output's place that no run of ours wrote."""
    if not job.out_path.exists():
        return None
    line = journal.line(job.out_path) if journal is not None else None
    if line is None or line["state"] == "failed":
        return JobResult(job, error=f"{job.out_path} exists already; --overwrite replaces it, -o goes elsewhere")
    if line.get("size", job.out_path.stat().st_size) != job.out_path.stat().st_size:
        return JobResult(job, error=f"{job.out_path} was changed since it was written; --overwrite replaces it")
    return None


def _earlier(job: Job, journal: Journal | None, made_with: str) -> JobResult | None:
    """The result of an earlier run, a failure when the output is not to be touched, None when there is work to do."""
    if not job.out_path.exists():
        return None
    if failure := foreign_output(job, journal):
        return failure
    line = journal.line(job.out_path)
    # "begun": an interrupted run may or may not have finished it.
    if line["state"] == "begun" or not job.in_path.exists() or line["source"] != _source(job):
        return None
    if line["made_with"] != fingerprint(made_with, job.seed, job.boxes):
        return JobResult(job, error=f"{job.out_path} was made with other settings; --overwrite makes it anew")
    earlier = JobResult(job, tuple(line["faces"]), line["seconds"], line.get("picture", {}), earlier=True)
    return None if earlier.failed_faces else earlier  # a model that broke may be whole again


def _line(result: JobResult, made_with: str) -> dict[str, Any]:
    job = result.job
    return {
        "state": "done",
        "made_with": fingerprint(made_with, job.seed, job.boxes),
        "source": _source(job),
        "size": job.out_path.stat().st_size,
        "faces": list(result.faces),
        "picture": dict(result.picture),
        "seconds": {stage: round(value, 4) for stage, value in result.seconds.items()},
    }


def _digest(path: Path) -> str:
    """sha256 of a file; empty for one that cannot be read, of which the reader says more."""
    try:
        return sha256_of(path) if path.is_file() else ""
    except OSError:
        return ""


def _source(job: Job) -> list[int]:
    status = Path(job.in_path).stat()
    return [status.st_size, status.st_mtime_ns]


def _note(journal: Journal, lines: Mapping[Path, Mapping[str, Any]]) -> None:
    try:
        journal.add(lines.items())
    except OSError as error:
        raise JobsStopped(
            f"{journal.path.parent}: wanted to write there, got {error.strerror}; nothing more was written: free "
            "space, check permissions or give another -o"
        ) from error
