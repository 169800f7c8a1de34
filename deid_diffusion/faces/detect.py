"""Finds the faces of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..messages import brief
from ..types import Face
from .centerface import CenterFace, Found, concatenate
from .false_alarms import without_false_alarms
from .geometry import compose, roll_deg
from .views import clipped, extent_of, from_turned, middle_of, resized, spans, surest, upright_from_image, view_of

Detector = Callable[[np.ndarray], list[Face]]  # (H, W, 3) uint8 RGB -> faces in image pixels; none: []

TILE, OVERLAP = 1024, 144  # pixels, multiples of 16: memory goes with the tile, lost time with the overlap
LOOK = 128  # pixels, side of the second look at a doubtful face
FOLLOWED = 0.4  # score from which a face is still where it was; what shows faintly must reach as much
UPRIGHT_DEG = 15.0  # up to this roll the network's points are good
NAMED = 0.25  # score from which there is a face in a box that somebody named
LEAST_SIDE = 4  # pixels, of a box that users bring: no face is smaller, and what is holds other units
# Where the five points lie in the box of an upright face, as fractions of its sides.
TEMPLATE = np.array([[0.31, 0.41], [0.69, 0.41], [0.50, 0.61], [0.35, 0.79], [0.65, 0.79]])


@dataclass
class CenterFaceDetector:
    """Looks at all pixels at full size, at coarser levels for large faces, and turned for small faces on their side.

    The fast detector is the usual one; times of both are in `docs/measured.md`.

    Attributes:
        threshold: score from which a detection is a candidate. Low, because a needless repaint costs little and a
            missed face everything.
        confirm: score that a candidate below 0.5 must reach when looked at again, enlarged and upright. True faces of
            12 px reach 0.4 to 0.9 there, glasses and hands 0 to 0.2; 0 keeps every candidate.
        upright_pixels: smaller pictures are enlarged to this, at most twice, which finds faces of 10 px instead of 16.
        turned_pixels: the passes turned by 90, 180 and 270 degrees see larger pictures shrunk to this. Faces from
            64 px on are found without turning, whatever their roll.
    """

    threshold: float = 0.15
    confirm: float = 0.25
    upright_pixels: float = 2e6
    turned_pixels: float = 2e6
    _network: CenterFace = field(default_factory=CenterFace, repr=False)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """(H, W, 3) uint8 RGB -> faces, surest first: boxes inside the picture, landmarks that carry the roll.

        Raises:
            ValueError: no (H, W, 3) uint8 picture.
        """
        check_image(image)
        pixels = image.shape[0] * image.shape[1]
        passes = [self._levels(image, float(np.clip(np.sqrt(self.upright_pixels / pixels), 1, 2)))]
        small, image_from_small = resized(image, min(np.sqrt(self.turned_pixels / pixels), 1.0))
        for quarters in (1, 2, 3):
            found = self._tiles(np.ascontiguousarray(np.rot90(small, quarters)), self.threshold)
            # Faces that lie in this pass stand in another, which reads their points better.
            found = found[np.array([abs(roll_deg(points)) < 50 for points in found.points], dtype=bool)]
            passes.append(found.mapped(compose(image_from_small, from_turned(quarters, small.shape[:2]))))
        found = merge(clipped(concatenate(passes), image.shape[:2]))
        faces = [Face(*three) for three in zip(found.boxes, found.points, found.scores.tolist(), strict=True)]
        seen = [self._second_look(image, face) if is_doubtful(face) else face for face in faces]
        return self._kept(image, [face for face in seen if face is not None])

    def glance(self, image: np.ndarray, side: int = 640) -> list[Face]:
        """A quick look, for the frames of a clip between two full ones: one pass at a long side of `side` pixels.

        Misses faces below about 14 px there, and those on their side below 64. Costs 45 ms of one core at 640.

        Args:
            image: (H, W, 3) uint8 RGB.
            side: in pixels; smaller pictures are not enlarged.
        """
        small, image_from_small = resized(image, min(side / max(image.shape[:2]), 1.0))
        found = self._network(small[None], self.threshold)[0].mapped(image_from_small)
        found = merge(clipped(found, image.shape[:2]))
        faces = [Face(*three) for three in zip(found.boxes, found.points, found.scores.tolist(), strict=True)]
        seen = [self._second_look(image, face) if is_doubtful(face) else face for face in faces]
        return self._kept(image, [face for face in seen if face is not None])

    def follow(self, image: np.ndarray, faces: Sequence[Face]) -> list[Face]:
        """Faces of a frame of which it is known where they were in the one before: each in a view of its own.

        Costs 3 ms of one core a face, and sees those that are too small for a quick look.

        Args:
            image: (H, W, 3) uint8 RGB.
            faces: of frames before, where they should be by now.

        Returns:
            those that are there, or within a third of their size, and clearly faces; none that left the picture.
        """
        inside = np.array(image.shape[1::-1])
        faces = [f for f in faces if ((middle_of(f) > 0) & (middle_of(f) < inside)).all() and extent_of(f) >= 1]
        if not faces:
            return []
        rolls = [roll_deg(face.landmarks) for face in faces]
        turns = [roll if abs(roll) > UPRIGHT_DEG else 0.0 for roll in rolls]
        scales = [LOOK / (2 * extent_of(face)) for face in faces]
        maps = [upright_from_image(middle_of(f), s, t, LOOK) for f, s, t in zip(faces, scales, turns, strict=True)]
        found = self._network(np.stack([view_of(image, one, LOOK) for one in maps]), self.threshold)
        rows = zip(faces, maps, found, strict=True)
        seen = [surest(face, [view], [peaks], image.shape, LOOK) for face, view, peaks in rows]
        return distinct([face for face in seen if face.score >= FOLLOWED])

    def _kept(self, image: np.ndarray, faces: list[Face]) -> list[Face]:
        """Each face once, less the ears and locks of hair that pass for some."""
        return without_false_alarms(image, distinct(faces), self._network)

    def _levels(self, image: np.ndarray, scale: float) -> Found:
        """The picture at `scale`, at a quarter of that, and so on down to a thumbnail."""
        parts = []
        while True:
            level, image_from_level = resized(image, scale)
            parts.append(self._tiles(level, self.threshold).mapped(image_from_level))
            if max(level.shape[:2]) <= 320 or min(level.shape[:2]) <= 32:
                return concatenate(parts)
            scale /= 4

    def _tiles(self, image: np.ndarray, threshold: float, tile: int = TILE, overlap: int = OVERLAP) -> Found:
        parts = []
        for y0, y1 in spans(image.shape[0], tile, overlap):
            for x0, x1 in spans(image.shape[1], tile, overlap):
                found = self._network(image[None, y0:y1, x0:x1], threshold)[0]
                found = found.mapped(np.array([[1, 0, x0], [0, 1, y0]]))
                # A face cut by a tile's edge is seen whole by the next tile or at the next level.
                low, high = found.boxes[:, :2] - 3, found.boxes[:, 2:] + 3
                cut = (low < [x0 or -np.inf, y0 or -np.inf]) | (
                    high > [np.inf if x1 >= image.shape[1] else x1, np.inf if y1 >= image.shape[0] else y1]
                )
                parts.append(found[np.asarray(~cut.any(axis=1))])
        return concatenate(parts)

    def _second_look(self, image: np.ndarray, face: Face) -> Face | None:
        """The face read again, enlarged and upright; None when it is none."""
        seen = self._look(image, face, (90 * round(roll_deg(face.landmarks) / 90),))
        if seen.score < 0.6 and max(seen.score, face.score) >= 0.25:
            # Something is there; it may have been found lying, and then its points say little of its roll.
            seen = self._look(image, face, (0, 90, 180, 270))
        if seen.score < max(self.confirm, 0.1):
            return face if face.score >= 0.5 or self.confirm <= 0 else None
        roll = roll_deg(seen.landmarks)
        if abs((roll + 45) % 90 - 45) > 12:
            level = self._look(image, face, (roll,))
            seen = replace(seen, landmarks=level.landmarks) if level.score > 0.8 * seen.score else seen
        return seen if seen.score > face.score else replace(face, landmarks=seen.landmarks)

    def read_box(self, image: np.ndarray, face: Face) -> Face:
        """A box that somebody named, with the score and the points of the face in it, whatever its roll.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: of `faces_from_boxes`.

        Returns:
            the box as it was; of score 0 and with its points as they were, where there is no face.
        """
        seen = self._look(image, face, (0, 90, 180, 270))
        if seen.score < 0.6:
            odd = self._look(image, face, (45, 135, 225, 315))
            seen = odd if odd.score > seen.score else seen
        middle = seen.landmarks.mean(0)
        if seen.score < NAMED or (middle < face.box[:2]).any() or (middle > face.box[2:]).any():
            return replace(face, score=0.0)
        level = self._look(image, face, (roll_deg(seen.landmarks),))
        points = level.landmarks if level.score > 0.8 * seen.score else seen.landmarks
        return replace(face, landmarks=points, score=max(seen.score, level.score))

    def _look(self, image: np.ndarray, face: Face, turns_deg: Sequence[float], side: int = LOOK) -> Face:
        """The surest face in the middle of the view, over all turns; of score 0 when there is none."""
        scale = side / (2 * extent_of(face))
        maps = [upright_from_image(middle_of(face), scale, turn, side) for turn in turns_deg]
        views = np.stack([view_of(image, matrix, side) for matrix in maps])
        return surest(face, maps, self._network(views, 0.1), image.shape, side)


def check_image(image: np.ndarray) -> None:
    """Makes sure that it is a picture.

    Args:
        image: to be detected in.

    Raises:
        ValueError: no (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}; load_picture() it")


