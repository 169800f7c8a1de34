"""Finds the faces of a picture in a fraction of the time: one upright pass proposes, small turned views decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..messages import brief
from ..types import Face
from .centerface import Found, concatenate
from .detect import CenterFaceDetector, check_image, is_doubtful, merge
from .geometry import compose, roll_deg
from .views import (
    clipped,
    extent_of,
    from_turned,
    halves,
    level_for,
    middle_of,
    resized,
    surest,
    upright_from_image,
    view_of,
)

TILE, OVERLAP = 1536, 64  # pixels: fewer seams than the thorough detector has, for 0.2 GB more
BATCH = 16  # proposals whose views are looked at together
GLANCE = 64  # pixels, side of the first views of a proposal
# Turns in degrees at which it is viewed in turn, and the score that it must have reached by then to be viewed on.
STAGES = (((0, 90), 0.04), ((180, 270), 0.06), ((45, 135, 225, 315), 0.1))
SURE = 0.5  # score from which a larger proposal takes along the parts that were proposed of it
BELIEVED = 0.75  # score from which a pass is believed: a small face that lies reaches 0.55 as an upright one
CLEAR = 0.6  # score in a view from which it is the right way up

Levels = Sequence[tuple[np.ndarray, np.ndarray]]  # of `halves`


@dataclass
class FastDetector(CenterFaceDetector):
    """Looks at all pixels once upright and once turned; what answers faintly, however faintly, is looked at enlarged.

    A face gives an answer at its place whatever its roll, of 0.02 to 0.1 where it lies or is small. That is too little
    to tell it from a bush, but enough to know where to look, and small views of those places at eight turns cost less
    than passes over the picture.

    Attributes:
        finest_pixels: larger pictures are shrunk to this ...
        finest_scale: ... but never by more, for the sake of faces of 20 px.
        proposal: score from which a place is looked at, in a picture at half its size or less; at full size it is
            twice that, for there faces are larger and answer louder.
        confirm_faint: score that one must reach there whose proposal was below `threshold`.
    """

    finest_pixels: float = 3e6
    finest_scale: float = 0.6
    proposal: float = 0.02
    confirm_faint: float = 0.4

    def __call__(self, image: np.ndarray) -> list[Face]:
        """(H, W, 3) uint8 RGB -> faces, surest first: boxes inside the picture, landmarks that carry the roll.

        Raises:
            ValueError: no (H, W, 3) uint8 picture.
        """
        check_image(image)
        levels = halves(image)
        proposals = _faces(merge(clipped(self._passes(levels), image.shape), SURE))
        seen, faint = list[Face](), [face for face in proposals if face.score < self.threshold]
        for face in proposals[: len(proposals) - len(faint)]:  # the surest come first
            doubtful = face.score < BELIEVED or is_doubtful(face)
            if again := self._second_look(image, face) if doubtful else face:
                seen.append(again)
            else:
                faint.append(face)
        hinted = merge(_found(self._hinted(levels, faint)), SURE)
        seen += [again for face in _faces(hinted) if (again := self._decided(image, face))]
        return self._kept(image, _faces(merge(_found(seen))))

    def _passes(self, levels: Levels) -> Found:
        """All pixels, upright and on its side; then coarser levels, for faces too large to be seen there."""
        image = levels[0][0]
        pixels = image.shape[0] * image.shape[1]
        scale = float(np.clip(np.sqrt(self.upright_pixels / pixels), 1, 2))
        passes: list[tuple[float, int, float]] = []
        turned = 0.7  # of the upright pass; half in large pictures found as many faces in the benchmark
        if pixels > self.finest_pixels:
            scale, turned = max(float(np.sqrt(self.finest_pixels / pixels)), self.finest_scale), 0.5
        else:  # here they cost little, and a face of 40 px that lies in both the others may answer in neither
            passes += [(scale / 2, quarters, self.threshold) for quarters in (2, 3)]
        for share, quarters in ((1.0, 0), (turned, 1)):
            passes.append((share * scale, quarters, self.proposal * max(2 * share * scale, 1)))
        passes.append((scale / 4, 0, 2.5 * self.proposal))
        while scale * max(image.shape[:2]) > 4 * 320 and scale * min(image.shape[:2]) > 4 * 32:
            scale /= 2
            passes.append((scale / 4, 0, self.threshold))
        parts = []
        for scale, quarters, threshold in passes:
            larger, image_from_larger = level_for(levels, scale)
            level, larger_from_level = resized(larger, scale * image_from_larger[0, 0])
            found = self._tiles(np.ascontiguousarray(np.rot90(level, quarters)), threshold, TILE, OVERLAP)
            if quarters:  # what lies in this pass stands in another; its points are not to be believed
                lying = np.array([abs(roll_deg(points)) > 50 for points in found.points], dtype=bool)
                scores = np.where(lying, np.minimum(found.scores, 0.9 * self.threshold), found.scores)
                found = replace(found, scores=scores.astype(np.float32))
            level_from_turned = from_turned(quarters, level.shape[:2])
            parts.append(found.mapped(compose(image_from_larger, compose(larger_from_level, level_from_turned))))
        return concatenate(parts)

    def _hinted(self, levels: Levels, faces: Sequence[Face]) -> list[Face]:
        """Those that may be faces, as small views show them best."""
        clear: list[Face] = []
        views = [(face, replace(face, score=0.0)) for face in faces]  # as proposed, and as seen best
        for turns_deg, least in STAGES:
            seen = self._glances(levels, [face for face, _ in views], turns_deg)
            views = [(face, max(best, new, key=_score)) for (face, best), new in zip(views, seen, strict=True)]
            clear += [best for _, best in views if best.score >= CLEAR]
            views = [(face, best) for face, best in views if least <= best.score < CLEAR]
        return clear + [best for _, best in views]

    def _glances(self, levels: Levels, faces: Sequence[Face], turns_deg: Sequence[float]) -> list[Face]:
        """Each face where it is surest in small views; of score 0 where there is none."""
        seen: list[Face] = []
        for start in range(0, len(faces), BATCH):
            part, maps, views = faces[start : start + BATCH], [], []
            for face in part:
                scale = GLANCE / (2 * extent_of(face))
                level, image_from_level = level_for(levels, 1.5 * scale)
                for turn in turns_deg:
                    maps.append(upright_from_image(middle_of(face), scale, turn, GLANCE))
                    views.append(view_of(level, compose(maps[-1], image_from_level), GLANCE))
            found, count = self._network(np.stack(views), STAGES[0][1]), len(turns_deg)
            for n, face in zip(range(0, len(maps), count), part, strict=True):
                seen.append(surest(face, maps[n : n + count], found[n : n + count], levels[0][0].shape, GLANCE))
        return seen

    def _decided(self, image: np.ndarray, face: Face) -> Face | None:
        """The face as it is seen closely and level; None when it is none."""
        roll = roll_deg(face.landmarks)
        seen = self._look(image, face, (roll,))
        if seen.score < CLEAR:  # faces of which little is seen pass for upright ones at other turns, too
            other = self._look(image, face, [roll + turn for turn in range(45, 360, 45)])
            seen = other if other.score > seen.score else seen
        return seen if seen.score >= self.confirm_faint else None


DETECTORS: dict[str, type[CenterFaceDetector]] = {"fast": FastDetector, "thorough": CenterFaceDetector}


def detector_of(name: str) -> CenterFaceDetector:
    """The detector of that name; its weights load at its first use.

    Args:
        name: "fast" or "thorough".

    Raises:
        ValueError: another name.
    """
    if name not in DETECTORS:
        raise ValueError(f"detection must be {' or '.join(DETECTORS)}, got {brief(name)}")
    return DETECTORS[name]()


def _score(face: Face) -> float:
    return face.score


def _faces(found: Found) -> list[Face]:
    return [Face(*three) for three in zip(found.boxes, found.points, found.scores.tolist(), strict=True)]


def _found(faces: Sequence[Face]) -> Found:
    boxes, points, scores = (
        np.array([getattr(face, name) for face in faces], np.float32) for name in ("box", "landmarks", "score")
    )
    return Found(boxes.reshape(-1, 4), points.reshape(-1, 5, 2), scores)
