"""Works off one clip of many files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import DeidError
from ..video import ClipOptions, Progress, VideoAnonymizer
from .journal import fingerprint
from .plan import Job

Watch = Callable[[Job], Progress]  # what is told of a clip's progress


class BoxesError(DeidError, ValueError):
    """Boxes were given for a clip."""


def do_clip(
    job: Job, digest: str, anonymize: Any, settings: Any, options: ClipOptions | None, watch: Watch | None
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, Any]]:
    """Reads, anonymizes and writes one clip, whole or not at all.

    Args:
        job: what to do.
        digest: sha256 of its input.
        anonymize: a FaceAnonymizer.
        settings: its Settings; defaults when None.
        options: of the clip.
        watch: is told how far it is.

    Returns:
        a line of the report for each track, seconds by stage, and what else is to be known.

    Raises:
        ClipError, ValueError: it cannot be done, with the reason.
    """
    if job.boxes is not None:
        raise BoxesError(
            f"{job.in_path}: boxes x0 y0 x1 y1 are of pictures, and this is a clip; give what `deid detect` writes"
        )
    job.out_path.parent.mkdir(parents=True, exist_ok=True)
    listed = [] if job.listed is None else [job.listed.describe()]
    key = fingerprint(digest, settings, anonymize.versions(), options, job.seed, *listed)
    progress = None if watch is None else watch(job)
    video = VideoAnonymizer(anonymize, options)
    given = job.in_path, job.out_path, job.seed, settings, progress, key, job.listed, job.preview_path
    result = video(*given)
    about = {
        "width": result.width,
        "height": result.height,
        "sha256": digest,
        "frames": result.frames,
        "blurred_frames": result.blurred_frames,
        "notes": result.notes,
        "review": [span.to_json() for span in result.review],
    }
    return [track.to_json(seeds=True) for track in result.faces], dict(result.seconds), about
