"""Anonymizes clips: looks through them first, then gives every track one new face."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .anonymizer import FaceAnonymizer
from .clip_options import ClipOptions
from .clip_result import ClipResult
from .clip_run import ClipRun
from .faces.face_list import FaceList, FaceListError, check_same, face_list_of
from .faces.face_list_reader import read_face_lists
from .faces.saved_looks import SavedLooks
from .imaging.pictures import PIXEL_LIMIT
from .imaging.segments import LOOKS, segments_folder
from .imaging.threads import Behind, prefetched
from .messages import brief, brief_path
from .methods.protocol import find_method
from .methods.swap import same_target
from .result import AnonymizedImage
from .seeds import checked_seed
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
        seed: int | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
        key: str = "",
        boxes: str | PathLike | FaceList | None = None,
        preview: str | PathLike | None = None,
        **changes: Any,
    ) -> ClipResult:
        """Anonymizes a file.

        Args:
            path, out: from where, to where; nothing half-written is left under the latter name.
            seed: the same seed gives the same clip; None draws one that nobody knows.
            settings: as for pictures; `candidates` does not count.
            progress: called after each frame.
            key: what the result depends on, in a word, so that a run that was stopped need neither look nor encode
                again; empty to begin anew.
            boxes: where faces are, as `deid detect` wrote it and somebody edited it, instead of looking for them.
            preview: a clip to be written that shows before and after side by side, for your eyes only.
            changes: single fields of Settings.

        Raises:
            ValueError: settings that clips or the loaded pipeline cannot follow.
            ClipError: a clip that cannot be read or written.
            FaceListError: boxes that cannot be read, or are of another clip.
        """
        path, out = Path(path), Path(out)
        listed = boxes if isinstance(boxes, FaceList | None) else face_list_of(read_face_lists(boxes), path)
        if listed is not None:
            check_same(listed, path, self.options.start_s, self.options.stop_s)
        run = self._begin(seed, settings, changes, listed)
        saved = run.scan.saved = self._saved(path, out) if key and listed is None else None
        try:
            self._look(path, out, run, progress)
        except Exception:
            if saved is not None:
                saved.remove()
            raise
        finally:
            if saved is not None:
                saved.close()
        key = key or secrets.token_hex(8)
        while True:
            try:
                return self._write(path, out, run, progress, key, None if preview is None else Path(preview))
            except _TooSimilar as error:
                # Frame by frame they passed; the mean of all frames would still tell who it is.
                run.hidden |= error.tracks
                key = f"{key} less {sorted(error.tracks)}"

    def _look(self, path: Path, out: Path, run: ClipRun, progress: Progress | None) -> None:
        """The first pass."""
        from .imaging.clips import ClipError, ClipReader, check_writable

        options, limit = self.options, run.settings.max_pixels or PIXEL_LIMIT
        whole = options.start_s is None and options.stop_s is None
        with ClipReader(path, options.start_s, options.stop_s) as frames:
            width, height = frames.info.width, frames.info.height
            if width * height > limit:
                raise ClipError(
                    f"{brief_path(path)}: wanted frames of at most {limit:,} pixels, got {width} x {height}; "
                    "--max-pixels or Settings.max_pixels sets another limit"
                )
            check_writable(out, frames.info, options.audio, self._coding)
            for frame in prefetched(frames):
                run.look(frame.image, frame.time_s, frame.repeated)
                if progress is not None:
                    progress("look", frame.index + 1, frames.info.frames if whole else None)
        run.scan.finish()
        listed = run.scan.listed
        if listed is not None:
            wanted, got = (listed.width, listed.height, listed.frames), (*run.scan.size, len(run.scan.linker.times_s))
            if wanted != got:
                raise FaceListError(
                    "wanted the clip that the boxes are of, {} x {} and {} frames, got {} x {} and {}; run "
                    "`deid detect` on this one".format(*wanted, *got)
                )

    @property
    def _coding(self) -> Any:
        from .imaging.clips import Coding

        return Coding(codec=self.options.codec, crf=self.options.crf)

    def _saved(self, path: Path, out: Path) -> SavedLooks | None:
        """What an earlier run found in this clip; None where nothing can be kept, of which others say more."""
        from . import __version__

        if not path.is_file() or not out.parent.is_dir():
            return None
        stat, span = os.stat(path), (self.options.start_s, self.options.stop_s)
        source = str(path.resolve()), stat.st_size, stat.st_mtime_ns, span
        return SavedLooks(segments_folder(out) / LOOKS, repr((__version__, *source, repr(self.anonymizer.detect))))

    def _write(
        self, path: Path, out: Path, run: ClipRun, progress: Progress | None, key: str, preview: Path | None
    ) -> ClipResult:
        """The second pass."""
        from .imaging.before_after import BeforeAfterWriter
        from .imaging.clips import ClipReader, ClipWriter

        options = self.options
        part: dict[str, Any] = {"start_s": options.start_s, "stop_s": options.stop_s}
        run.begin()
        more = {"audio": options.audio, "coding": self._coding, "key": key}
        wants = run.needs if preview is None else None
        with ClipReader(path, **part, wants=wants) as frames, ExitStack() as stack:
            # First in, last out: the preview appears once the clip is whole.
            both = None if preview is None else stack.enter_context(BeforeAfterWriter(preview, frames.info))
            writer = stack.enter_context(ClipWriter(out, frames.info, **more, **part))
            write = stack.enter_context(Behind(writer.write))
            for frame, result in run.results((frame.image, frame) for frame in prefetched(frames)):
                write(frame, result.image, result.changed_mask)
                if both is not None:
                    both.add(frame, result.image)
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
        seed: int | None = None,
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
                run.look(image, len(run.scan.linker.times_s) / fps)
                waiting.append(image)
                if len(waiting) > ahead:
                    run.settle(number)
                    yield waiting.popleft(), None
                    number += 1
                    run.scan.forget(number - 1)
            run.settle(number)
            yield from ((image, None) for image in waiting)

        for _, result in run.results(looked()):
            # What is shown cannot be called back: from here on it is hidden.
            run.hidden |= run.too_similar()
            yield result

    def _begin(
        self,
        seed: int | None,
        settings: Settings | None,
        changes: Mapping[str, Any],
        listed: FaceList | None = None,
    ) -> ClipRun:
        seed = checked_seed(seed)
        settings = replace(settings or Settings(), **changes)
        check_for_clips(settings)
        self.anonymizer.check(settings)
        settings = same_target(replace(settings, candidates=1), self.anonymizer.bank, seed)
        return ClipRun(self.anonymizer, seed, settings, self.options, listed)


def check_for_clips(settings: Settings) -> None:
    """Refuses settings that clips cannot follow.

    Args:
        settings: of a run.

    Raises:
        ValueError: there is one; says which, and what to do.
    """
    if (name := find_method(settings.method).name) in ("k-same", "average"):
        raise ValueError(
            f"{name} averages people of a set of pictures and does not follow motion; take inpaint, blur, pixelate "
            "or blank for clips"
        )
    if name == "perturb":
        raise ValueError("perturb changes pictures one by one, and frames would betray each other; take inpaint")
    if settings.panorama:
        raise ValueError(
            "panorama is for pictures: in clips, faces across the seam of 360 degrees are not looked for; leave it "
            "out, and hide what lies on the seam by boxes"
        )
    if settings.keep_metadata:
        raise ValueError(
            f"keep_metadata is for pictures, got {brief(settings.keep_metadata)}: clips are written without any; "
            "leave it out for them"
        )


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
