"""Decides what is read and what is written where, before anything is."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from ..faces.face_list import FaceList
from ..imaging.pictures import FORMATS
from ..messages import not_a_path
from ..seeds import checked_seed, derived_seed
from .journal import NAME, OUTPUTS, Journal
from .places import PlanError, check_out, check_places

VIDEOS = frozenset(".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .3gp".split())
OUTPUT, UNREADABLE = "written by this tool", "unreadable folder"
# HEIC needs an extra to be written, and GIF's 256 colours would change pixels off the faces.
_INSTEAD = {".heic": ".jpg", ".heif": ".jpg", ".gif": ".png"}
Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Skipped:
    """What was found and left out, and why: "hidden", "excluded" and the like, or what the system says of a folder."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Job:
    """One picture or clip to anonymize.

    Attributes:
        in_path, out_path: from where, to where.
        seed: of the picture; the anonymizer draws each face's from it.
        run_seed: what the user gave it from; None where it was drawn.
        name: how reports call it: its path below the input folder, with "/".
        boxes: faces to treat instead of detecting, x0 y0 x1 y1 in image pixels.
        preview_path: where to put before and after, side by side.
        keep_times: the output gets the input's modification time.
        sha256: of the picture that the boxes were found in; the file must be this one. Empty when not known.
        listed: what a detections file says of it; of a picture, the boxes are those.
    """

    in_path: Path
    out_path: Path
    seed: int
    name: str = ""
    boxes: Boxes | None = None
    preview_path: Path | None = None
    sha256: str = ""
    keep_times: bool = False
    run_seed: int | None = None
    listed: FaceList | None = None

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
        skipped: what was found and is left out: hidden, a link to a folder or to nowhere, no picture by its suffix,
            excluded, an output of this tool, or a folder that cannot be listed.
        keeps_list: the output folder is this tool's own; elsewhere no list of outputs stays when all is done.
    """

    jobs: tuple[Job, ...]
    folder: Path
    skipped: tuple[Skipped, ...] = ()
    keeps_list: bool = False


@dataclass(frozen=True)
class _Found:
    """A picture, its name for reports and seeds, and the folder or file it goes to; None for beside it."""

    path: Path
    name: Path
    target: Path | None


@dataclass(frozen=True)
class _Search:
    """What is looked for in the inputs, and what was left out so far."""

    exclude: tuple[str, ...] = ()
    skipped: list[Skipped] = field(default_factory=list)

    def leave(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))

    def reasons(self) -> str:
        """Why something was left out, in brackets; empty when nothing was."""
        found = sorted({item.reason for item in self.skipped})
        return f" that is not left out ({', '.join(found)})" if found else ""

    def excludes(self, name: Path) -> bool:
        return any(fnmatchcase(name.as_posix(), pattern) for pattern in self.exclude)


def plan(
    inputs: Sequence[Path],
    out: Path | None = None,
    seed: int | None = None,
    previews: bool = False,
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> Plan:
    """Turns files and folders into jobs.

    `photo.jpg` goes to `photo_anon.jpg` beside it, or to `out`, a file or a folder; a folder's tree is mirrored in
    `out`, or in `folder_anon` beside it. A lone file gets the seed itself, every other one its own, from the seed and
    its name, so that faces do not change when files come or go.

    Args:
        inputs: files and folders.
        out: where to; None for beside the inputs.
        seed: of the run; None draws one, or takes those that the journal of a stopped run has.
        previews: whether each job writes a preview, too.
        exclude: patterns (`fnmatch`, "*" for "/" too) of names to leave out, of files and of folders: paths below the
            input folder, with "/", or the name of a file that was named.
        overwrite: what is an output by its name may be replaced, so that it must not be named as an input, too.

    Raises:
        PlanError: no such input, a video, a folder without pictures, an output that would overwrite an input or that
            would be written into anything but an ordinary file.
    """
    if not inputs:
        raise PlanError("wanted pictures or folders, got none; name at least one")
    for path in [*inputs, *([out] if out is not None else [])]:
        if wrong := not_a_path(path):
            raise PlanError(f"wanted a path, got {wrong}; check it")
    inputs = list({os.path.abspath(path): Path(path) for path in reversed(inputs)}.values())
    lone = len(inputs) == 1 and not os.path.isdir(inputs[0])
    clip = lone and inputs[0].suffix.lower() in VIDEOS
    if out is not None:
        check_out(out, lone and not clip)
    kinds = VIDEOS if clip else FORMATS
    to_file = out is not None and lone and out.suffix.lower() in kinds and not os.path.isdir(out)
    if out is not None and not to_file and os.path.exists(out) and not os.path.isdir(out):
        raise PlanError(f"{out}: wanted a folder, got a file; give -o a folder, or one picture and a picture's name")
    search = _Search(tuple(pattern.rstrip("/") for pattern in exclude))
    found = [item for path in inputs for item in _look(path, out, len(inputs) > 1, search)]
    found = _without_outputs_of_others(found, search, overwrite)
    jobs: dict[Path, Job] = {}
    # Whoever keeps its suffix has the first claim to its name.
    for item in sorted(found, key=lambda item: (_suffix(item.path) != item.path.suffix, item.path)):
        place = Path(out) if to_file and out is not None else _place(item, jobs)
        if place in jobs:
            raise PlanError(f"{item.path} and {jobs[place].in_path} would both become {place}; run them one by one")
        preview = _preview(place) if previews else None
        jobs[place] = Job(item.path, place, 0, item.name.as_posix(), preview_path=preview, run_seed=seed)
    if not jobs:
        raise PlanError(f"wanted a picture to anonymize, got none{search.reasons()}; name others")
    targets = {item.target for item in found}
    ours = len(targets) == 1 and None not in targets and not to_file
    folder = (targets.pop() if ours else None) or next(iter(jobs)).parent
    kept = sorted(jobs.values(), key=lambda job: (job.name, job.in_path))
    for name in (NAME, OUTPUTS):
        check_places(kept, folder / name)
    kept = _with_seeds(kept, checked_seed(seed), lone, Journal(folder) if seed is None and not overwrite else None)
    return Plan(tuple(kept), folder, tuple(search.skipped), ours)


def _with_seeds(jobs: Sequence[Job], seed: int, lone: bool, journal: Journal | None) -> list[Job]:
    """Each with its seed: that of the journal, if there is one, for what was begun with it."""
    own = [seed if lone else file_seed(seed, Path(job.name)) for job in jobs]
    known = [((journal and journal.line(job.out_path)) or {}).get("seed") for job in jobs]
    rows = zip(jobs, own, known, strict=True)
    return [replace(job, seed=seed if before is None else before) for job, seed, before in rows]


def file_seed(seed: int, name: Path) -> int:
    """A seed for each file, 63 bits, from the user's seed and the file's name: never from its pixels.

    Args:
        seed: of the run.
        name: of the file below its input folder.
    """
    # One name has two spellings in Unicode, and file systems differ in which they keep.
    return derived_seed(seed, unicodedata.normalize("NFC", name.as_posix()))


def _look(path: Path, out: Path | None, several: bool, search: _Search) -> list[_Found]:
    """The pictures and clips of one input; what is left out is noted in `search`."""
    try:
        path.stat()
    except OSError as error:
        got = "found nothing there" if isinstance(error, FileNotFoundError) else f"got {error.strerror}"
        raise PlanError(f"{path}: wanted a picture or a folder, {got}; check the path") from None
    if not os.path.isdir(path):
        if search.excludes(Path(path.name)):
            search.leave(path, "excluded")
            return []
        return [_Found(path, Path(path.name), out)]
    label = path.resolve().name
    if out is None and not label:
        raise PlanError(f"{path}: no place beside it for the outputs; give -o a folder")
    target = out if out is not None else path.resolve().with_name(f"{label}_anon")
    if target.resolve() == path.resolve():
        raise PlanError(f"{path}: wanted an output folder of its own, got the input folder; give -o another one")
    # Two folders mirrored into one keep their names apart.
    prefix = Path(label) if several and out is not None else Path()
    pictures = pictures_in(path, target, search, {*FORMATS, *VIDEOS})
    return [_Found(picture, prefix / picture.relative_to(path), target) for picture in pictures]


def pictures_in(
    folder: Path, target: Path | None = None, search: _Search | None = None, kinds: Collection[str] = FORMATS
) -> list[Path]:
    """Pictures of a tree, by suffix, without what is hidden and without the outputs in `target`; never none.

    Args:
        folder: of the tree.
        target: where outputs go, if that is inside.
        search: says what to leave out, and gets what is left out.

    Raises:
        PlanError: no picture there, or a folder that cannot be listed: the tree itself, or any one without `search`.
    """
    leave, strict, search = None if target is None else target.resolve(), search is None, search or _Search()
    pictures = sorted(_walk(folder, leave, search, strict, kinds))
    if not pictures:
        raise PlanError(
            f"{folder}: wanted a folder with pictures ({' '.join(FORMATS)}), found none in it{search.reasons()}"
        )
    return pictures


def _walk(root: Path, target: Path | None, search: _Search, strict: bool, kinds: Collection[str]) -> Iterable[Path]:
    journals: list[Journal] = []

    def fail(error: OSError) -> None:
        folder = Path(error.filename or root)
        if strict or folder == root:
            raise PlanError(f"{folder}: wanted to list it, got {error.strerror}; check its permissions")
        search.leave(folder, f"{UNREADABLE} ({error.strerror})")

    for parent, folders, files in os.walk(root, onerror=fail):
        here = Path(parent)
        # Outputs of an earlier run, into a folder of the tree. The tree itself may be one: that is what was asked for.
        journals += [Journal(here)] if {NAME, OUTPUTS} & {*files} and here != root else []
        for name in list(folders):
            if (here / name).resolve() == target:
                folders.remove(name)
            elif reason := _reason_for_folder(here / name, root, search):
                folders.remove(name)
                search.leave(here / name, reason)
        for name in files:
            if name in (NAME, OUTPUTS):
                continue
            if reason := _reason_for_file(here / name, root, search, journals, kinds):
                search.leave(here / name, reason)
            else:
                yield here / name


def _reason_for_folder(path: Path, root: Path, search: _Search) -> str:
    """Why a folder is left out; empty when it is not."""
    if path.name.startswith("."):
        return "hidden"
    if search.excludes(path.relative_to(root)):
        return "excluded"
    return "link to a folder" if os.path.islink(path) else ""


def _reason_for_file(
    path: Path, root: Path, search: _Search, journals: Sequence[Journal], kinds: Collection[str]
) -> str:
    """Why a file is left out; empty when it is not."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in kinds:
        return "no picture by its suffix"
    if search.excludes(path.relative_to(root)):
        return "excluded"
    if os.path.islink(path) and not os.path.exists(path):
        return "link to nowhere"
    return OUTPUT if any(_is_output(path, journal) for journal in journals) else ""


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return _INSTEAD.get(suffix, path.suffix if suffix in FORMATS or suffix in VIDEOS else ".jpg")


