"""Gives jobs the faces of a detections file, which `deid detect` wrote and somebody may have edited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from deid_diffusion.faces.face_list import FaceList, FaceListError, check_same
from deid_diffusion.faces.face_list_reader import read_face_lists
from deid_diffusion.jobs.plan import Job, PlanError

from .boxes import key_of, notes_on


def with_face_lists(
    jobs: Iterable[Job], path: Path, start_s: float | None, stop_s: float | None
) -> tuple[tuple[Job, ...], list[str]]:
    """Gives each job the faces that the file has for its name; the others keep their detector.

    Args:
        jobs: pictures and clips.
        path: of the file.
        start_s, stop_s: the part of clips that is taken.

    Returns:
        the jobs, and what the user should be told.

    Raises:
        PlanError: the file cannot be read, or is of other pictures and clips.
    """
    jobs = tuple(jobs)
    try:
        lists = read_face_lists(path)
        by_key = {key_of(name): listed for name, listed in lists.items()}
        keys = [key_of(job.name) for job in jobs]
        for key, listed in by_key.items():
            if keys.count(key) != 1:
                got = "none" if key not in keys else "more than one"
                raise FaceListError(
                    f"{path}: {listed.file!r} is {got} of the {len(jobs)} inputs; wanted names such as "
                    f"{jobs[0].name!r}, below the input"
                )
        done = [_with(job, by_key.get(key), start_s, stop_s) for job, key in zip(jobs, keys, strict=True)]
    except FaceListError as error:
        raise PlanError(str(error)) from error
    return tuple(done), [*notes_on(path, done), *_kept(done)]


def _with(job: Job, listed: FaceList | None, start_s: float | None, stop_s: float | None) -> Job:
    if listed is None:
        return job
    if job.is_clip:
        check_same(listed, job.in_path, start_s, stop_s)
        return replace(job, listed=listed)
    if listed.redact_with:
        raise FaceListError(f"{job.name}: wanted redact_with of clips only, got it of a picture; take it out")
    check_same(replace(listed, start_s=None, stop_s=None), job.in_path)
    return replace(job, listed=listed, boxes=listed.boxes, sha256=listed.sha256)


def _kept(jobs: Iterable[Job]) -> list[str]:
    return [
        f"{job.name}: left as they are, for they were taken out of the boxes by hand: {len(job.listed.removed)} of "
        f"{len(job.listed.tracks)} faces"
        for job in jobs
        if job.listed is not None and job.listed.removed
    ]
