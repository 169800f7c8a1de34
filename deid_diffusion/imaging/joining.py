"""Joins encoded video and the source's audio packets into one file, and checks what it holds."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..messages import brief_error, brief_path
from .clip_info import ClipError, ClipInfo, load_av, open_clip, video_stream
from .encoders import Coding, open_output, refusal
from .segments import Segments

Span = tuple[float | None, float | None]
# These hold any time of a frame; others count frames, or begin at a time of their own.
_TIMED = ("mp4", "mov", "matroska", "webm")


def join(
    segments: Segments, path: Path, kind: str, info: ClipInfo, coding: Coding, keep_audio: bool, span: Span
) -> list[str]:
    """Writes the file and returns notices.

    Args:
        segments: all whole.
        path: the file; replaced in one step.
        kind: FFmpeg's name of its format.
        info: of the source.
        coding: as the segments were encoded.
        keep_audio: whether the source's audio packets are copied.
        span: start and stop in seconds; with a start, times begin at 0.

    Raises:
        ClipError: the source has changed, or the file does not hold what went into it; nothing is replaced.
    """
    av, part = load_av(), segments.folder / f"joined{path.suffix}.part"
    stat = os.stat(info.path)
    if (stat.st_size, stat.st_mtime_ns) != (info.size, info.mtime_ns):
        raise ClipError(
            f"{brief_path(info.path)}: wanted the file as it was at the start, got a changed one; run again"
        )
    times = sorted(packet.pts for packet in segments.packets(with_data=False))
    shift = times[0] if span[0] is not None else 0
    if span == (None, None):
        _check_end(info, times[-1])
    try:
        with open_clip(info.path) as source:
            audio = list(source.streams.audio) if keep_audio else []
            container, stream, copies = open_output(part, kind, info, coding, audio)
            with container:
                begin, end = shift * info.time_base, span[1]
                sound = _audio(source, audio, copies, begin if span[0] is not None else None, end)
                counts = [0] * len(copies)
                for _, packet in heapq.merge(
                    _video(segments, stream, info, times, shift), sound, key=lambda item: item[0]
                ):
                    if packet.stream is not stream:
                        counts[copies.index(packet.stream)] += 1
                    container.mux(packet)
        notices = _check(part, path, kind, info, [time - shift for time in times], counts)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except av.FFmpegError as error:
        raise ClipError(
            f"{brief_path(path)}: wanted to join the segments, got {brief_error(error.strerror)}"
        ) from None
    except OSError as error:
        raise ClipError(f"{brief_path(path)}: wanted to write it, got {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return notices


def rehearse(part: Path, kind: str, info: ClipInfo, coding: Coding, keep_audio: bool) -> None:
    """Writes a frame and the first packet of each audio stream, and looks at what comes back.

    Args:
        part: the file to be written for it, which the caller removes.
        kind: FFmpeg's name of the format.
        info: of the source.
        coding: how to encode.
        keep_audio: whether the source's audio packets are to be copied.

    Raises:
        ClipError: encoder or container refuse it, or lose a stream without a word.
    """
    av = load_av()
    with open_clip(info.path) as source:
        audio = list(source.streams.audio) if keep_audio else []
        container, stream, copies = open_output(part, kind, info, coding, audio)
        waiting = dict(zip((sound.index for sound in audio), copies, strict=True))
        try:
            with container:
                frame = av.VideoFrame(info.width, info.height, info.pix_fmt)
                frame.pts, frame.time_base = 0, stream.codec_context.time_base
                for packet in stream.encode(frame) + stream.encode(None):
                    packet.dts = packet.pts  # x265 invents one for a frame that is alone
                    container.mux(packet)
                for packet in source.demux(audio) if audio else ():
                    if packet.size and packet.stream.index in waiting:
                        packet.stream = waiting.pop(packet.stream.index)
                        container.mux(packet)
                    if not waiting:
                        break
        except av.FFmpegError as error:
            raise refusal(info, coding, kind, audio, error) from None
        types = _types(part)
        if types != ["video", *["audio"] * len(audio)]:
            raise refusal(info, coding, kind, audio, f"a file of {', '.join(types)}")


def _types(part: Path) -> list[str]:
    with open_clip(part) as container:
        return [stream.type for stream in container.streams]


def _check_end(info: ClipInfo, last: int) -> None:
    """Raises ClipError where the source goes on after the last frame that was written."""
    with open_clip(info.path) as source:
        packets = source.demux(video_stream(source, info.path))
        shown = (p.pts for p in packets if p.size and p.pts is not None and not p.is_discard)
        left = float((max(shown, default=last) - last) * info.time_base)
    # The last frame or two may be too damaged to be decoded.
    if left > max(0.1, 2 / float(info.rate)):
        raise ClipError(
            f"{brief_path(info.path)}: wanted all frames, got none of the last {left:.2f} s; write each one"
        )


def _video(
    segments: Segments, stream: Any, info: ClipInfo, times: list[int], shift: int
) -> Iterator[tuple[Fraction, Any]]:
    """Packets with the time at which each is decoded.

    Each segment's encoder guessed those times for itself, and at a variable rate the guesses of two overlap; so they
    are made anew of all presentation times: the sorted ones, later by as many frames as any is reordered.
    """
    av = load_av()
    delay, last_duration = _order(segments, times)
    # MP4 counts a track's length from the first decoding time to the end of the frame that is decoded last.
    lead = times[-1] - times[len(times) - 1 - delay]
    for number, stored in enumerate(segments.packets()):
        packet = av.Packet(stored.data)
        dts = times[number - delay] if number >= delay else times[0] - lead * (delay - number) // delay
        packet.pts, packet.dts, packet.is_keyframe = stored.pts - shift, dts - shift, stored.is_key
        packet.duration = last_duration if number == len(times) - 1 else stored.duration
        packet.time_base, packet.stream = info.time_base, stream
        yield (dts - shift) * info.time_base, packet


def _order(segments: Segments, times: list[int]) -> tuple[int, int]:
    """The least delay, in frames, with which none is decoded after it is shown; and how long the last one is shown."""
    place = {time: number for number, time in enumerate(times)}
    delay, last_duration = 0, 0
    for number, packet in enumerate(segments.packets(with_data=False)):
        delay = max(delay, number - place[packet.pts])
        last_duration = packet.duration if packet.pts == times[-1] else last_duration
    return delay, last_duration


def _audio(
    source: Any, streams: list[Any], copies: list[Any], begin: Fraction | None, end: float | None
) -> Iterator[tuple[Fraction, Any]]:
    """The source's audio packets between two times, moved so that the first time is 0."""
    if not streams:
        return
    if begin:
        source.seek(int(begin * 1_000_000))
    for packet in source.demux(streams):
        if not packet.size or packet.dts is None:
            continue
        time = packet.dts * packet.time_base
        if (begin is not None and time < begin) or (end is not None and time >= end):
            continue
        if begin:
            moved = round(begin / packet.time_base)
            packet.dts -= moved
            packet.pts = packet.pts - moved if packet.pts is not None else None
        number = streams.index(packet.stream)
        packet.stream = copies[number]
        yield time - (begin or 0), packet


