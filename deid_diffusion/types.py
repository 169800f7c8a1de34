"""Names the things that cross module borders: faces, crops, attributes, reports.

Points are x y in pixels, origin at the outer corner of the top-left pixel (its centre is 0.5, 0.5). Boxes are
x0 y0 x1 y1. Masks are float in [0, 1] and 1 means replace. Pictures are uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from .messages import as_numbers, brief, brief_repr

KEEPABLE = ("copyright", "date", "dpi")  # of a file's metadata, when asked for


class Outcome(str, Enum):
    """What became of a detected face."""

    REPLACED = "replaced"
    REDACTED = "redacted"
    FAILED = "failed"  # a model broke; hidden like REDACTED, but an error and no verdict
    CLOAKED = "cloaked"  # itself to every person, changed for some recognisers only: never counts as anonymized
    KEPT = "kept"  # only ever because the user said whom to keep, or whom only to anonymize


class Redaction(str, Enum):
    """How a face is hidden when it is not replaced."""

    BLANK = "blank"
    BLUR = "blur"
    PIXELATE = "pixelate"


_Named = TypeVar("_Named", bound=Enum)


def member(kind: type[_Named], value: Any, name: str) -> _Named:
    """The member of an enumeration that a user named.

    Args:
        kind: the enumeration.
        value: a member, or the value of one.
        name: of the argument, for the error.

    Raises:
        ValueError: it has none like this.
    """
    for choice in kind:
        if value is choice or (isinstance(value, str) and value == choice.value):
            return choice
    raise ValueError(f"{name} must be one of {', '.join(choice.value for choice in kind)}, got {brief(value)}")


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        box: (4,) float32, x0 y0 x1 y1 in image pixels.
        landmarks: (5, 2) float32, x y in image pixels: the eye on the image's left, the eye on its right, nose tip,
            mouth corner left, mouth corner right (order of an upright face seen by the viewer).
        score: detector confidence in [0, 1].
        track_id: the person's number within a video, None for stills.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float = 1.0
    track_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("box", "landmarks"):
            numbers = as_numbers(getattr(self, name))
            if numbers is None:
                raise ValueError(f"{name} must be numbers, got {brief(getattr(self, name))}")
            object.__setattr__(self, name, numbers.astype(np.float32))
        if self.box.shape != (4,):
            raise ValueError(f"box must be (4,) x0 y0 x1 y1, got shape {self.box.shape}")
        if self.landmarks.shape != (5, 2):
            raise ValueError(f"landmarks must be (5, 2) x y, got shape {self.landmarks.shape}")
        if not (np.isfinite(self.box).all() and np.isfinite(self.landmarks).all()):
            raise ValueError("box and landmarks must be finite numbers, got others; leave such faces out")
        if not (self.box[2] > self.box[0] and self.box[3] > self.box[1]):
            raise ValueError(f"box must have x1 > x0 and y1 > y0, got {self.box.tolist()}")


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """The upright square around one face, as the model sees it.

    Attributes:
        image: (S, S, 3) uint8 RGB, reflected where the square leaves the picture.
        mask: (S, S) float32 in [0, 1], 1 = replace.
        landmarks: (478, 2) float32, x y in crop pixels, FaceMesh order.
        crop_from_image: (2, 3) float64, maps image pixels to crop pixels.
    """

    image: np.ndarray
    mask: np.ndarray
    landmarks: np.ndarray
    crop_from_image: np.ndarray
    __repr__ = brief_repr


@dataclass(frozen=True)
class FaceReport:
    """What happened to one detected face. Holds no embedding and no pixels.

    Attributes:
        face: where it was.
        outcome: REPLACED, REDACTED, FAILED (hidden, as a model broke), CLOAKED (by the method perturb: still seen by
            every person), or KEPT for a person the user asked to keep.
        seed: what this face's noise and target were drawn from; it follows from the picture's seed and the try.
        similarity: cosine in [-1, 1] of the result to its source by the identity encoder; None when not measured.
        reason: why it was not replaced; for REPLACED empty, or what the face was averaged from; for CLOAKED from whom.
        attributes: the values the new face was asked to have, by name.
        tries: in how many rounds faces were generated for this one.
        pseudonym: number of the person by the key of the run, as `deid key people` names them; None without one.
        borderline: it was hidden, but may be a person to leave alone; the reason says how similar it is.
    """

    face: Face
    outcome: Outcome
    seed: int
    similarity: float | None = None
    reason: str = ""
    attributes: dict[str, float] = field(default_factory=dict)
    tries: int = 0
    borderline: bool = False
    pseudonym: int | None = None

    def to_json(self, seeds: bool = False) -> dict[str, Any]:
        """A line of the report: plain numbers and strings.

        Args:
            seeds: whether its seed is told, too; then the line is confidential.
        """
        return {
            "box": [round(float(v), 2) for v in self.face.box],
            "score": round(float(self.face.score), 4),
            "track_id": self.face.track_id,
            "outcome": self.outcome.value,
            **({"seed": int(self.seed)} if seeds else {}),
            "similarity": None if self.similarity is None else round(float(self.similarity), 4),
            "attributes": {k: round(float(v), 3) for k, v in self.attributes.items()},
            "reason": self.reason,
            "tries": self.tries,
            "borderline": self.borderline,
        } | ({} if self.pseudonym is None else {"pseudonym": int(self.pseudonym)})
