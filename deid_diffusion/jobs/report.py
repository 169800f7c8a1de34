"""Writes the report of a run: one line a face, and what made it."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """
    results = sorted(results, key=lambda result: result.job.name)
    files = [
        {
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
        for result in results
    ]
    told = [(result.job.name, face) for result in results for face in result.faces]
    faces = [{"file": name, **{k: v for k, v in face.items() if seeds or k != "seed"}} for name, face in told]
    left_out = [{"path": name, "reason": reason} for name, reason in skipped[:SKIPPED]]
    about = {**about, "skipped_total": len(skipped)}
    parts = [f"{json.dumps(name)}: {json.dumps(value, default=str)}" for name, value in about.items()]
    parts += [
        f'"{name}": {_lines(rows)}' for name, rows in (("files", files), ("faces", faces), ("skipped", left_out))
    ]
    if wrong := unfit_place(path):
        raise OSError(errno.EEXIST, f"{wrong} in its place")
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "[" + ",".join(f"\n {json.dumps(row, allow_nan=False)}" for row in rows) + ("\n]" if rows else "]")