def _check(part: Path, path: Path, kind: str, info: ClipInfo, times: list[int], counts: list[int]) -> list[str]:
    """Reads the joined file's packets again: every frame at its time, every audio packet, nothing else."""
    with open_clip(part) as container:
        stream = video_stream(container, part)
        got: list[Fraction] = []
        sounds = {sound.index: 0 for sound in container.streams.audio}
        for packet in container.demux():
            if packet.size and packet.stream.index == stream.index:
                got.append((packet.pts if packet.pts is not None else packet.dts) * packet.time_base)
            elif packet.size and packet.stream.index in sounds:
                sounds[packet.stream.index] += 1
        tick, others = stream.time_base, len(container.streams) - 1 - len(sounds)
    wanted = [time * info.time_base for time in times]
    offset = 0 if kind in _TIMED or not got else min(got) - wanted[0]
    worst = max((abs(a - b - offset) for a, b in zip(sorted(got), wanted, strict=False)), default=0)
    if len(got) != len(wanted) or worst > tick:
        raise ClipError(
            f"{brief_path(path)}: wanted {len(wanted)} frames at their times, got {len(got)}, up to "
            f"{float(worst):.3f} s off; {kind} may not hold such times, write .mp4 or .mkv"
        )
    # A stream with nothing between these times is left out by some containers, QuickTime's among them.
    if [count for count in sounds.values() if count] != [count for count in counts if count] or others:
        raise ClipError(
            f"{brief_path(path)}: wanted {counts} audio packets and no other stream, got {list(sounds.values())} and "
            f"{others} others; drop the audio or write another container"
        )
    if not worst:
        return []
    ticks = f"{kind} counts time in steps of {float(tick) * 1e3:g} ms"
    return [f"{brief_path(path)}: {ticks}; frames moved by up to {float(worst) * 1e3:.2f} ms"]
