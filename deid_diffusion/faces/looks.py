"""Decides how a frame of a clip is looked at for faces: thoroughly, quickly, or only where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..types import Face
from .tracks import GAP_S, Linker, centre_of, iou

# Between two full looks; less than `GAP_S`, so that a face that only they find is followed from one to the next, and
# hidden before the first.
LOOK_S = 0.9
# Likewise, while no face is known; a track that is surely a face is held for as long before its first detection.
IDLE_LOOK_S = 1.0
LOST_S = 0.2  # between two for a face that comes and goes, as hands do: until then it is interpolated
# Between two quick looks at the whole frame; shorter than what a track that is found then goes on before its first
# detection. In other frames only known faces are looked at, where they should be, and large ones looked for, unless
# known ones are so many that it is quicker to look at everything, or one of them is not seen there clearly.
GLANCE_S = 0.1
FEW = 6
Find = Callable[[np.ndarray], list[Face]]
Follow = Callable[[np.ndarray, Sequence[Face]], list[Face]]


class Looks:
    """Looks at one frame after the other.

    Attributes:
        seen_s: time of the last frame with a face, whoever found it.
    """

    def __init__(
        self, linker: Linker, glance: Find, look: Find, follow: Follow | None = None, peek: Find | None = None
    ) -> None:
        """Nothing was looked at yet.

        Args:
            linker: the tracks so far.
            glance, look, follow, peek: see `scan.Scan`.
        """
        self.linker, self.glance, self.look, self.follow, self.peek = linker, glance, look, follow, peek
        self.seen_s = self._looked_s = self._glanced_s = -np.inf
        self._before: Sequence[Face] = ()

    def __call__(self, image: np.ndarray, time_s: float, cut: bool, before: Sequence[Face]) -> list[Face]:
        """The faces of a frame; a second, thorough look where it is due or one seems to be gone.

        Args:
            image: (H, W, 3) uint8 RGB.
            time_s: of the frame.
            cut: whether a new shot begins with it.
            before: the faces of the frame before.
        """
        self._before = before
        idle = time_s - max(self.seen_s, self.linker.shot_s) > GAP_S
        due = cut or time_s - self._looked_s >= (IDLE_LOOK_S if idle else LOOK_S) - 1e-6
        if idle and not due and time_s - self._glanced_s < GLANCE_S - 1e-6:
            return []
        faces = self._glanced(image, time_s, due, cut)
        if due or (time_s - self._looked_s >= LOST_S - 1e-6 and self._loses_one(faces)):
            faces = united(self.look(image), faces)
            self._looked_s = time_s
        return [replace(face, track_id=None) for face in faces]

    def _glanced(self, image: np.ndarray, time_s: float, due: bool, cut: bool) -> list[Face]:
        """The faces of a frame by the quickest look that sees those of the frame before."""
        known = [] if cut else self._known(time_s)
        seen: list[Face] = []
        few = self.follow is not None and len(known) <= FEW
        if few and not due and time_s - self._glanced_s < GLANCE_S - 1e-6:
            seen = united(self._followed(image, known), [] if self.peek is None else self.peek(image))
            if not self._loses_one(seen):
                return seen
        self._glanced_s = time_s
        faces = united(self.glance(image), seen)
        lost = [one for one in known if not _is_among(one, faces)]
        return united(faces, self._followed(image, lost)) if few and lost and not seen else faces

    def _known(self, time_s: float) -> list[Face]:
        """The faces of this shot that were seen a moment ago, where they should be by now."""
        linker, known = self.linker, []
        for track in linker.tracks.values():
            if track.last >= linker.starts[-1] and time_s - linker.times_s[track.last] <= GAP_S:
                last = track.found[track.last]
                box = linker.predicted(track, time_s)
                known.append(replace(last, box=box, landmarks=last.landmarks + (centre_of(box) - centre_of(last.box))))
        return known

    def _followed(self, image: np.ndarray, faces: Sequence[Face]) -> list[Face]:
        """Those that are seen clearly where they should be."""
        return [] if self.follow is None or not faces else self.follow(image, faces)

    def _loses_one(self, faces: Sequence[Face]) -> bool:
        """Whether a face of the frame before is not among them."""
        return not all(_is_among(one, faces) for one in self._before)


def united(faces: Sequence[Face], more: Sequence[Face]) -> list[Face]:
    """Two lists of detections of one picture, each face once; the first list's own where both have it.

    Args:
        faces: all of which are taken.
        more: of which those are taken that overlap none of the others.
    """
    return [*faces, *(one for one in more if all(iou(one.box, face.box) < 0.35 for face in faces))]


def _is_among(face: Face, faces: Sequence[Face]) -> bool:
    return any(iou(one.box, face.box) >= 0.2 for one in faces)
