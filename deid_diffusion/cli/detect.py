"""Runs `deid detect`: says where faces are in pictures and clips, and changes nothing."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import complain
from .options import Parser, clip_time


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 all read, 1 something could not be, 2 nothing could be begun."""
    parser = Parser("deid detect", description="Writes where faces are, a JSON line a face and frame.")
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="picture, clip or folder")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines to write; an existing file is replaced",
    )
    add("--from", type=clip_time, dest="start_s", metavar="TIME", help="where to begin in clips")
    add("--to", type=clip_time, dest="stop_s", metavar="TIME", help="where to stop")
    options = parser.parse_args(argv)
    from deid_diffusion.errors import DeidError
    from deid_diffusion.jobs.plan import plan

    try:
        jobs = plan(options.inputs, Path(f"{options.out}.nowhere")).jobs
    except ValueError as error:
        return complain(str(error), 2)
    failed, part = 0, options.out.with_name(f".{secrets.token_hex(8)}.part")
    detect = _detector()
    try:
        with part.open("w", encoding="utf-8") as file:
            for job in jobs:
                try:
                    rows = list(_clip(job.in_path, detect, options) if job.is_clip else _picture(job.in_path, detect))
                except DeidError as error:
                    failed += 1
                    complain(str(error), 1)
                    continue
                file.writelines(f"{json.dumps({'file': job.name, **row})}\n" for row in rows)
                print(f"deid: {job.name}: {len(rows)} faces", file=sys.stderr, flush=True)
        os.replace(part, options.out)
    except OSError as error:
        return complain(f"{options.out}: wanted to write it, got {error.strerror}", 1)
    finally:
        part.unlink(missing_ok=True)
    return 1 if failed else 0


def _detector() -> Any:
    from deid_diffusion.faces.detect import CenterFaceDetector

    return CenterFaceDetector()


def _picture(path: Path, detect: Any) -> Iterator[dict[str, Any]]:
    from deid_diffusion.imaging.pictures import load_picture

    for face in detect(load_picture(path).image):
        yield _line(face)


def _clip(path: Path, detect: Any, options: Any) -> Iterator[dict[str, Any]]:
    """Also the faces that no frame of its own found: the origin says how they are known."""
    from deid_diffusion.faces.scan import Scan
    from deid_diffusion.imaging.clips import ClipReader

    scan, stamps = Scan(getattr(detect, "glance", detect), detect), []
    with ClipReader(path, options.start_s, options.stop_s) as frames:
        for frame in frames:
            scan.add(frame.image, frame.time_s, frame.repeated)
            stamps.append({"frame": frame.index, "pts": frame.pts, "time_s": round(frame.time_s, 4)})
    scan.finish()
    for stamp, sightings in zip(stamps, scan.sightings(), strict=True):
        for one in sightings:
            yield {**stamp, **_line(one.face), "track_id": one.face.track_id, "origin": one.origin.value}


def _line(face: Any) -> dict[str, Any]:
    points = [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks]
    return {"box": [round(float(v), 2) for v in face.box], "points": points, "score": round(float(face.score), 4)}
