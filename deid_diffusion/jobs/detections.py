"""Looks through a clip for faces and changes nothing: what `deid detect` writes, and the page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..faces.face_list import FaceList, summarized
from ..faces.scan import Scan
from ..weight_files import sha256_of

Seen = Callable[[Any, int | None], None]  # a Frame, and how many there are in all if the file says


def look_through(
    path: Path,
    name: str,
    detect: Any,
    start_s: float | None = None,
    stop_s: float | None = None,
    seen: Seen | None = None,
) -> tuple[FaceList, dict[int, dict[str, Any]]]:
    """Finds the faces of a clip, also those that no frame of its own shows.

    Args:
        path: of the clip.
        name: as the list calls it.
        detect: a detector; its `glance` is for most frames, if it has one.
        start_s, stop_s: the part of the clip that is looked at.
        seen: is told of each frame once it was looked at; what it raises ends the look.

    Returns:
        the list, and by frame its "pts" and "time_s".

    Raises:
        ClipError: it cannot be read.
    """
    from ..imaging.clips import ClipReader

    scan, stamps, digest = (
        Scan(getattr(detect, "glance", detect), detect),
        dict[int, dict[str, Any]](),
        sha256_of(path),
    )
    with ClipReader(path, start_s, stop_s) as frames:
        count = frames.info.frames if start_s is None and stop_s is None else None
        for frame in frames:
            scan.add(frame.image, frame.time_s, frame.repeated)
            stamps[frame.index] = {"pts": frame.pts, "time_s": round(frame.time_s, 4)}
            if seen is not None:
                seen(frame, count)
    scan.finish()
    rows = scan.sightings()
    tracks = summarized(rows, scan.linker.times_s)
    found, failed = dict(enumerate(rows)), tuple(sorted(scan.failed))
    return FaceList(name, digest, *scan.size, len(rows), start_s, stop_s, failed, tracks, found), stamps