def faces_from_boxes(boxes: np.ndarray | Sequence[Sequence[float]], image_shape: tuple[int, ...]) -> list[Face]:
    """Faces where the user says they are: upright, with the points where they mostly lie in a box.

    Args:
        boxes: (N, 4) x0 y0 x1 y1 in image pixels, clipped to the picture.
        image_shape: height, width, ...

    Raises:
        ValueError: for what is no box, lies outside the picture, or is smaller than any face, as fractions of the
            sides are; a face skipped silently would stay exposed.
    """
    try:
        numbers = np.asarray(boxes)
    except Exception:  # rows of different lengths; NumPy's own error may hold what came
        numbers = np.empty(0)
    if numbers.size == 0 and numbers.shape[0] == 0 and isinstance(boxes, Sequence | np.ndarray) and not len(boxes):
        return []
    # By kind: NumPy would make numbers of strings and of True.
    if numbers.ndim != 2 or numbers.shape[1] != 4 or numbers.dtype.kind not in "iuf":
        raise ValueError(f"boxes must be (N, 4) numbers, x0 y0 x1 y1 of each in pixels, got {brief(boxes)}")
    height, width = image_shape[:2]
    least = np.minimum(LEAST_SIDE, [width, height])
    faces = []
    for box in numbers.astype(np.float64):
        inside = np.clip(box, 0, [width, height, width, height])
        if not np.isfinite(box).all() or not (inside[2:] - inside[:2] >= least).all():
            raise ValueError(
                f"a box must be x0 y0 x1 y1 in pixels, at least {LEAST_SIDE} px wide and high inside "
                f"{width} x {height}, got {box.tolist()}; scale fractions by width and height, and turn x y w h "
                "into x y x+w y+h"
            )
        faces.append(Face(inside, box[:2] + TEMPLATE * (box[2:] - box[:2])))
    return faces


