"""Writes a clip that shows before and after side by side: for your eyes, not for publishing."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..messages import brief_error, brief_path
from .clip_info import ClipError, ClipInfo, load_av
from .encoders import muxer

HEIGHT = 720  # pixels, at most


class BeforeAfterWriter:
    """A context for frames in order; without an exception in it the file appears whole, with one it does not."""

    def __init__(self, path: Path, info: ClipInfo) -> None:
        """Opens a file beside the wanted one.

        Args:
            path: the clip to be written, H.264 without sound.
            info: of the source.

        Raises:
            ClipError: it cannot be written.
        """
        self.path, self.info = path, info
        self._part = path.with_name(f".deid-{path.stem}.part{path.suffix}")
        self._start: int | None = None
        av = load_av()
        self._stream: Any = None  # its size is that of the first frame
        try:
            self._container = av.open(str(self._part), "w", format=muxer(path))
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def __enter__(self) -> BeforeAfterWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if error is None:
                os.replace(self._part, self.path)
        except (load_av().FFmpegError, OSError) as failure:
            if error is None:
                raise self._failed(failure) from None
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, frame: Any, after: np.ndarray) -> None:
        """Appends a frame.

        Args:
            frame: a `Frame` as read.
            after: (H, W, 3) uint8 RGB, what became of it.

        Raises:
            ClipError: it cannot be written.
        """
        av = load_av()
        both = np.concatenate([frame.image, after], axis=1)
        scale = min(HEIGHT / both.shape[0], 1.0)
        size = [max(2, round(side * scale / 2) * 2) for side in both.shape[1::-1]]
        both = cv2.resize(both, size, interpolation=cv2.INTER_AREA) if size != list(both.shape[1::-1]) else both
        picture = av.VideoFrame.from_ndarray(both, "rgb24").reformat(format="yuv420p", dst_colorspace=1)
        self._start = frame.pts if self._start is None else self._start
        picture.pts, picture.time_base = frame.pts - self._start, self.info.time_base
        try:
            self._container.mux(self._opened(size).encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def _opened(self, size: list[int]) -> Any:
        if self._stream is None:
            options = {"crf": "20", "preset": "veryfast"}
            self._stream = self._container.add_stream("libx264", rate=self.info.rate, options=options)
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = *size, "yuv420p"
            context.color_range = context.colorspace = 1
            self._stream.time_base = context.time_base = self.info.time_base
        return self._stream

    def _failed(self, error: Exception) -> ClipError:
        what = brief_error(getattr(error, "strerror", None) or error)
        return ClipError(f"{brief_path(self.path)}: wanted to write before and after side by side, got {what}")
