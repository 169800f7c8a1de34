"""Reads the faces of a clip's frames: who they are, what they do, and where the frame before showed them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .anonymizer import FaceAnonymizer
from .faces.geometry import SIZE, apply
from .faces.task import FaceTask
from .settings import Settings
from .timing import Timing
from .types import Face

NEAR = 0.08  # of a crop's side: a face that moved no further since the frame before is looked for where it was


class ClipReading:
    """Reads faces of one frame after the other.

    Attributes:
        latest: what was read since somebody put a list there; None where nobody asks.
    """

    def __init__(self, anonymizer: FaceAnonymizer, settings: Settings, timing: Timing) -> None:
        """Nothing was read yet.

        Args:
            anonymizer: reads.
            settings: people to keep count.
            timing: where the seconds are counted.
        """
        self.anonymizer, self.settings, self.timing = anonymizer, settings, timing
        self.latest: list[FaceTask] | None = None
        self._before: dict[int | None, FaceTask] = {}

    def forget(self) -> None:
        """Before frames that do not follow those before."""
        self._before = {}

    def __call__(self, image: np.ndarray, faces: Sequence[Face], places: Sequence[int]) -> dict[int, FaceTask]:
        """Everything about some faces.

        Args:
            image: (H, W, 3) uint8 RGB.
            faces: all of it.
            places: of those to read.

        Returns:
            their analyzed tasks by place, as from `FaceAnonymizer.read`, eyes and mouth read from close-ups.
        """
        with self.timing("read"):
            done = self.anonymizer.read(image, faces, self.settings, places, moving=True)
        if self.latest is not None:
            self.latest += done.values()
        return done

    def follow(self, image: np.ndarray, faces: Sequence[Face], places: Sequence[int]) -> dict[int, FaceTask]:
        """The same, but for who they are, which their tracks say, of the next frame: in less time.

        Args:
            image, faces, places: as in `__call__`; faces with their tracks' numbers.

        Returns:
            likewise, without embeddings.
        """
        with self.timing("read"):
            starts = {place: start for place in places if (start := self._start(faces[place])) is not None}
            found = self.anonymizer.read(image, faces, self.settings, places, starts, embeds=False)
            lost = [place for place in starts if found[place].crop is None]
            if lost:
                found |= self.anonymizer.read(image, faces, self.settings, lost, embeds=False)
            for place, task in found.items():
                self._before.pop(faces[place].track_id, None)
                if task.crop is not None:
                    self._before[faces[place].track_id] = task
            return found

    def _start(self, face: Face) -> np.ndarray | None:
        """The (2, 3) crop_from_image of SIZE px, of the frame before; None where the face is elsewhere by now."""
        before = self._before.get(face.track_id)
        if before is None or before.crop is None:
            return None
        side, matrix = len(before.crop.mask), before.crop.crop_from_image
        now, then = (apply(matrix, one.box.reshape(2, 2).astype(float)) for one in (face, before.face))
        return matrix * (SIZE / side) if np.abs(now - then).max() <= NEAR * side else None