def merge(found: Found, sure: float = 0.0) -> Found:
    """One detection per face, surest first: overlapping ones are the same face, seen in several passes.

    A smaller one in the middle of a larger one goes as well (an eye, a nose), for what replaces the larger one
    replaces it; a face at another's edge stays, and so does the larger of two, whatever their scores.

    Args:
        found: in image pixels.
        sure: score from which a larger one takes smaller ones along.
    """
    order = np.argsort(-found.scores, kind="stable")
    found = found[order]
    area = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    kept: list[int] = []
    for i in range(len(order)):
        low = np.maximum(found.boxes[i, :2], found.boxes[kept, :2])
        high = np.minimum(found.boxes[i, 2:], found.boxes[kept, 2:])
        both = np.prod(np.clip(high - low, 0, None), axis=1)
        same = both > 0.35 * (area[i] + area[kept] - both)
        half = (found.boxes[kept, 2:] - found.boxes[kept, :2]) / 2
        in_middle = (((centre[i] - centre[kept]) / half) ** 2).sum(1) < 0.4**2
        part = in_middle & (area[i] < area[kept]) & (both > 0.8 * area[i]) & (found.scores[kept] >= sure)
        if not (same | part).any():
            kept.append(i)
    return found[np.array(kept, dtype=int)]


def distinct(faces: list[Face]) -> list[Face]:
    """Surest first, less those whose points turned out to be another's: a second look may see the face next door.

    Args:
        faces: of one picture.
    """
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        for other in kept:
            apart = np.hypot(*(face.landmarks - other.landmarks).T).mean()
            if apart < 0.2 * float((other.box[2:] - other.box[:2]).max()):
                break
        else:
            kept.append(face)
    return kept


def is_doubtful(face: Face) -> bool:
    """Whether a detection is to be looked at again.

    Args:
        face: as a pass found it.
    """
    # CenterFace's points are good upright and above about 30 px, and its score tells when they are not.
    return face.score < 0.5 or abs(roll_deg(face.landmarks)) > UPRIGHT_DEG
