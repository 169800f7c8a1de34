"""Decides what is read and what is written where, before anything is."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..imaging.pictures import FORMATS
from ..messages import not_a_path
from .journal import Journal

VIDEOS = frozenset(".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .3gp".split())
# HEIC needs an extra to be written, and GIF's 256 colours would change pixels off the faces.
_INSTEAD = {".heic": ".jpg", ".heif": ".jpg", ".gif": ".png"}
Boxes = tuple[tuple[float, float, float, float], ...]


class PlanError(ValueError):
    """What was asked for cannot be begun; nothing was written."""


@dataclass(frozen=True)
class Job:
    """One picture or clip to anonymize.

    Attributes:
        in_path, out_path: from where, to where.
        seed: of the picture; the anonymizer draws each face's from it.
        name: how reports call it: its path below the input folder, with "/".
        boxes: faces to treat instead of detecting, x0 y0 x1 y1 in image pixels.
        preview_path: where to put before and after, side by side.
        sha256: of the picture that the boxes were found in; the file must be this one. Empty when not known.
    """

    in_path: Path
    out_path: Path
    seed: int
    name: str = ""
    boxes: Boxes | None = None
    preview_path: Path | None = None
    sha256: str = ""

    @property
    def is_clip(self) -> bool:
        """Whether it is a clip and no picture."""
        return self.in_path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        jobs: in the order of their names.
        folder: where the journal lies: the output folder, or where the first output goes.
        skipped: what was found in input folders and is hidden, a link to a folder or to nowhere, or
            no picture by its suffix.
        keeps_journal: the output folder is this tool's own; elsewhere the journal goes when all is done.
    """

    jobs: tuple[Job, ...]
    folder: Path
    skipped: tuple[Path, ...] = ()
    keeps_journal: bool = False


@dataclass(frozen=True)
class _Found:
    """A picture, its name for reports and seeds, and the folder or file it goes to; None for beside it."""

    path: Path
    name: Path
    target: Path | None


def plan(inputs: Sequence[Path], out: Path | None = None, seed: int = 0, previews: bool = False) -> Plan:
    """Turns files and folders into jobs.

    `photo.jpg` goes to `photo_anon.jpg` beside it, or to `out`, a file or a folder; a folder's tree is mirrored in
    `out`, or in `folder_anon` beside it. A lone file gets the seed itself, every other one its own, from the seed and
    its name, so that faces do not change when files come or go.

    Raises:
        PlanError: no such input, a video, a folder without pictures, an output that would overwrite an input.
    """
    if not inputs:
        raise PlanError("wanted pictures or folders, got none; name at least one")
    for path in [*inputs, *([out] if out is not None else [])]:
        if wrong := not_a_path(path):
            raise PlanError(f"wanted a path, got {wrong}; check it")
    inputs = list(dict.fromkeys(Path(path) for path in inputs))
    lone = len(inputs) == 1 and not inputs[0].is_dir()
    kinds = VIDEOS if lone and inputs[0].suffix.lower() in VIDEOS else FORMATS
    to_file = out is not None and lone and out.suffix.lower() in kinds and not out.is_dir()
    if out is not None and not to_file and out.exists() and not out.is_dir():
        raise PlanError(f"{out}: wanted a folder, got a file; give -o a folder, or one picture and a picture's name")
    skipped: list[Path] = []
    found = [item for path in inputs for item in _look(path, out, len(inputs) > 1, skipped)]
    jobs: dict[Path, Job] = {}
    # Whoever keeps its suffix has the first claim to its name.
    for item in sorted(found, key=lambda item: (_suffix(item.path) != item.path.suffix, item.path)):
        place = item.target if to_file else _place(item, jobs)
        if place in jobs:
            raise PlanError(f"{item.path} and {jobs[place].in_path} would both become {place}; run them one by one")
        shown = previews and item.path.suffix.lower() not in VIDEOS
        preview = place.with_name(f"{place.stem}_before_after.png") if shown else None
        own = seed if lone else file_seed(seed, item.name)
        jobs[place] = Job(item.path, place, own, item.name.as_posix(), preview_path=preview)
    targets = {item.target for item in found}
    ours = len(targets) == 1 and None not in targets and not to_file
    folder = targets.pop() if ours else next(iter(jobs)).parent
    kept = sorted(_without_own_outputs(jobs, Journal(folder), skipped), key=lambda job: (job.name, job.in_path))
    _check_inputs_are_safe(kept)
    return Plan(tuple(kept), folder, tuple(skipped), ours)


