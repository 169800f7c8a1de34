"""Finds the faces of a picture in a fraction of the time: one upright pass proposes, small turned views decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..messages import brief
from ..types import Face
from .centerface import Found, concatenate
from .detect import CenterFaceDetector, check_image, distinct, is_doubtful, merge
from .geometry import compose, invert
from .views import clipped, from_turned, resized, surest, upright_from_image, view_of

SURE = 0.5  # score from which a detection needs no look to be believed
TILE, OVERLAP = 1536, 96  # pixels: fewer seams than the thorough detector has, for 0.2 GB more
BATCH = 16  # proposals whose views are looked at together
GLANCE = 64  # pixels, side of the view in which a proposal is looked at first
HINT = 0.1  # score that a proposal must reach there, or have, to be looked at again


@dataclass
class FastDetector(CenterFaceDetector):
    """Looks at all pixels once, upright, and believes nothing faint: each weak response is looked at enlarged.

    A face on its side gives a weak response at its place in an upright pass (0.03 to 0.1, from about 20 px on), which
    is too little to tell it from a bush, but enough to know where to look. So the passes over the turned picture are
    replaced by turned views of those places.

    Attributes:
        finest_pixels: larger pictures are shrunk to this for the finest level ...
        finest_scale: ... but never by more, or faces of 20 px would be lost.
        proposals: score from which a place is looked at: at the finest level, at the next of half its size, and at all
            coarser ones, whose faces the finer ones see, too.
    """

    finest_pixels: float = 6e6
    finest_scale: float = 0.7
    proposals: tuple[float, float, float] = (0.03, 0.03, 0.15)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """(H, W, 3) uint8 RGB -> faces, surest first: boxes inside the picture, landmarks that carry the roll.

        Raises:
            ValueError: no (H, W, 3) uint8 picture.
        """
        check_image(image)
        proposals = merge(clipped(self._pyramid(image), image.shape), SURE)
        sure = proposals.scores >= SURE
        seen = [self._second_look(image, face) if is_doubtful(face) else face for face in _faces(proposals[sure])]
        seen += [self._second_look(image, face) for face in self._hinted(image, _faces(proposals[~sure]))]
        kept = [face for face in seen if face is not None]
        return distinct(_faces(merge(_found(kept))))

    def _pyramid(self, image: np.ndarray) -> Found:
        """The picture at its finest scale, at half of that, and so on down to a thumbnail."""
        pixels = image.shape[0] * image.shape[1]
        scale = float(np.clip(np.sqrt(self.upright_pixels / pixels), 1, 2))
        if pixels > self.finest_pixels:
            scale = max(float(np.sqrt(self.finest_pixels / pixels)), self.finest_scale)
        parts: list[Found] = []
        while True:
            level, image_from_level = resized(image, scale)
            threshold = self.proposals[min(len(parts), 2)]
            parts.append(self._tiles(level, threshold, TILE, OVERLAP).mapped(image_from_level))
            if max(level.shape[:2]) <= 320 or min(level.shape[:2]) <= 32:
                return concatenate(parts)
            scale /= 2

    def _hinted(self, image: np.ndarray, faces: Sequence[Face]) -> list[Face]:
        """Those that may be faces, where small views over the quarter turns show them best."""
        hinted: list[Face] = []
        for start in range(0, len(faces), BATCH):
            part, maps, views = faces[start : start + BATCH], [], []
            for face in part:
                centre, size = (face.box[:2] + face.box[2:]) / 2, float((face.box[2:] - face.box[:2]).max())
                upright = upright_from_image(centre, GLANCE / (2 * size), 0, GLANCE)
                view = view_of(image, upright, GLANCE)
                views += [np.rot90(view, q) for q in range(4)]
                maps += [compose(invert(from_turned(q, view.shape[:2])), upright) for q in range(4)]
            found = self._network(np.stack(views), HINT)
            for number, face in enumerate(part):
                four = slice(4 * number, 4 * number + 4)
                seen = surest(face, maps[four], found[four], image.shape, GLANCE)
                if max(seen.score, face.score) >= HINT:
                    hinted.append(seen if seen.score > face.score else face)
        return hinted


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


def _faces(found: Found) -> list[Face]:
    return [Face(*three) for three in zip(found.boxes, found.points, found.scores.tolist(), strict=True)]


def _found(faces: Sequence[Face]) -> Found:
    boxes, points, scores = (
        np.array([getattr(face, name) for face in faces], np.float32) for name in ("box", "landmarks", "score")
    )
    return Found(boxes.reshape(-1, 4), points.reshape(-1, 5, 2), scores)
