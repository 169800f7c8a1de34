"""Reads the boxes that users bring, a list in JSON or CSV or the report of an earlier run, into the jobs.

A file that cannot be what it claims to be is refused whole: a box in other units, or of another picture, hides a few
pixels somewhere and leaves the face.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from deid_diffusion.faces.detect import LEAST_SIDE
from deid_diffusion.imaging.pictures import picture_size
from deid_diffusion.jobs.plan import Job, PlanError
from deid_diffusion.messages import brief
from deid_diffusion.weight_files import sha256_of

FORMS = (
    'JSON {"photo.jpg": [[x0, y0, x1, y1], ...]}, CSV with the header file,x0,y0,x1,y1 or file,x,y,w,h, '
    "or a report of `deid run --report`"
)
HEADERS: dict[tuple[str, ...], str] = {("file", "x0", "y0", "x1", "y1"): "xyxy", ("file", "x", "y", "w", "h"): "xywh"}
WORDS = {"xyxy": "x0 y0 x1 y1", "xywh": "x y width height"}
SLACK = 1.0  # pixels that a box may reach out of its picture: what rounding does
Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxList:
    """What a file of boxes says, by the names that it gives the pictures.

    Attributes:
        boxes: of each face, in pixels; None where the file leaves it to the detector.
        form: "xyxy" or "xywh"; empty when the file does not say.
        hashes: sha256 of the pictures; of a report only.
    """

    boxes: Mapping[str, Sequence[Four] | None]
    form: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


def with_boxes(jobs: Iterable[Job], path: Path, form: str | None = None) -> tuple[tuple[Job, ...], list[str]]:
    """Gives each job the boxes that the file has for its name; the others keep their detector.

    Args:
        form: "xyxy" or "xywh", what the user says that the numbers are; needed where they could be either.

    Returns:
        The jobs, and what the user should be told.

    Raises:
        PlanError: the file cannot be read, has another form, names no picture or one twice, is of other pictures, or
            has a box that cannot be one in its picture.
    """
    jobs = tuple(jobs)
    try:
        listed = read_boxes(path)
        if form and listed.form not in ("", form):
            raise ValueError(f"wanted boxes as {form}, got a file with {listed.form}; leave the format out")
        pictures = _pictures(listed, jobs)
        for name, digest in listed.hashes.items():
            _check_same(pictures[name], digest)
        boxes = _in_pixels(listed, pictures, form or listed.form)
    except ValueError as error:
        raise PlanError(f"{path}: {error}") from error
    hashes = listed.hashes
    done = {pictures[name]: replace(pictures[name], boxes=own, sha256=hashes.get(name, "")) for name, own in boxes}
    jobs = tuple(done.get(job, job) for job in jobs)
    return jobs, notes_on(path, jobs)


def read_boxes(path: Path) -> BoxList:
    """Reads the file, and checks all that can be checked without the pictures.

    Raises:
        ValueError: it cannot be read or has another form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return _from_csv(text)
        data = json.loads(text, object_pairs_hook=_without_twins)
        return _from_report(data) if "faces" in data and "files" in data else _from_mapping(data)
    except OSError as error:
        raise ValueError(f"wanted a file of boxes, got {error.strerror}; check the path") from error
    except _Refused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError(f"wanted {FORMS}; got something else ({error})") from error


class _Refused(ValueError):
    """The form is right, and what it says is not."""


def _from_mapping(data: Any) -> BoxList:
    if not data:
        raise _Refused("wanted boxes, got an empty list; leave --boxes out to have the faces detected")
    for name, boxes in data.items():
        if not isinstance(boxes, list):
            raise _Refused(f"{name}: wanted a list of boxes, got {brief(boxes)}; [] says that there is no face")
    return BoxList({name: [_four(name, box) for box in boxes] for name, boxes in data.items()})


def _from_csv(text: str) -> BoxList:
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    form = HEADERS[tuple(header)]
    boxes: dict[str, list[Four]] = {}
    for name, *box in filter(None, rows):
        try:
            numbers: Any = [float(cell.replace("_", "?")) for cell in box]
        except ValueError:
            numbers = box
        boxes.setdefault(name, []).append(_four(name, numbers))
    if not boxes:
        raise _Refused("wanted boxes, got a header alone; leave --boxes out to have the faces detected")
    return BoxList(boxes, form)


def _from_report(data: Any) -> BoxList:
    """Boxes of what a run found. What failed or had no face says nothing of the picture, and is detected anew.

    Faces that were kept, for `--except` or `--only`, are boxes like the others: who is to be kept is said anew.
    """
    if data["complete"] is not True:
        raise _Refused("wanted the report of a whole run, got that of one that was stopped; let it go on to its end")
    faces: dict[str, list[Four]] = {}
    for row in data["faces"]:
        faces.setdefault(row["file"], []).append(_four(row["file"], row["box"]))
    done = [row for row in data["files"] if not row["error"]]
    names = [row["file"] for row in done]
    if len(set(names)) < len(names):
        raise _Refused("wanted every picture once, got one twice; run its inputs one by one")
    if not all(row.get("sha256") for row in done):
        raise _Refused("wanted a report with the sha256 of every picture, got one without; make it anew by `deid run`")
    if {row["file"]: row["faces"] for row in done if row["faces"]} != {n: len(boxes) for n, boxes in faces.items()}:
        raise _Refused("wanted as many faces as the files are said to have, got others; give changed boxes as a list")
    hashes = {row["file"]: row["sha256"] for row in done}
    return BoxList({name: faces.get(name) for name in names}, "xyxy", hashes)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(f"wanted every name once, got {name!r} twice; put its boxes into one list")
        found[name] = value
    return found


