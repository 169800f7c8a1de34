"""Reads the frames of a video clip one by one, and writes them back with changed pixels.

with ClipReader("clip.mp4") as reader, ClipWriter("clip_anon.mp4", reader.info) as writer:
    for frame in reader:
        image, changed = hide_faces(frame.image)
        writer.write(frame, image, changed)
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..messages import brief, brief_error, brief_path
from .clip_info import BrokenClipError, ClipError, ClipInfo, load_av, probe
from .clip_reader import ClipReader, Frame, layout_of
from .encoders import COUNTING, Coding, muxer, new_encoder
from .joining import join, rehearse
from .planes import Orientation, paste
from .segments import Segments

__all__ = [
    "BrokenClipError",
    "ClipError",
    "ClipInfo",
    "ClipReader",
    "ClipWriter",
    "Coding",
    "Frame",
    "check_writable",
    "probe",
]


def check_writable(path: str | os.PathLike[str], info: ClipInfo, audio: str, coding: Coding) -> None:
    """Finds out before the work whether such a clip can be written.

    Args:
        path: the file to be written.
        info: of the source.
        audio: "keep" or "drop".
        coding: as `ClipWriter` will be told.

    Raises:
        ClipError: it cannot; nothing is left behind.
    """
    path = Path(path)
    kind, trial = muxer(path), path.with_name(f".deid-{path.stem}.trial{path.suffix}")
    if not path.parent.is_dir():
        raise ClipError(f"{brief_path(path)}: wanted to write beside it, got no such folder")
    try:
        rehearse(trial, kind, info, coding, audio == "keep")
    finally:
        trial.unlink(missing_ok=True)


class ClipWriter:
    """Writes a clip with changed pixels: same times, colour, depth, rotation and audio, and no metadata at all.

    Encoded frames are kept in segments beside the output until the file is whole, so that a run that was killed goes
    on at `resume_at()`. Leaving the context without an exception joins them with the audio; with one, no file appears.

    Args:
        path: the file to be written; its ending names the container.
        info: of the source, from `probe` or `ClipReader.info`.
        audio: "keep" to copy the audio packets bit for bit, or "drop".
        coding: encoder, quality, preset, threads.
        start_s, stop_s: those of the reader. Audio outside is left out, and times begin at 0 again.
        key: what else the pixels depend on (settings, weights): segments made under another key are not used again.
        segment_s: length of a segment in seconds.

    Attributes:
        frames_done: frames in the output so far, those of an earlier run included.
        notices: what the user should know.

    Raises:
        ClipError: no such codec, container or folder; nothing is left behind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: ClipInfo,
        *,
        audio: str = "keep",
        coding: Coding | None = None,
        start_s: float | None = None,
        stop_s: float | None = None,
        key: str = "",
        segment_s: float = 10.0,
    ) -> None:
        if audio not in ("keep", "drop"):
            raise ClipError(f'wanted audio "keep" or "drop", got {brief(audio)}')
        self.path, self.info = Path(path), info
        self.notices: list[str] = []
        self._coding, self._audio, self._span = coding or Coding(), audio == "keep", (start_s, stop_s)
        self._kind, self._layout = muxer(self.path), layout_of(info)
        self._orientation = Orientation.from_matrix(info.matrix)
        # By count and not by time, so that a segment ends at the same frame wherever a run was killed.
        self._segment_frames = max(1, round(segment_s * float(info.rate)))
        self._encoder: Any = None
        self._counting = self._coding.encoder(info) in COUNTING
        self._stamps: dict[int, tuple[int, int]] = {}  # times of frames in the encoder, where it counts them
        identity = [str(info.path.resolve()), info.size, info.mtime_ns, load_av().__version__]
        choices = [repr(self._coding), self._kind, self._span, self._segment_frames]
        self._segments = Segments(self.path, {"source": identity, "coding": choices, "key": key})
        try:
            self._rehearse()
        except ClipError:
            if not self._segments.frames:
                self._segments.remove()
            raise
        self.frames_done = self._segments.frames

    def _rehearse(self) -> None:
        """Writes one black frame and the first sound: what a container refuses, or loses without a word, is known
        before the work and not after it."""
        trial = self._segments.folder / f"trial{self.path.suffix}.part"
        try:
            rehearse(trial, self._kind, self.info, self._coding, self._audio)
        finally:
            trial.unlink(missing_ok=True)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        self._encoder = None
        self._segments.abandon()
        if isinstance(error, BrokenClipError):
            self._segments.remove()

    def resume_at(self) -> int | None:
        """The pts up to which whole segments exist from an earlier run, or None: frames after it are to be written."""
        return self._segments.last_pts

    def write(self, frame: Frame, image: np.ndarray | None = None, changed: np.ndarray | None = None) -> None:
        """Appends a frame.

        Args:
            frame: as read. One that an earlier run wrote is passed over.
            image: (H, W, 3) uint8 RGB upright, or None to leave the frame as it is.
            changed: (H, W) bool upright: which pixels of `image` count; None takes those that differ.

        Raises:
            ClipError: a frame is missing between this one and the last, or shapes do not fit.
        """
        if frame.index < self._segments.frames:
            return
        if frame.index != self.frames_done:
            raise ClipError(
                f"wanted frame {self.frames_done}, got frame {frame.index}; write each frame once, in order"
            )
        image, changed = self._fitting(frame, image, changed)
        picture = paste(frame.source, self._layout, image, changed)
        picture.pts, picture.time_base, picture.duration = frame.pts, self.info.time_base, frame.source.duration
        if self._counting:
            picture.pts, picture.time_base, picture.duration = frame.index, 1 / self.info.rate, 1
            self._stamps[frame.index] = frame.pts, frame.source.duration
        self._encode(picture)
        self.frames_done += 1
        if self.frames_done % self._segment_frames == 0:
            self._end_segment()

    def _fitting(
        self, frame: Frame, image: np.ndarray | None, changed: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Both in the coded orientation."""
        if image is None:
            return None, None
        if image.shape != frame.image.shape or image.dtype != np.uint8:
            raise ClipError(f"wanted an image of shape {frame.image.shape} uint8, got {brief(image)}")
        changed = (image != frame.image).any(2) if changed is None else changed
        if changed.shape != image.shape[:2] or changed.dtype != bool:
            raise ClipError(f"wanted a mask of shape {image.shape[:2]} bool, got {brief(changed)}")
        return self._orientation.coded(image), self._orientation.coded(changed)

    def _encode(self, picture: Any) -> None:
        av = load_av()
        try:
            if self._encoder is None:
                self._encoder = new_encoder(self.info, self._coding, self._kind)
            for packet in self._encoder.encode(picture):
                if self._counting:
                    packet.pts, packet.duration = self._stamps.pop(packet.pts)
                self._segments.add(packet)
        except av.FFmpegError as error:
            raise ClipError(f"{brief_path(self.path)}: wanted to encode, got {brief_error(error.strerror)}") from None
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> ClipError:
        return ClipError(f"{brief_path(self.path)}: wanted to write a segment, got {error.strerror}")

    def _end_segment(self) -> None:
        if self._encoder is not None:
            self._encode(None)
            self._encoder = None
        try:
            self._segments.close()
        except OSError as error:
            raise self._full(error) from error

    def finish(self) -> None:
        """Joins segments and audio into the file, checks it, and removes the segments.

        Raises:
            ClipError: no frame was written, or the file does not hold what was written.
        """
        self._end_segment()
        if not self.frames_done:
            self._segments.remove()
            raise ClipError(f"{brief_path(self.path)}: wanted frames to write, got none")
        self.notices += join(self._segments, self.path, self._kind, self.info, self._coding, self._audio, self._span)
        self._segments.remove()
