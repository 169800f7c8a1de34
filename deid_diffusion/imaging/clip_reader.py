"""Decodes the frames of a video clip one by one, upright and in order of their times."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import brief, brief_error, brief_path, brief_repr
from .clip_info import BrokenClipError, ClipError, ClipInfo, load_av, open_clip, probe, video_stream
from .planes import Layout, Orientation, same, to_rgb


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """One picture of a clip.

    Attributes:
        index: from 0, counted from the first frame that the reader gives.
        pts: time in ticks of the source's `ClipInfo.time_base`.
        time_s: the same in seconds.
        image: (H, W, 3) uint8 RGB, upright. Not to be written to: a repeated frame shares it with the one before.
        repeated: whether every sample equals the frame before.
        source: the decoded `av.VideoFrame`, in the coded orientation.
    """

    index: int
    pts: int
    time_s: float
    image: np.ndarray
    repeated: bool
    source: Any

    __repr__ = brief_repr


class ClipReader:
    """The frames of the first video stream, in order of their times, decoded as they are asked for.

    Args:
        path: the file.
        start_s, stop_s: only frames at or after, and before, these times in seconds; None is no limit.
        after_pts: only frames later than this: `ClipWriter.resume_at()`.
        first_index: the first frame's index: `ClipWriter.frames_done`.
        threads: of the decoder; 0 lets it choose.
        wants: whether somebody will look at the frame of that index; the others come without their picture, which is
            black. None for all.

    Attributes:
        info: what `probe` says.
        notices: what the user should know: streams that are dropped, times that were moved.

    Raises:
        ClipError: it cannot be read, or stores colour in a way that cannot be written back.
        BrokenClipError: (while iterating) it breaks off or cannot be decoded, and where.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start_s: float | None = None,
        stop_s: float | None = None,
        *,
        after_pts: int | None = None,
        first_index: int = 0,
        threads: int = 1,
        wants: Callable[[int], bool] | None = None,
    ) -> None:
        self.path, self.info = Path(path), probe(path)
        self._name = brief_path(self.path)
        if start_s is not None and stop_s is not None and not start_s < stop_s:
            raise ClipError(
                f"{self._name}: wanted a start before the stop, got {brief(start_s)} s to {brief(stop_s)} s"
            )
        self._layout = layout_of(self.info)
        self._orientation = Orientation.from_matrix(self.info.matrix)
        self._stop_s = None if stop_s is None else _exact(stop_s)
        self._threads, self._first_index, self._wants = threads, first_index, wants
        tick = self.info.time_base
        begin = None if start_s is None else -int(-_exact(start_s) // tick)  # rounded up
        later = None if after_pts is None else after_pts + 1
        self._begin = max((pts for pts in (begin, later) if pts is not None), default=None)
        self.notices = [f"{self._name}: dropped {', '.join(self.info.dropped)}"] if self.info.dropped else []
        if self.info.hdr:
            self.notices.append(
                f"{self._name}: HDR ({self.info.hdr}): faces are looked at and made in a view of standard range, and "
                "put back at its brightness; the clip stays HDR, without mastering data"
            )
        if self.info.interlaced:
            self.notices.append(f"{self._name}: its fields are looked at and written as whole frames")
        self._is_open = True

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all reading: an iterator that is still held raises from here on."""
        self._is_open = False

    def __iter__(self) -> Iterator[Frame]:
        self._check_open()
        before: Frame | None = None
        shown = False  # whether the frame before has its picture
        for index, (pts, decoded) in enumerate(self._wanted(), self._first_index):
            repeated = before is not None and same(decoded, before.source)
            if before is None or not (repeated and shown):
                shown = self._wants is None or self._wants(index)
                image = self._upright(decoded) if shown else self._black()
            else:
                image = before.image
            before = Frame(index, pts, float(pts * self.info.time_base), image, repeated, decoded)
            yield before

    def _black(self) -> np.ndarray:
        return self._orientation.upright(np.broadcast_to(np.uint8(0), (self.info.height, self.info.width, 3)))

    def _upright(self, decoded: Any) -> np.ndarray:
        # In memory order: torch takes no mirrored views.
        return np.ascontiguousarray(self._orientation.upright(to_rgb(decoded, self._layout)))

    def _wanted(self) -> Iterator[tuple[int, Any]]:
        """Decoded frames from the start to the stop, each with its pts."""
        moved = damaged = 0
        last: int | None = None
        for pts, decoded in self._decoded():
            if pts is None or (last is not None and pts <= last):
                # No container holds two frames of one time; where there are no times at all, the rate makes them.
                step = 1 if pts is not None else max(1, round(1 / (self.info.rate * self.info.time_base)))
                pts, moved = (0 if last is None else last + step), moved + 1
            last = pts
            if self._stop_s is not None and pts * self.info.time_base >= self._stop_s:
                return
            if self._begin is None or pts >= self._begin:
                self._check(decoded, pts)
                damaged += decoded.is_corrupt
                yield pts, decoded
        self._note("frames damaged in the file, taken as decoded", damaged)
        self._note("frames without a time of their own, or not a later one", moved)

    def _note(self, what: str, count: int) -> None:
        notice = f"{self._name}: {what}: {count}"
        if count and notice not in self.notices:
            self.notices.append(notice)

    def _check(self, frame: Any, pts: int) -> None:
        got, info = (frame.width, frame.height, frame.format.name), self.info
        if got != (info.width, info.height, info.pix_fmt):
            raise ClipError(
                f"{self._name}: wanted {info.width} x {info.height} {info.pix_fmt} throughout, got {got[0]} x "
                f"{got[1]} {got[2]} at {float(pts * info.time_base):.2f} s; split it there"
            )

    def _decoded(self) -> Iterator[tuple[int | None, Any]]:
        """All frames from the key frame before the start on, each with its pts or None."""
        frames = self._from(seek=self._begin is not None)
        first = next(frames, None)
        if self._begin is not None and (first is None or first[0] is None or first[0] > self._begin):
            # The index led past the start: read from the beginning.
            frames = self._from(seek=False)
            first = next(frames, None)
        if first is not None:
            yield first
            yield from frames

    def _from(self, seek: bool) -> Iterator[tuple[int | None, Any]]:
        av = load_av()
        # Each iterator has a container of its own: PyAV crashes on streams of one that was closed.
        with open_clip(self.path) as container:
            stream = video_stream(container, self.path)
            stream.thread_count = self._threads
            stream.thread_type = "NONE" if self._threads == 1 else "AUTO"
            end = _End(self.info, stream, seek)
            stamps: deque[int | None] = deque(maxlen=None if self.info.container == "avi" else 0)
            try:
                if seek:
                    container.seek(self._begin, stream=stream)
                for packet in container.demux():
                    end.see(packet, packet.stream.index == stream.index)
                    if packet.stream.index != stream.index:
                        continue
                    if packet.size:
                        stamps.append(packet.dts)
                    for frame in packet.decode():
                        # AVI knows no time but that of decoding; the frames shown have the same times in order.
                        yield (stamps.popleft() if self.info.container == "avi" and stamps else frame.pts), frame
                        self._check_open()
            except av.FFmpegError as error:
                raise end.broken(self._name, f"{brief_error(error.strerror)} after") from None
            if not end.whole:
                raise end.broken(self._name, "a stream that breaks off after")

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClipError(f"{self._name}: wanted an open clip, got one that was closed; open it again")


def _exact(seconds: float) -> Fraction:
    """As it was written down: of 0.1 a tenth. Divided as floats, 4 s lie a tick after a frame at 4 s."""
    return Fraction(str(seconds))


class _End:
    """Whether a file was read to the end that it promises, from its beginning or (`seek`) from somewhere else."""

    def __init__(self, info: ClipInfo, stream: Any, seek: bool) -> None:
        self._info, self._packets, self._corrupt = info, 0, False
        index = stream.index_entries
        # Only an index of every frame tells where the last one is.
        is_full = bool(info.frames and len(index) >= info.frames)
        self._last_dts = index[len(index) - 1].timestamp if is_full else None
        self._count = info.frames if not seek else None
        self._dts = 0
        self.time_s = 0.0  # of the end of the latest packet of any stream

    def see(self, packet: Any, is_video: bool) -> None:
        if not packet.size:
            return
        self._packets += is_video
        self._corrupt |= packet.is_corrupt
        if is_video and packet.dts is not None:
            self._dts = max(self._dts, packet.dts)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            self.time_s = max(self.time_s, float((stamp + (packet.duration or 0)) * packet.time_base))

    def broken(self, name: str, got: str) -> BrokenClipError:
        """The error that says up to where."""
        until = f"{self._info.duration_s:.2f} s" if self._info.duration_s else "the end"
        return BrokenClipError(
            f"{name}: wanted {self._info.codec} frames up to {until}, got {got} {self.time_s:.2f} s; repair it, or "
            "take the whole part with a stop time"
        )

    @property
    def whole(self) -> bool:
        """A count of frames and an index are exact where a container has them; a duration may be off by a packet."""
        if self._corrupt or self._packets < (self._count or 0):
            return False
        if self._last_dts is not None:
            return self._dts >= self._last_dts
        return bool(self._count) or self.time_s >= (self._info.duration_s or 0) - max(0.1, 2 / float(self._info.rate))


def layout_of(info: ClipInfo) -> Layout:
    """How a clip stores colour.

    Raises:
        ClipError: in a way that cannot be written back.
    """
    try:
        return Layout.of(info.pix_fmt, info.color_range, info.color_matrix, info.width, info.height, info.color_trc)
    except ValueError as error:
        raise ClipError(
            f"{brief_path(info.path)}: {error}; convert it, for example with ffmpeg -pix_fmt yuv420p"
        ) from None