def file_seed(seed: int, name: Path) -> int:
    """A seed for each file, 31 bits, from the user's seed and the file's name: never from its pixels."""
    # One name has two spellings in Unicode, and file systems differ in which they keep.
    text = unicodedata.normalize("NFC", name.as_posix())
    return int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode(errors="surrogateescape")).digest()[:4], "big") >> 1


def _look(path: Path, out: Path | None, several: bool, skipped: list[Path]) -> list[_Found]:
    """The pictures of one input; what is left out goes to `skipped`."""
    if not path.exists():
        raise PlanError(f"{path}: wanted a picture or a folder, found nothing there; check the path")
    if not path.is_dir():
        return [_Found(path, Path(path.name), out)]
    label = path.resolve().name
    if out is None and not label:
        raise PlanError(f"{path}: no place beside it for the outputs; give -o a folder")
    target = out if out is not None else path.resolve().with_name(f"{label}_anon")
    if target.resolve() == path.resolve():
        raise PlanError(f"{path}: wanted an output folder of its own, got the input folder; give -o another one")
    # Two folders mirrored into one keep their names apart.
    prefix = Path(label) if several and out is not None else Path()
    pictures = pictures_in(path, target, skipped, {*FORMATS, *VIDEOS})
    return [_Found(picture, prefix / picture.relative_to(path), target) for picture in pictures]


def pictures_in(
    folder: Path, target: Path | None = None, skipped: list[Path] | None = None, kinds: Collection[str] = FORMATS
) -> list[Path]:
    """Pictures of a tree, by suffix, without what is hidden and without the outputs in `target`; never none.

    Raises:
        PlanError: no picture there, or a folder that cannot be listed.
    """
    leave = None if target is None else target.resolve()
    pictures = sorted(_walk(folder, leave, [] if skipped is None else skipped, kinds))
    if not pictures:
        raise PlanError(f"{folder}: wanted a folder with pictures ({' '.join(FORMATS)}), found none in it")
    return pictures


def _walk(folder: Path, target: Path | None, skipped: list[Path], kinds: Collection[str]) -> Iterable[Path]:

    def fail(error: OSError) -> None:
        raise PlanError(f"{error.filename}: wanted to list it, got {error.strerror}; check its permissions")

    for parent, folders, files in os.walk(folder, onerror=fail):
        here = Path(parent)
        for name in list(folders):
            if (here / name).resolve() == target:
                folders.remove(name)
            elif name.startswith(".") or (here / name).is_symlink():
                folders.remove(name)
                skipped.append(here / name)
        for name in files:
            # A link to nowhere is a file here, too.
            if name.startswith(".") or Path(name).suffix.lower() not in kinds or not (here / name).exists():
                skipped.append(here / name)
            else:
                yield here / name


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return _INSTEAD.get(suffix, path.suffix if suffix in FORMATS or suffix in VIDEOS else ".jpg")


def _place(item: _Found, taken: Collection[Path]) -> Path:
    folder = item.path.parent if item.target is None else (item.target / item.name).parent
    mark, suffix = "_anon" if item.target is None else "", _suffix(item.path)
    place = folder / f"{item.path.stem}{mark}{suffix}"
    # Phones keep IMG_1.HEIC and IMG_1.jpg side by side.
    return folder / f"{item.path.name}{mark}{suffix}" if place in taken and suffix != item.path.suffix else place


def _without_own_outputs(jobs: dict[Path, Job], journal: Journal, skipped: list[Path]) -> list[Job]:
    """Leaves out inputs that an interrupted run wrote: `deid run *.jpg` finds them the second time."""
    ours = {place for place in jobs if journal.line(place) is not None}
    skipped += [job.in_path for job in jobs.values() if job.in_path in ours]
    return [job for job in jobs.values() if job.in_path not in ours]


def _check_inputs_are_safe(jobs: Iterable[Job]) -> None:
    # By inode: a link, or another spelling of the name, is the same file.
    inputs = {_inode(job.in_path): job.in_path for job in jobs}
    for job in jobs:
        for place in filter(None, (job.out_path, job.preview_path)):
            hit = inputs.get(_inode(place)) if place.exists() else None
            if hit is not None:
                raise PlanError(f"{place}: wanted a new file for the output, got the input {hit}; give another -o")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
