"""Checks where outputs, previews and the report would be written, before anything is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeidError
from ..imaging.pictures import FORMATS
from ..imaging.places import unfit_place
from ..messages import brief_path, not_a_path
from .journal import NAME, OUTPUTS

if TYPE_CHECKING:
    from .plan import Job, Plan

_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
_REPORT = re.compile(r'\s*\{\s*"versions"')


class PlanError(DeidError, ValueError):
    """What was asked for cannot be begun; nothing was written."""


def check_out(out: Path, to_picture: bool) -> None:
    """Refuses what -o cannot be: no folder, and no name of a picture.

    Args:
        out: of the command line.
        to_picture: there is one input, a picture, so that it may be a picture's name.

    Raises:
        PlanError: no folder can be made there and no picture written.
    """
    if os.path.isdir(out):
        return
    check_name(out, "-o")
    if wrong := unfit_place(out):
        raise PlanError(f"{brief_path(out)}: wanted a folder or the name of a new file, got {wrong}; give another -o")
    check_above(out, "-o")
    suffix = out.suffix.lower()
    if os.path.lexists(out):
        return
    if not to_picture and suffix in FORMATS:
        raise PlanError(f"{out}: wanted a folder for several outputs, got the name of a picture; give -o a folder")
    if to_picture and suffix not in FORMATS and _FILE_SUFFIX.fullmatch(suffix):
        raise PlanError(
            f"{out}: wanted a suffix out of {' '.join(FORMATS)}, got {suffix}; take one of them, or make a folder of "
            "that name first"
        )


def check_name(path: Path, option: str) -> None:
    """Refuses names that some file systems refuse or cut.

    Args:
        path: that was given.
        option: that it was given for.

    Raises:
        PlanError: there is a dot or a blank at its end.
    """
    if path.name.endswith((".", " ")) and path.name.strip("."):
        raise PlanError(
            f"{option} {brief_path(path)}: wanted a name without a dot or a blank at its end; give another"
        )


def check_above(path: Path, option: str) -> None:
    """Refuses what would lie below a file.

    Args:
        path: that was given.
        option: that it was given for.

    Raises:
        PlanError: what is there of its folders ends with something that is none.
    """
    above = next((folder for folder in path.absolute().parents if os.path.lexists(folder)), None)
    if above is not None and not os.path.isdir(above):
        raise PlanError(f"{option} {brief_path(path)}: wanted a place in a folder, got {above}, which is none")


def check_places(jobs: Iterable[Job], journal: Path) -> None:
    """Refuses outputs and previews in the place of an input, of one another, or of what is no ordinary file.

    Args:
        jobs: of the run.
        journal: where its progress is kept.

    Raises:
        PlanError: there is such a place; it is named.
    """
    jobs = tuple(jobs)
    # By inode: a link, or another spelling of the name, is the same file.
    inputs = {inode: job.in_path for job in jobs if (inode := _inode(job.in_path))}
    if wrong := unfit_place(journal):
        raise PlanError(f"{journal}: wanted to keep the run's progress there, got {wrong}; move it away")
    taken: dict[str, Path] = {}
    for job in jobs:
        for place in filter(None, (job.out_path, job.preview_path)):
            if (inode := _inode(place)) in inputs:
                raise PlanError(
                    f"{place}: wanted a new file for the output, got the input {inputs[inode]}; give another -o"
                )
            if wrong := unfit_place(place):
                raise PlanError(
                    f"{brief_path(place)}: wanted a new name or an ordinary file, got {wrong}; give another -o, or "
                    f"leave {brief_path(job.in_path)} out"
                )
            other = taken.setdefault(_spot(place), job.in_path)
            if other != job.in_path:
                raise PlanError(f"{other} and {job.in_path} would both become {place}; run them one by one")


def check_report(report: Path, plan: Plan, read: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuses a report in the place of anything that the run reads or writes, or of a file that is no report.

    Args:
        report: of the command line.
        plan: of the run.
        read: other files that the run reads: boxes, reference photos.
        overwrite: what is no report may be replaced, too.

    Raises:
        PlanError: it is in such a place.
    """
    name = f"--report {brief_path(report)}"
    if wrong := not_a_path(report) or unfit_place(report):
        raise PlanError(f"{name}: wanted the name of a JSON file, got {wrong}; give one such as report.json")
    if report.suffix.lower() in FORMATS:
        raise PlanError(f"{name}: wanted the name of a JSON file, got a picture's; give one such as report.json")
    check_name(report, "--report")
    check_above(report, "--report")
    written = {_spot(place) for job in plan.jobs for place in (job.out_path, job.preview_path) if place is not None}
    if _spot(report) in written or report.name in (NAME, OUTPUTS):
        raise PlanError(f"{name}: wanted a file of its own, got the place of an output; give one such as report.json")
    inode = _inode(report)
    if inode and inode in {_inode(path) for path in (*(job.in_path for job in plan.jobs), *read)}:
        raise PlanError(f"{name}: wanted a file of its own, got one that the run reads; give one such as report.json")
    if inode and not overwrite and not _is_report(report):
        raise PlanError(f"{name}: wanted a new file or an earlier report, got another file; --overwrite replaces it")


def linked_outputs(jobs: Iterable[Job]) -> list[Path]:
    """Outputs that exist and are one of several names (hard links) of their file; only their own name is replaced."""
    return [job.out_path for job in jobs if unfit_place(job.out_path) == "" and _links(job.out_path) > 1]


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return True  # writing will tell
    return not head or _REPORT.match(head.decode(errors="replace")) is not None


def _spot(path: Path) -> str:
    """One spelling for each place, whatever links its folder is reached by."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _links(path: Path) -> int:
    try:
        return os.lstat(path).st_nlink
    except OSError:
        return 0
