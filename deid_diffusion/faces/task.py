"""One face on its way through the four stages, and what was found in one picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.pictures import Picture
from ..messages import brief_repr
from ..seeds import derived_seed
from ..timing import Timing
from ..types import Face, FaceCrop, FaceReport, Outcome, Redaction
from .attributes import Attributes

if TYPE_CHECKING:
    from .estimator import FaceAnalysis


@dataclass(frozen=True, eq=False)
class Target:
    """Somebody who does not exist.

    Attributes:
        embedding: (D,) float32 unit norm, in the identity encoder's space.
        shape_params: (P,) float32, shape parameters in standard deviations of `FaceShape.shape_basis`.
        number: place in the bank; -1 for somebody who is in none.
        pseudonym: number of the person whose stranger this is, see `methods.pseudonyms`; None without a key.
    """

    embedding: np.ndarray
    shape_params: np.ndarray
    number: int = -1
    pseudonym: int | None = None
    __repr__ = brief_repr


@dataclass(frozen=True, eq=False)
class FaceTask:
    """One face, from detection to outcome. Stages return changed copies, so that a task can be generated again.

    Attributes:
        face: as it was detected.
        number: its place among the faces of its picture or frame, from 0.
        picture: which picture of a batch, or which frame of a clip, from 0.
        seed: of the picture; what this face draws follows from it, see `draw_seed`.
        crop: the aligned square; None where the landmarks do not fit the detection, or no method reads faces.
        analysis: landmarks and attributes of the source.
        embedding: (D,) float32 unit norm, of the source by the identity encoder.
        inpaint_mask: (S, S) float32 in [0, 1], above 0 = the model must not see it.
        skin_texture: (3,) float32 levels, see `skin_texture.skin_texture`.
        wanted: attributes that the new face is asked to have.
        targets: who it may become, one for each candidate.
        opening: how far the new face's eyes are to be opened once it is generated; 1 leaves them as they are.
        generated: (S, S, 3) uint8, the new face in the crop's frame; of a CLOAKED one the crop with its change.
        outcome: None until it is decided.
        similarity: cosine in [-1, 1] of the result to the source by the identity encoder; None when not measured.
        reason: why it was not replaced, or what it was made of.
        result_seed: what the accepted candidate was drawn from.
        tries: in how many rounds candidates were generated.
        redaction: how it is hidden if it is; None for what the settings say.
        borderline: why it might have been left alone, empty when it might not; see `references.decide`.
        steady: what its face shares with those of other frames, see `compositing.steady.Steady`; None in pictures.
        doubtful: whether it may be no face: then new faces go over what hides it.
    """

    face: Face
    number: int
    picture: int = 0
    seed: int = 0
    crop: FaceCrop | None = None
    analysis: FaceAnalysis | None = None
    embedding: np.ndarray | None = None
    inpaint_mask: np.ndarray | None = None
    skin_texture: np.ndarray | None = None
    wanted: Attributes | None = None
    targets: tuple[Target, ...] = ()
    opening: float = 1.0
    generated: np.ndarray | None = None
    outcome: Outcome | None = None
    similarity: float | None = None
    reason: str = ""
    result_seed: int = 0
    tries: int = 0
    redaction: Redaction | None = None
    borderline: str = ""
    steady: Any = None
    doubtful: bool = False
    __repr__ = brief_repr

    @property
    def pending(self) -> bool:
        """Whether nothing was decided yet."""
        return self.outcome is None

    @property
    def hidden(self) -> bool:
        """Whether it is to be redacted: it could not be replaced, for whatever reason."""
        return self.outcome in (None, Outcome.REDACTED, Outcome.FAILED)

    def draw_seed(self, attempt: int = 0, candidate: int = 0, use: str = "noise") -> int:
        """63 bits for each round and candidate, from the picture's seed and the face's place: never from pixels.

        Args:
            attempt: the round, from 0.
            candidate: which of the round's candidates, from 0.
            use: what is drawn. Noise can be seen in the picture; the target must not follow from it.
        """
        return derived_seed(self.seed, self.number, attempt, candidate, use)

    def decided(self, outcome: Outcome, reason: str = "", **changes: Any) -> FaceTask:
        """A copy with its outcome; what was generated goes unless it replaces or changes the face.

        Args:
            outcome: what became of the face.
            reason: for the report.
            changes: other fields.
        """
        generated = self.generated if outcome in (Outcome.REPLACED, Outcome.CLOAKED) else None
        changes = {"generated": generated, **changes}
        return replace(self, **changes, outcome=outcome, reason=reason)

    def report(self) -> FaceReport:
        """Its line of the report: no embedding, no pixels."""
        return FaceReport(
            self.face,
            Outcome.REDACTED if self.outcome is None else self.outcome,
            self.result_seed,
            self.similarity,
            "; ".join(filter(None, (self.reason, self.borderline))),
            self.wanted.to_dict() if self.wanted is not None and self.outcome is Outcome.REPLACED else {},
            self.tries,
            bool(self.borderline),
            self.targets[0].pseudonym if self.targets and self.outcome is Outcome.REPLACED else None,
        )


@dataclass(frozen=True, eq=False)
class ImageAnalysis:
    """What was found in one picture.

    Attributes:
        picture: as it was loaded, with alpha, depth and profile.
        image: (H, W, 3) uint8 RGB, upright, in which faces are read: the picture's colour, and where a face shows
            clearer on a background or in alpha, that view of it.
        tasks: one for each detected face, in order; none is left out.
        timing: seconds by stage so far.
        roll: columns by which picture and image are rolled to the left, of a panorama; see `faces.panorama`.
    """

    picture: Picture
    image: np.ndarray
    tasks: tuple[FaceTask, ...]
    timing: Timing = field(default_factory=Timing)
    roll: int = 0
    __repr__ = brief_repr
