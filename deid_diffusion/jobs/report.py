"""Writes the report of a run: one line a face, and what made it."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..imaging.places import unfit_place
from .run import JobResult

SKIPPED = 1000  # rows about files that were left out
CONFIDENTIAL = "with its seeds, this report lets others make the same faces again: keep it to yourself"
_OF_CLIPS = ("frames", "blurred_frames", "notes", "review")


def write_report(
    path: Path,
    results: Sequence[JobResult],
    about: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
    seeds: bool = False,
) -> None:
    """Writes the report, whole or not at all.

    Args:
        path: where to; an existing report is replaced.
        results: of the jobs that were done, in any order.
        about: what stands at its top: versions, weights, settings, whether all was done.
        skipped: path and reason of what was left out; all are counted, and the first 1,000 named.
        seeds: whether the seeds of files and faces are told; `about` must then call the report confidential. A file
            that an earlier, finished run made has none: it was not kept.

    Raises:
        OSError: it cannot be written there.
    """
    names = [result.job.name for result in results]
    places = sorted(range(len(names)), key=names.__getitem__)
    left_out = [{"path": name, "reason": reason} for name, reason in skipped[:SKIPPED]]
    about = {**about, "skipped_total": len(skipped)}
    if wrong := unfit_place(path):
        raise OSError(errno.EEXIST, f"{wrong} in its place")
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write("{\n")
            for name, value in about.items():
                file.write(f"{json.dumps(name)}: {json.dumps(value, default=str)},\n")
            # A row at a time: there may be more of them than fit into memory.
            _write_rows(file, "files", (_file_row(results[place], seeds) for place in places), ",\n")
            _write_rows(file, "faces", (row for place in places for row in _face_rows(results[place], seeds)), ",\n")
            _write_rows(file, "skipped", left_out, "\n}\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _file_row(result: JobResult, seeds: bool) -> dict[str, Any]:
    return {
        "file": result.job.name,
        **{name: result.picture.get(name) for name in ("width", "height", "sha256")},
        **{name: result.picture[name] for name in _OF_CLIPS if name in result.picture},
        "output": str(result.job.out_path) if result.ok else None,
        **({"seed": None if result.forgotten_seed else result.job.seed} if seeds else {}),
        "faces": len(result.faces),
        "seconds": {stage: round(value, 4) for stage, value in result.seconds.items()},
        "notices": result.picture.get("notices", []),
        "error": result.error,
    }


def _face_rows(result: JobResult, seeds: bool) -> Iterator[dict[str, Any]]:
    for face in result.faces:
        yield {"file": result.job.name, **{k: v for k, v in face.items() if seeds or k != "seed"}}


def _write_rows(file: TextIO, name: str, rows: Iterable[Mapping[str, Any]], end: str) -> None:
    file.write(f'"{name}": [')
    between = "\n "
    for row in rows:
        file.write(between + json.dumps(row, allow_nan=False))
        between = ",\n "
    file.write(("]" if between == "\n " else "\n]") + end)