def _place(item: _Found, taken: Collection[Path]) -> Path:
    folder = item.path.parent if item.target is None else (item.target / item.name).parent
    mark, suffix = "_anon" if item.target is None else "", _suffix(item.path)
    place = folder / f"{item.path.stem}{mark}{suffix}"
    # Phones keep IMG_1.HEIC and IMG_1.jpg side by side.
    return folder / f"{item.path.name}{mark}{suffix}" if place in taken and suffix != item.path.suffix else place


def _preview(place: Path) -> Path:
    suffix = ".mp4" if place.suffix.lower() in VIDEOS else ".png"
    return place.with_name(f"{place.stem}_before_after{suffix}")


def _without_outputs_of_others(found: Sequence[_Found], search: _Search, overwrite: bool) -> list[_Found]:
    """Leaves out inputs that an earlier run wrote for others of them: `deid run *.jpg` finds them the second time."""
    wrote: dict[str, Path] = {}
    itself: set[str] = set()  # they would be written onto themselves, which is refused later
    for item in found:
        usual = _place(item, ())
        other = usual.with_name(f"{item.path.name}{usual.stem.removeprefix(item.path.stem)}{usual.suffix}")
        places = [os.path.abspath(place) for name in (usual, other) for place in (name, _preview(name))]
        wrote |= dict.fromkeys(places, item.path)
        itself |= {os.path.abspath(item.path)} & set(places)
    kept = []
    for item in found:
        place = os.path.abspath(item.path)
        source = None if place in itself else wrote.get(place)
        if source is None:
            kept.append(item)
        elif overwrite and not _is_output(item.path, Journal(item.path.parent)):
            raise PlanError(
                f"{item.path}: wanted a picture to anonymize, got the output of {source}, and --overwrite replaces "
                "nothing that was named; leave it out, e.g. by --exclude '*_anon.*'"
            )
        else:
            search.leave(item.path, OUTPUT)
    return kept


def _is_output(path: Path, journal: Journal) -> bool:
    line = journal.line(path)
    return line is not None and line["state"] != "failed"
