"""Anonymizes clips: looks through them first, then gives every track one new face."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .anonymizer import FaceAnonymizer
from .clip_result import ClipResult
from .clip_run import ClipOptions, ClipRun
from .messages import brief
from .methods.protocol import find_method
from .methods.swap import same_target
from .result import AnonymizedImage
from .settings import Settings

Progress = Callable[[str, int, int | None], None]  # "look" or "write", frames so far, frames of the file if known


class VideoAnonymizer:
    """Anonymizes clips with a FaceAnonymizer's models: same person, same stranger, from the first frame to the last.

    Memory does not grow with the length but for a few numbers a face and frame.
    """

    def __init__(self, anonymizer: FaceAnonymizer, options: ClipOptions | None = None) -> None:
        """Nothing is loaded or copied.

        Args:
            anonymizer: its models are used.
            options: what is chosen for all clips; None for the defaults.
        """
        self.anonymizer, self.options = anonymizer, options or ClipOptions()

    def __call__(
        self,
        path: str | PathLike,
        out: str | PathLike,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
        key: str = "",
        **changes: Any,
    ) -> ClipResult:
        """Anonymizes a file.

        Args:
            path, out: from where, to where; nothing half-written is left under the latter name.
            seed: the same seed gives the same clip.
            settings: as for pictures; `candidates` does not count.
            progress: called after each frame.
            key: what the result depends on, in a word, so that a run that was stopped need not encode again what it
                had; empty to begin anew.
            changes: single fields of Settings.

        Raises:
            ValueError: settings that clips or the loaded pipeline cannot follow.
            ClipError: a clip that cannot be read or written.
        """
        from .imaging.clips import ClipReader

        run, options = self._begin(seed, settings, changes), self.options
        with ClipReader(path, options.start_s, options.stop_s) as frames:
            for frame in frames:
                run.scan.add(frame.image, frame.time_s, frame.repeated)
                if progress is not None:
                    whole = options.start_s is None and options.stop_s is None
                    progress("look", frame.index + 1, frames.info.frames if whole else None)
        run.scan.finish()
        key = key or secrets.token_hex(8)
        while True:
            try:
                return self._write(Path(path), Path(out), run, progress, key)
            except _TooSimilar as error:
                # Frame by frame they passed; the mean of all frames would still tell who it is.
                run.hidden |= error.tracks
                key = f"{key} less {sorted(error.tracks)}"

    def _write(self, path: Path, out: Path, run: ClipRun, progress: Progress | None, key: str) -> ClipResult:
        """The second pass."""
        from .imaging.clips import ClipReader, ClipWriter, Coding

        options, coding = self.options, Coding(codec=self.options.codec, crf=self.options.crf)
        part: dict[str, Any] = {"start_s": options.start_s, "stop_s": options.stop_s}
        run.begin()
        with (
            ClipReader(path, **part) as frames,
            ClipWriter(out, frames.info, audio=options.audio, coding=coding, key=key, **part) as writer,
        ):
            for frame, result in run.results((frame.image, frame) for frame in frames):
                writer.write(frame, result.image, result.changed_mask)
                if progress is not None:
                    progress("write", frame.index + 1, len(run.scan.linker.times_s))
            if similar := run.too_similar():
                raise _TooSimilar(similar)
        notes = [*frames.notices, *writer.notices]
        if frames.info.audio_streams and options.audio == "keep":
            notes.append("the sound was copied: a voice identifies; --audio drop leaves it out")
        return run.finish(out, notes)

    def stream(
        self,
        frames: Iterable[np.ndarray],
        seed: int = 0,
        settings: Settings | None = None,
        fps: float = 30.0,
        **changes: Any,
    ) -> Iterator[AnonymizedImage]:
        """Anonymizes frames as they come, `options.ahead_s` behind them.

        Args:
            frames: (H, W, 3) uint8 RGB, all of one size.
            seed, settings, changes: as in `__call__`.
            fps: frames a second.

        Yields:
            the frames in their order. A person who comes back is recognised; what is known of a track after the
            look-ahead settles what it becomes.

        Raises:
            ValueError: settings that clips cannot follow, frames that are none.
        """
        run = self._begin(seed, settings, changes)
        ahead = max(1, round(self.options.ahead_s * fps))

        def looked() -> Iterator[tuple[np.ndarray, None]]:
            waiting: deque[np.ndarray] = deque()
            number = 0
            for image in frames:
                _check_frame(image, run.scan.size)
                run.scan.add(image, len(run.scan.linker.times_s) / fps)
                waiting.append(image)
                if len(waiting) > ahead:
                    run.settle(number)
                    yield waiting.popleft(), None
                    number += 1
                    run.scan.forget(number - 1)
            run.settle(number)
            yield from ((image, None) for image in waiting)

        for _, result in run.results(looked()):
            yield result

    def _begin(self, seed: int, settings: Settings | None, changes: Mapping[str, Any]) -> ClipRun:
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0 on, got {brief(seed)}")
        settings = replace(settings or Settings(), **changes)
        if find_method(settings.method).name == "k-same":
            raise ValueError(
                "k-same averages people of a set of pictures and does not follow motion; take inpaint, blur, pixelate "
                "or blank for clips"
            )
        if find_method(settings.method).name == "perturb":
            raise ValueError("perturb changes pictures one by one, and frames would betray each other; take inpaint")
        self.anonymizer.check(settings)
        settings = same_target(replace(settings, candidates=1), self.anonymizer.bank, seed)
        return ClipRun(self.anonymizer, seed, settings, self.options)


class _TooSimilar(Exception):
    """The mean of a track's generated faces is still the source: what was written must not be kept."""

    def __init__(self, tracks: set[int]) -> None:
        super().__init__(f"{len(tracks)} tracks")
        self.tracks = tracks


def _check_frame(image: np.ndarray, size: tuple[int, int]) -> None:
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"frames must be (H, W, 3) uint8 RGB, got {brief(image)}")
    if size != (0, 0) and (shape[1], shape[0]) != size:
        raise ValueError(f"frames must all be {size[0]} x {size[1]}, got {shape[1]} x {shape[0]}")
