"""Works off jobs: past bad files, and on where an interrupted run stopped."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeidError
from ..imaging.pictures import Picture, PictureError, save_picture
from ..imaging.places import unfit_place
from ..messages import brief_error, brief_path
from ..weight_files import sha256_of
from .journal import Journal, fingerprint, seed_fits
from .plan import Job, Plan, PlanError, plan
from .urls import Url, staged

if TYPE_CHECKING:
    from ..clip_options import ClipOptions
    from .clips import Watch

__all__ = ["Job", "JobResult", "JobsStopped", "Plan", "PlanError", "Work", "do_job", "foreign_output", "plan", "run"]
log = logging.getLogger(__name__)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class JobsStopped(DeidError, RuntimeError):
    """No further job can succeed, as on a full disk."""


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        faces: a line of the report for each face, as `FaceReport.to_json` gives it, with its seed: results outlive
            the process in the journal, so they are plain values from the start.
        seconds: time by stage.
        picture: `width` and `height` in pixels, upright, `sha256` of the input file, and `notices` on what of it was
            not taken over as it was; of a clip also `frames`, `blurred_frames`, `notes` and `review`, see
            `ClipResult`; empty when it failed.
        error: why nothing was written; empty when something was.
        earlier: an earlier run had finished it.
        source: size in bytes, modification time in ns and inode of the input that was read; empty when it failed.
        forgotten_seed: an earlier, finished run drew the seed, and nobody knows it any more.
    """

    job: Job
    faces: tuple[Mapping[str, Any], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    picture: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    earlier: bool = False
    source: tuple[int, ...] = ()
    forgotten_seed: bool = False

    @property
    def ok(self) -> bool:
        """Whether the output is there."""
        return not self.error

    @property
    def failed_faces(self) -> int:
        """Faces and whole frames that were hidden because a model broke, and not by a verdict."""
        return sum(face["outcome"] == "failed" for face in self.faces) + self.picture.get("blurred_frames", 0)

    @property
    def cloaked_faces(self) -> int:
        """Faces that were changed for machines only: every person sees who they are."""
        return sum(face["outcome"] == "cloaked" for face in self.faces)


@dataclass(frozen=True, eq=False)
class Work:
    """What is done with each job, as a function of it; picklable where its anonymizer is.

    Attributes:
        anonymize: a FaceAnonymizer, or what behaves like one.
        settings: its Settings; defaults when None.
        clips: what is to be chosen about clips.
        watch: is told of the progress of clips.
    """

    anonymize: Any
    settings: Any = None
    clips: ClipOptions | None = None
    watch: Watch | None = None

    def __call__(self, job: Job) -> JobResult:
        """As `do_job`."""
        if isinstance(job.in_path, Url) or isinstance(job.out_path, Url):
            return staged(self, job)
        return do_job(job, self.anonymize, self.settings, self.clips, self.watch)


def run(
    jobs: Iterable[Job],
    anonymize: Any,
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
        map: how to spread the work, a function of a `Work` and jobs; results may come in any order.
        clips: what is to be chosen about clips.
        watch: is told of the progress of clips.

    Raises:
        JobsStopped: nothing more can be written; what is finished stays.
    """
    base = fingerprint(anonymize.resolve(settings), anonymize.versions())
    made_with = {False: base, True: fingerprint(base, clips)}  # by whether it is a clip
    waiting = []
    for job in jobs:
        earlier = None if overwrite else _earlier(job, journal, made_with[job.is_clip])
        if earlier is None:
            waiting.append(job)
        else:
            yield earlier
    if journal is not None:
        _note(journal, {job.out_path: {"state": "begun", "seed": job.seed} for job in waiting})
    for result in map(Work(anonymize, settings, clips, watch), waiting):
        if journal is not None:
            failed = {"state": "failed", "seed": result.job.seed}
            line = _line(result, made_with[result.job.is_clip]) if result.ok else failed
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

    Args:
        job: what to do.
        anonymize: a FaceAnonymizer, or what behaves like one.
        settings: its Settings; defaults when None.

    Raises:
        JobsStopped: nothing more can be written.
    """
    try:
        if wrong := unfit_place(job.out_path):
            raise PictureError(f"{brief_path(job.out_path)}: wanted an ordinary file to replace, got {wrong}")
        if job.is_clip:
            return _clip_done(job, anonymize, settings, clips, watch)
        result, digest, source = _anonymized(job, anonymize, settings)
        start = time.perf_counter()
        job.out_path.parent.mkdir(parents=True, exist_ok=True)
        if job.preview_path is not None:
            both = np.asarray(result.preview())
            save_picture(Picture(both), both, job.preview_path)
        try:
            result.save(job.out_path)
        except Exception:
            if job.preview_path is not None:
                job.preview_path.unlink()
            raise
        if job.keep_times:
            _set_time(job, source[1])
        seconds = {**result.seconds, "write": time.perf_counter() - start}
        height, width = result.image.shape[:2]
        about = {"width": width, "height": height, "sha256": digest, "notices": list(result.notices)}
        kept = () if job.listed is None else tuple(one.report().to_json() for one in job.listed.removed)
        rows = tuple(face.to_json(seeds=True) for face in result.faces)
        return JobResult(job, rows + kept, seconds, about, source=source)
    except Exception as error:
        name = brief_path(job.in_path)
        log.debug("%s failed", name, exc_info=True)
        if getattr(error.__cause__ or error, "errno", None) in _NO_ROOM:
            raise JobsStopped(str(error)) from error
        said = isinstance(error, DeidError)
        return JobResult(job, error=str(error) if said else f"{name}: {type(error).__name__}: {brief_error(error)}")


def _anonymized(job: Job, anonymize: Callable[..., Any], settings: Any) -> tuple[Any, str, tuple[int, ...]]:
    """The finished picture, the sha256 and the state of the file that it was made from.

    Somebody may be copying into the folder: what changes while it is worked on is read anew, once.

    Raises:
        PictureError: it cannot be read, it goes on changing, or it is not the picture that the boxes are of.
    """
    for again in (True, False):
        # Before it is read: neither boxes nor the journal may take what was copied over it for what was read.
        source, digest = _source(job), _digest(job.in_path)
        if job.sha256 not in ("", digest):
            raise PictureError(f"{job.in_path}: was changed since its boxes were read; run it again without --boxes")
        try:
            result = anonymize(job.in_path, seed=job.seed, boxes=job.boxes, settings=settings)
        except PictureError:
            if again and source != _source(job):
                continue
            raise
        if source and (source, digest) == (_source(job), _digest(job.in_path)):
            return result, digest, source
        if job.boxes is not None:
            break  # they are of the picture that was there before
    raise PictureError(
        f"{brief_path(job.in_path)}: wanted a file that stays as it is while it is worked on, got one that was "
        "changed or moved; nothing was written: run the same command again when it is whole"
    )


def _clip_done(
    job: Job, anonymize: Callable[..., Any], settings: Any, clips: ClipOptions | None, watch: Watch | None
) -> JobResult:
    """One clip; what changed while it was worked on is not done.

    Raises:
        PictureError: the file was changed meanwhile.
    """
    from .clips import do_clip

    source, digest = _source(job), _digest(job.in_path)
    faces, seconds, about = do_clip(job, digest, anonymize, settings, clips, watch)
    if source != _source(job):
        job.out_path.unlink()
        name = brief_path(job.in_path)
        raise PictureError(f"{name}: was changed while it was worked on; run it again when it is whole")
    if job.keep_times:
        _set_time(job, source[1])
    return JobResult(job, tuple(faces), seconds, about, source=source)


def foreign_output(job: Job, journal: Journal | None) -> JobResult | None:
    """A failure when something lies at the place of the output or preview that no run of ours wrote.

    Args:
        job: whose output it would be.
        journal: of what our runs wrote; None when there is none.
    """
    preview = job.preview_path is not None and os.path.lexists(job.preview_path)
    if not _is_there(job.out_path) and not preview:
        return None
    line = journal.line(job.out_path) if journal is not None else None
    if line is None or line["state"] == "failed":
        there = job.out_path if _is_there(job.out_path) else job.preview_path
        return JobResult(job, error=f"{there} exists already; --overwrite replaces it, -o goes elsewhere")
    if _is_there(job.out_path) and line.get("size", _size(job.out_path)) != _size(job.out_path):
        return JobResult(job, error=f"{job.out_path} was changed since it was written; --overwrite replaces it")
    return None


def _earlier(job: Job, journal: Journal | None, made_with: str) -> JobResult | None:
    """The result of an earlier run, a failure when the output is not to be touched, None when there is work to do."""
    if failure := foreign_output(job, journal):
        return failure
    if not _is_there(job.out_path):
        return None
    line = None if journal is None else journal.line(job.out_path)
    assert line is not None  # or it had been foreign
    # "begun": an interrupted run may or may not have finished it.
    if line["state"] == "begun" or not _is_source(job, line):
        return None
    if line["made_with"] != _made_with(job, made_with) or not seed_fits(line, job.run_seed):
        return JobResult(job, error=f"{job.out_path} was made with other settings; --overwrite makes it anew")
    forgotten = job.run_seed is None and "seed" not in line
    about = line.get("picture", {})
    earlier = JobResult(job, tuple(line["faces"]), line["seconds"], about, earlier=True, forgotten_seed=forgotten)
    return None if earlier.failed_faces else earlier  # a model that broke may be whole again


def _line(result: JobResult, made_with: str) -> dict[str, Any]:
    job = result.job
    return {
        "state": "done",
        "made_with": _made_with(job, made_with),
        "seed": job.seed,
        "run_seed": job.run_seed,
        "source": list(result.source),
        "size": _size(job.out_path),
        "faces": list(result.faces),
        "picture": dict(result.picture),
        "seconds": {stage: round(value, 4) for stage, value in result.seconds.items()},
    }


def _made_with(job: Job, made_with: str) -> str:
    listed = [] if job.listed is None else [job.listed.describe()]
    return fingerprint(made_with, job.boxes, *listed)  # not the seed: one that was drawn is another each time


def _digest(path: Path) -> str:
    """sha256 of a file; empty for one that cannot be read, of which the reader says more."""
    try:
        return sha256_of(path) if path.is_file() else ""
    except OSError:
        return ""


def _source(job: Job) -> tuple[int, ...]:
    """Size, modification time and inode of the input; empty for one that is gone or out of reach."""
    if isinstance(job.in_path, Url):
        return job.in_path.state()
    try:
        status = os.stat(job.in_path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _is_source(job: Job, line: Mapping[str, Any]) -> bool:
    """Whether the input is the file that a finished line of the journal is of."""
    known, now = tuple(line["source"]), _source(job)
    if known == now:
        return bool(now)
    # A copy or a move of the whole tree gives other inodes to the same files.
    return bool(now) and known[:2] == now[:2] and line.get("picture", {}).get("sha256") == _digest(job.in_path)


def _set_time(job: Job, modified_ns: int) -> None:
    for path in filter(None, (job.out_path, job.preview_path)):
        try:
            os.utime(path, ns=(modified_ns, modified_ns))
        except OSError as error:  # a file system without times; the picture is whole all the same
            log.warning("%s: wanted to set its time, got %s", brief_path(path), error.strerror)


def _is_there(path: Path) -> bool:
    return path.exists() if isinstance(path, Url) else os.path.lexists(path)


def _size(path: Path) -> int:
    """Bytes of a file; -1 for one that is gone or out of reach."""
    if isinstance(path, Url):
        return next(iter(path.state(anew=True)), -1)
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _note(journal: Journal, lines: Mapping[Path, Mapping[str, Any]]) -> None:
    try:
        journal.add(lines.items())
    except OSError as error:
        raise JobsStopped(
            f"{journal.path.parent}: wanted to write there, got {error.strerror}; nothing more was written: free "
            "space, check permissions or give another -o"
        ) from error
