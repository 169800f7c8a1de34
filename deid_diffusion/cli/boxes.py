"""Reads the boxes that users bring: a JSON or CSV file to boxes by picture."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deid_diffusion.jobs.plan import Boxes, Job, PlanError

FORMS = (
    'JSON {"photo.jpg": [[x0, y0, x1, y1], ...]}, a report of `deid run --report`, or CSV with the columns '
    "file,x0,y0,x1,y1"
)


def with_boxes(jobs: Iterable[Job], path: Path) -> tuple[Job, ...]:
    """Gives each job the boxes that the file has for its name; the others keep their detector.

    Raises:
        PlanError: a file that cannot be read or has another form, a box that is none, a name that no job has.
    """
    jobs = tuple(jobs)
    boxes = read_boxes(path)
    unknown = sorted(boxes.keys() - {job.name for job in jobs})
    if unknown:
        raise PlanError(
            f"{path}: {unknown[0]!r} is none of the {len(jobs)} pictures; wanted names such as {jobs[0].name!r}"
        )
    return tuple(replace(job, boxes=boxes.get(job.name)) for job in jobs)


def read_boxes(path: Path) -> dict[str, Boxes]:
    """Boxes x0 y0 x1 y1 in image pixels, by the pictures' names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_from_json(json.loads(text)) if path.suffix.lower() == ".json" else _from_csv(text))
    except OSError as error:
        raise PlanError(f"{path}: wanted a file of boxes, got {error.strerror}; check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path}: wanted {FORMS}; got something else ({error})") from error
    boxes: dict[str, Boxes] = {}
    for name, box in rows:
        boxes[name] = boxes.get(name, ()) + (() if box is None else (_checked(path, name, box),))
    return boxes


def _from_json(data: Any) -> Iterable[tuple[str, Any]]:
    """Rows (name, box); box None stands for a picture without faces."""
    if "faces" in data and "files" in data:
        yield from ((row["file"], None) for row in data["files"])
        yield from ((row["file"], row["box"]) for row in data["faces"])
        return
    for name, boxes in data.items():
        yield name, None
        yield from ((name, box) for box in boxes)


def _from_csv(text: str) -> Iterable[tuple[str, Any]]:
    for row in csv.DictReader(text.splitlines()):
        yield row["file"], [row[column] for column in ("x0", "y0", "x1", "y1")]


def _checked(path: Path, name: str, box: Any) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = map(float, box)
    except (ValueError, TypeError) as error:
        raise PlanError(f"{path}: {name}: wanted four numbers x0 y0 x1 y1, got {box}") from error
    if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x1 > x0 and y1 > y0):
        raise PlanError(f"{path}: {name}: wanted a box with x1 > x0 and y1 > y0, got {box}")
    return x0, y0, x1, y1