def _four(name: Any, box: Any) -> Four:
    fits = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    # Infinite, not a number and beyond any picture: none of these is below the limit.
    if not (isinstance(name, str) and fits and all(abs(value) < 1e9 for value in box)):
        raise _Refused(f"{name}: wanted four numbers in pixels, got {brief(box)}")
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def key_of(name: str) -> str:
    """One spelling for all: NFC, no "./"; file systems and tools differ in both."""
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())


def _pictures(listed: BoxList, jobs: Sequence[Job]) -> dict[str, Job]:
    """The job that each name of the list is of."""
    fitting: dict[str, list[Job]] = {}
    for job in jobs:
        fitting.setdefault(key_of(job.name), []).append(job)
    spelled: dict[str, str] = {}
    for name in listed.boxes:
        key = key_of(name)
        if key in spelled:
            raise ValueError(f"wanted every name once, got {spelled[key]!r} and {name!r}; put the boxes under one")
        if key not in fitting:
            raise ValueError(
                f"{name!r} is none of the {len(jobs)} pictures; wanted names such as {jobs[0].name!r}, below the input"
            )
        if len(fitting[key]) > 1:
            places = " and ".join(str(job.in_path) for job in fitting[key][:2])
            raise ValueError(f"{name!r} could be {places}; run them one by one")
        spelled[key] = name
    return {name: fitting[key][0] for key, name in spelled.items()}


def _check_same(job: Job, digest: str) -> None:
    try:
        same = sha256_of(job.in_path) == digest
    except OSError:
        same = False
    if not same:
        raise ValueError(
            f"wanted the pictures that the report is of, got another {job.name} (its sha256 differs): {job.in_path}; "
            "run without --boxes"
        )


def _in_pixels(listed: BoxList, pictures: Mapping[str, Job], form: str) -> list[tuple[str, tuple[Four, ...] | None]]:
    """Boxes x0 y0 x1 y1 by name, once they are known to be boxes in pictures of these sizes.

    A picture that cannot be read has none: it fails when its turn comes, and should it be mended by then, what lies
    in it is detected.
    """
    named = [(name, boxes) for name, boxes in listed.boxes.items() if boxes is not None]
    sizes = {name: picture_size(pictures[name].in_path) for name, _ in named}
    known = [(name, size, box) for name, boxes in named if (size := sizes[name]) for box in boxes]
    # The detector has narrower boxes at a border than anybody draws.
    least = 0.98 if listed.hashes else LEAST_SIDE
    faults = {
        how: next((fault for name, size, box in known if (fault := _fault(name, box, size, how, least))), "")
        for how in ([form] if form else HEADERS.values())
    }
    if fault := faults[form or "xyxy"]:
        hint = "they fit x y width height: if that is what they are, say --boxes-format xywh"
        raise ValueError(f"{fault}; {'nothing was written' if form or faults['xywh'] else hint}")
    if known and not form and not faults["xywh"]:
        raise ValueError(
            "wanted boxes that can be one thing only, got such that fit their pictures as x0 y0 x1 y1 and as "
            "x y width height; say --boxes-format xyxy or xywh"
        )
    form = form or "xyxy"
    found: dict[str, tuple[Four, ...] | None] = dict.fromkeys(listed.boxes)
    for name, boxes in named:
        if size := sizes[name]:
            found[name] = tuple(_wide_enough(_corners(box, form), size) for box in boxes)
    return list(found.items())


def _corners(box: Four, form: str) -> Four:
    x0, y0, x1, y1 = box
    return (x0, y0, x0 + x1, y0 + y1) if form == "xywh" else box


def _fault(name: str, box: Four, size: tuple[int, int], form: str, least: float) -> str:
    """Why four numbers are no box in a picture of this size; empty when they can be one."""
    (x0, y0, x1, y1), (width, height) = _corners(box, form), size
    if max(map(abs, box)) <= 1:
        wanted = "pixels, got what looks like fractions: multiply by width and height"
    elif not (x1 > x0 and y1 > y0):
        wanted = "x1 > x0 and y1 > y0" if form == "xyxy" else "width and height above 0"
    elif x1 - x0 < min(least, width) or y1 - y0 < min(least, height):
        wanted = f"a box at least {least:g} px wide and high"
    elif min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        wanted = "a box inside the picture: clip it, and see that it was made for this size, upright"
    else:
        return ""
    numbers = " ".join(f"{value:g}" for value in box)
    return f"{name}, {width} x {height}: wanted {wanted}; got {numbers} as {WORDS[form]}"


def _wide_enough(box: Four, size: tuple[int, int]) -> Four:
    """Grown to the least side that a box may have, inside the picture."""
    grown = []
    for low, high, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        low = min(low, max(side - LEAST_SIDE, 0))
        grown.append((low, max(high, low + min(LEAST_SIDE, side))))
    return grown[0][0], grown[1][0], grown[0][1], grown[1][1]


def notes_on(path: Path, jobs: Sequence[Job]) -> list[str]:
    without = [job.name for job in jobs if job.boxes is None and job.listed is None]
    empty = [job.name for job in jobs if job.boxes == () or (job.is_clip and job.listed and not job.listed.sightings)]
    notes = []
    if without:
        notes.append(f"{path} has no boxes for {_some(without)}: their faces are detected")
    if empty:
        notes.append(f"{path} says that no face is in {_some(empty)}: published unchanged, unsearched")
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
