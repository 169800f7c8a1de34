"""Reads clips for judging, by code that no anonymizer here shares: frames, audio packets, tags."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deid_diffusion.evaluation.pairing import list_files
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.messages import brief_error, brief_path

CLIP_ENDINGS = frozenset(".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .3gp".split())
# What containers write by themselves: it tells which library wrote, and of nobody.
_TECHNICAL = frozenset("major_brand minor_version compatible_brands encoder language vendor_id duration".split())
_HANDLERS = frozenset(("VideoHandler", "SoundHandler", "SubtitleHandler", "DataHandler", ""))


@dataclass(eq=False)
class Sound:
    """The packets of one audio stream.

    Attributes:
        digests: first 8 bytes of each packet's sha256, in order.
        times_s: of each, from the first frame of the picture.
    """

    digests: list[bytes] = field(default_factory=list)
    times_s: array = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, eq=False)
class ClipFile:
    """What a file holds beside its frames.

    Attributes:
        path: of the file.
        codec, pix_fmt: FFmpeg's names of the picture's codec and pixel format.
        rotation_deg: of the display matrix, as PyAV gives it.
        aspect: width to height of a pixel, as a word: "1", or "unspecified".
        colour: range, primaries, transfer and matrix by the numbers of ITU-T H.273.
        sounds: its audio streams.
        tags: names of metadata that no container writes by itself, of all streams and chapters.
        others: streams beside the picture and the sound, and chapters, in words.
    """

    path: Path
    codec: str
    pix_fmt: str
    rotation_deg: int
    aspect: str
    colour: tuple[int, ...]
    sounds: tuple[Sound, ...]
    tags: tuple[str, ...]
    others: tuple[str, ...]


def list_clips(folder: Path) -> dict[str, Path]:
    """Every clip below a folder, by its relative path without ending; empty where there is none.

    Raises:
        EvaluationError: no such folder, or two clips with one name.
    """
    return list_files(folder, CLIP_ENDINGS)


def inspect_clip(path: Path) -> ClipFile:
    """Reads all packets of a file and decodes its first frame.

    Raises:
        EvaluationError: it is no readable clip.
    """
    av = _load_av()
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            stream = _picture_stream(container, path)
            first = next(container.decode(stream), None)
            if first is None:
                raise EvaluationError(f"{brief_path(path)}: wanted frames, got a video stream without one")
            start_s = float(first.pts * stream.time_base) if first.pts is not None else 0.0
            aspect = stream.sample_aspect_ratio
            names = (f"color{name}" for name in ("_range", "_primaries", "_trc", "space"))
            facts: dict[str, Any] = {
                "codec": stream.codec_context.name, "pix_fmt": first.format.name, "rotation_deg": first.rotation,
                "aspect": str(aspect) if aspect else "unspecified",
                "colour": tuple(int(getattr(first, name)) for name in names),
                "tags": _tags(container), "others": _others(container, stream),
            }  # fmt: skip
        # Opened again: what was decoded of it is gone from the packets.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            return ClipFile(path, sounds=_sounds(container, start_s), **facts)
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from error


def read_frames(
    path: Path, start_s: float | None = None, stop_s: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a clip, upright, one at a time.

    Args:
        path: of the clip.
        start_s, stop_s: only frames at or after, and before, these times of the file.

    Yields:
        time in seconds as the file has it, and (H, W, 3) uint8 RGB.

    Raises:
        EvaluationError: it cannot be read, or not to its end.
    """
    av = _load_av()
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            stream = _picture_stream(container, path)
            stream.thread_type, stream.thread_count = "NONE", 1
            for number, frame in enumerate(container.decode(stream)):
                rate = stream.average_rate or stream.guessed_rate or 25
                time_s = float(frame.pts * stream.time_base if frame.pts is not None else number / rate)
                if stop_s is not None and time_s >= stop_s:
                    return
                if start_s is None or time_s >= start_s:
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    yield time_s, np.ascontiguousarray(turned)
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from error


def _load_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise EvaluationError('judging clips needs PyAV: pip install "deid-diffusion[video]"') from error
    return av


def _picture_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & type(stream.disposition).attached_pic and stream.codec_context is not None:
            return stream
    raise EvaluationError(f"{brief_path(path)}: wanted a video stream that FFmpeg decodes, got none")


def _unreadable(path: Path, error: Exception) -> EvaluationError:
    what = brief_error(getattr(error, "strerror", None) or error)
    return EvaluationError(f"{brief_path(path)}: wanted a readable clip, got: {what}; is it whole?")


def _sounds(container: Any, start_s: float) -> tuple[Sound, ...]:
    sounds = {stream.index: Sound() for stream in container.streams.audio}
    for packet in container.demux(list(container.streams.audio)) if sounds else ():
        if packet.size:
            sound, stamp = sounds[packet.stream.index], packet.pts if packet.pts is not None else packet.dts
            sound.digests.append(hashlib.sha256(bytes(packet)).digest()[:8])
            sound.times_s.append(float((stamp or 0) * packet.time_base) - start_s)
    return tuple(sounds.values())


def _tags(container: Any) -> tuple[str, ...]:
    holders = [container.metadata, *(stream.metadata for stream in container.streams)]
    holders += [chapter["metadata"] for chapter in container.chapters()]
    names = {name for holder in holders for name, value in holder.items() if not _is_technical(name, value)}
    return tuple(sorted(names))


def _is_technical(name: str, value: str) -> bool:
    plain = name.lower().partition("-")[0]
    # "VideoHandler" is what a library writes where nobody wrote anything.
    return plain in _TECHNICAL or (plain == "handler_name" and value in _HANDLERS)


def _others(container: Any, taken: Any) -> tuple[str, ...]:
    found = [
        f"{stream.type} stream" for stream in container.streams
        if stream.index != taken.index and stream.type != "audio"
    ]  # fmt: skip
    return (*found, *(["chapters"] if container.chapters() else []))
