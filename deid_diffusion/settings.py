"""Everything a user can choose about an anonymization, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .attributes import check_attributes
from .pipelines.repulsion import Repulsion
from .types import Method, Redaction

# What may be withheld from the model without breaking the geometry of the new face.
FORGETTABLE = ("age", "male", "skin_l", "skin_a", "skin_b", "light_x", "light_y", "glasses", "facial_hair")


@dataclass(frozen=True, eq=False)
class Settings:
    """How faces are anonymized.

    Attributes:
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 is off and half the price.
        temperature: length of the initial noise; below 1 trades variety for plausible faces.
        repulsion: the push off the source.
        strength: factor on the repulsion's scale; each retry doubles it again.
        attributes: values to set, by name, in real units; the rest is taken over from the source.
        forget: attributes not to take over from the source (soft biometrics): any of FORGETTABLE.
        redact_with: how a face is hidden that could not be replaced.
        method: a new face, or a classical redaction of all.
        tries: runs of the model for a face before it is redacted.
        threshold: a result whose similarity to its source reaches this is tried again, then redacted; None for the
            guide's own, calibrated at a false accept rate of 1 %.
        keep: (R, D) embeddings of people to leave alone, from `FaceAnonymizer.people`.
        only: (R, D) embeddings; everybody else is left alone.
        batch: faces a model call.
    """

    steps: int = 8
    guidance_scale: float = 1.0
    temperature: float = 0.6
    repulsion: Repulsion = field(default_factory=Repulsion)
    strength: float = 1.0
    attributes: Mapping[str, float] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    redact_with: Redaction = Redaction.BLANK
    method: Method = Method.INPAINT
    tries: int = 3
    threshold: float | None = None
    keep: np.ndarray | None = None
    only: np.ndarray | None = None
    batch: int = 8

    def __post_init__(self):
        object.__setattr__(self, "redact_with", Redaction(self.redact_with))
        object.__setattr__(self, "method", Method(self.method))
        check_attributes(self.attributes)
        unknown = set(self.forget) - set(FORGETTABLE)
        if unknown:
            raise ValueError(f"forget takes any of {', '.join(FORGETTABLE)}; got {', '.join(sorted(unknown))}")
        for name, low in (("steps", 1), ("tries", 1), ("batch", 1), ("strength", 0), ("temperature", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")
        if self.keep is not None and self.only is not None:
            raise ValueError("give people to keep or people to anonymize, not both")
