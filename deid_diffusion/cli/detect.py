"""Runs `deid detect`: says where faces are in pictures and clips, and changes nothing."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from . import complain
from .options import Parser, add_detect, clip_time


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
    add_detect(parser)
    options = parser.parse_args(argv)
    from deid_diffusion.errors import DeidError
    from deid_diffusion.jobs.plan import plan

    try:
        jobs = plan(options.inputs, Path(f"{options.out}.nowhere")).jobs
    except ValueError as error:
        return complain(str(error), 2)
    failed, part = 0, options.out.with_name(f".{secrets.token_hex(8)}.part")
    detect = _detector(options.detect)
    try:
        with part.open("w", encoding="utf-8") as file:
            for job in jobs:
                try:
                    lines, faces = _clip(job, detect, options) if job.is_clip else _picture(job, detect)
                except (DeidError, OSError) as error:
                    failed += 1
                    complain(str(error), 1)
                    continue
                file.writelines(f"{line}\n" for line in lines)
                print(f"deid: {job.name}: {faces}", file=sys.stderr, flush=True)
        os.replace(part, options.out)
    except OSError as error:
        return complain(f"{options.out}: wanted to write it, got {error.strerror}", 1)
    finally:
        part.unlink(missing_ok=True)
    return 1 if failed else 0


def _detector(name: str) -> Any:
    from deid_diffusion.faces.fast_detect import detector_of

    return detector_of(name)


def _picture(job: Any, detect: Any) -> tuple[list[str], str]:
    """The lines of a picture, and how many faces it has, in words."""
    from dataclasses import replace

    from deid_diffusion.faces.face_list import FaceList, summarized
    from deid_diffusion.faces.sightings import Sighting
    from deid_diffusion.imaging.pictures import load_picture
    from deid_diffusion.weight_files import sha256_of

    image = load_picture(job.in_path).image
    found = [Sighting(replace(face, track_id=number)) for number, face in enumerate(detect(image))]
    height, width = image.shape[:2]
    digest, tracks = sha256_of(job.in_path), summarized([found])
    return list(FaceList(job.name, digest, width, height, tracks=tracks, sightings={0: found}).lines()), _count(found)


def _clip(job: Any, detect: Any, options: Any) -> tuple[list[str], str]:
    """Also the faces that no frame of its own found: the origin says how they are known."""
    from deid_diffusion.jobs.detections import look_through

    listed, stamps = look_through(job.in_path, job.name, detect, options.start_s, options.stop_s)
    return list(listed.lines(stamps)), f"{_count(listed.tracks)} in {listed.frames} frames"


def _count(faces: Any) -> str:
    return f"{len(faces)} face{'s' * (len(faces) != 1)}"
