"""Says what a video file holds: the picture's size, times, colour, and the streams beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import DeidError
from ..messages import brief_error, brief_path, not_a_path

# Transfer functions of ITU-T H.273 table 3 for high dynamic range.
HDR = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2


class ClipError(DeidError, ValueError):
    """A clip cannot be read or written; says what was wanted, what came, and what to do."""


class BrokenClipError(ClipError):
    """A clip stops, or cannot be decoded, before its end; a second run on the same file would stop there too."""


def load_av() -> ModuleType:
    """PyAV, of the extra `video`.

    Raises:
        ClipError: it is not installed, or too old to write a display rotation; names the extra.
    """
    try:
        import av

        found = av.__version__
    except ImportError as error:
        found = f"none ({brief_error(error)})"
    if not found[:1].isdigit() or int(found.split(".")[0]) < 18:
        raise ClipError(
            f"video needs PyAV 18 or later, got {found}; pip install 'deid-diffusion[video]' with Python 3.11 or later"
        )
    return av


@dataclass(frozen=True)
class ClipInfo:
    """What `probe` found. Numbers of colour are those of ITU-T H.273; 2 is unspecified.

    Attributes:
        path: the file.
        width, height: of the pictures as coded, before the display rotation, in pixels.
        matrix: the display matrix, nine integers as FFmpeg has them; None where there is none.
        frames: as the container says, or None where it does not say; an estimate.
        duration_s: of the whole file in seconds, or None.
        start_pts: of the first frame in units of `time_base`, or None where unknown.
        time_base: seconds of one tick of a pts.
        rate: average frames a second.
        variable_rate: whether frames are not evenly spaced, as far as the container's index tells.
        codec: FFmpeg's name of the video codec: "h264".
        profile: of the codec, as FFmpeg names it, or None.
        pix_fmt: FFmpeg's name of the pixel format: "yuv420p10le".
        bit_depth: of a sample of the first component.
        interlaced: whether the first frame is two fields.
        color_range: 1 limited, 2 full, 0 unspecified.
        color_primaries, color_trc, color_matrix: H.273 codes.
        sample_aspect: width to height of a pixel; None is unspecified.
        audio_streams: how many there are.
        dropped: streams, chapters and attachments that never reach an output, in words.
        container: FFmpeg's names of the format, with commas.
        size, mtime_ns: of the file, to know it again.
    """

    path: Path
    width: int
    height: int
    matrix: tuple[int, ...] | None
    frames: int | None
    duration_s: float | None
    start_pts: int | None
    time_base: Fraction
    rate: Fraction
    variable_rate: bool
    codec: str
    profile: str | None
    pix_fmt: str
    bit_depth: int
    interlaced: bool
    color_range: int
    color_primaries: int
    color_trc: int
    color_matrix: int
    sample_aspect: Fraction | None
    audio_streams: int
    dropped: tuple[str, ...]
    container: str
    size: int
    mtime_ns: int

    @property
    def rotation_deg(self) -> int:
        """Clockwise turn that makes the coded picture upright: 0, 90, 180 or 270. A mirror image is not counted."""
        if self.matrix is None:
            return 0
        a, b, _, c, d = self.matrix[:5]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return 0 if d > 0 else 180
        return 90 if b > 0 else 270

    @property
    def hdr(self) -> str | None:
        """ "PQ" or "HLG", or None for standard range."""
        return HDR.get(self.color_trc)


def probe(path: str | os.PathLike[str]) -> ClipInfo:
    """What a video file holds. Decodes its first frame.

    Raises:
        ClipError: no such file, no video, not one frame in it, or PyAV is missing.
    """
    with open_clip(path) as container:
        return describe(container, Path(path))


def open_clip(path: str | os.PathLike[str]) -> Any:
    """An opened `av` input container; to be closed.

    Raises:
        ClipError: no such file, or no video file.
    """
    av = load_av()
    if not_a_path(path):
        raise ClipError(f"wanted the path of a video file, got {not_a_path(path)}")
    name = brief_path(path)
    if not os.path.isfile(path):
        raise ClipError(f"{name}: wanted a video file, got {'a folder' if os.path.isdir(path) else 'nothing there'}")
    try:
        # The protocol is said aloud, or a name with a colon in it would be taken for an address.
        return av.open(f"file:{os.fspath(path)}", metadata_errors="ignore")
    except av.FFmpegError as error:
        raise ClipError(
            f"{name}: wanted a video file, got what FFmpeg does not open ({brief_error(error.strerror)}); is it whole?"
        ) from None


def video_stream(container: Any, path: Path) -> Any:
    """The first video stream that is no cover picture.

    Args:
        container: an open `av` input container.
        path: of its file, for the message.

    Raises:
        ClipError: there is none, it is a picture, or nothing decodes it.
    """
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    name = brief_path(path)
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        kind = container.format.name.removesuffix("_pipe")
        raise ClipError(f"{name}: wanted a clip, got a picture ({kind}); give it a picture's name")
    if not streams:
        raise ClipError(f"{name}: wanted a video stream, got {_kinds(container)}")
    if streams[0].codec_context is None:
        raise ClipError(f"{name}: wanted a codec that FFmpeg decodes, got an unknown one; convert it")
    return streams[0]


def describe(container: Any, path: Path) -> ClipInfo:
    """`probe` on an opened container, which has to be reopened or sought before its frames are read.

    Args:
        container: an open `av` input container.
        path: of its file.

    Raises:
        ClipError: it has no video stream, or not one frame in it.
        BrokenClipError: the first frame cannot be decoded.
    """
    av = load_av()
    stream = video_stream(container, path)
    try:
        frame = next(container.decode(stream), None)
    except av.FFmpegError as error:
        raise BrokenClipError(
            f"{brief_path(path)}: wanted {stream.codec_context.name} frames, got none that can be decoded "
            f"({brief_error(error.strerror)})"
        ) from None
    if frame is None:
        raise ClipError(f"{brief_path(path)}: wanted frames, got a video stream without one")
    context, stat = stream.codec_context, os.stat(path)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    aspect = stream.sample_aspect_ratio
    return ClipInfo(
        path=path,
        width=frame.width,
        height=frame.height,
        matrix=_matrix(bytes(matrix)) if matrix is not None else None,
        frames=stream.frames or None,
        duration_s=container.duration / 1e6 if container.duration else None,
        start_pts=frame.pts if frame.pts is not None else stream.start_time,
        time_base=stream.time_base,
        rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        variable_rate=_is_uneven(stream),
        codec=context.name,
        profile=context.profile,
        pix_fmt=frame.format.name,
        bit_depth=frame.format.components[0].bits,
        interlaced=frame.interlaced_frame,
        color_range=int(frame.color_range),
        color_primaries=int(frame.color_primaries),
        color_trc=int(frame.color_trc),
        color_matrix=int(frame.colorspace),
        sample_aspect=aspect or None,
        audio_streams=len(container.streams.audio),
        dropped=_dropped(container, stream),
        container=container.format.name,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def _matrix(data: bytes) -> tuple[int, ...] | None:
    """Nine integers, or None for one that changes nothing."""
    numbers = tuple(int.from_bytes(data[4 * i : 4 * i + 4], "little", signed=True) for i in range(9))
    return None if numbers[:2] == (1 << 16, 0) and numbers[3:5] == (0, 1 << 16) else numbers


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _is_uneven(stream: Any) -> bool:
    """Frames that differ in length by more than a tick or a rounding to milliseconds."""
    times = [entry.timestamp for entry in stream.index_entries]
    steps = {after - before for before, after in pairwise(times)}
    if len(times) >= max(stream.frames, 3) and steps:
        return max(steps) - min(steps) > 1
    return bool(stream.average_rate and stream.base_rate and abs(stream.average_rate / stream.base_rate - 1) > 0.01)


def _kinds(container: Any) -> str:
    return ", ".join(dict.fromkeys(stream.type for stream in container.streams)) or "no stream"


def _dropped(container: Any, taken: Any) -> tuple[str, ...]:
    """What is not carried on, in words: ("video stream 3 (h264)", "chapters")."""
    words = []
    for stream in container.streams:
        if stream.index != taken.index and stream.type != "audio":
            kind = "cover picture" if stream.type == "video" and _is_cover(stream) else f"{stream.type} stream"
            codec = f" ({stream.codec_context.name})" if stream.codec_context is not None else ""
            words.append(f"{kind} {stream.index}{codec}")
    return (*words, *(["chapters"] if container.chapters() else []))
