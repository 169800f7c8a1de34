"""Everything a user can choose about an anonymization, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .attributes import check_attributes
from .k_same import Crowd
from .pipelines.repulsion import Repulsion, as_repulsion
from .pipelines.sd_landmarks import STYLES
from .types import NOT_YET, Method, Redaction

# What may be withheld from the model without breaking the geometry of the new face.
FORGETTABLE = ("age", "male", "skin_l", "skin_a", "skin_b", "light_x", "light_y", "glasses", "facial_hair")
METHODS = tuple(method.value for method in Method if method not in NOT_YET)


@dataclass(frozen=True, eq=False)
class Settings:
    """How faces are anonymized.

    Attributes:
        steps: denoising steps; None for the family's own: 4 for face256, 25 for Stable Diffusion.
        guidance_scale: classifier-free guidance; 1 is off and half the price; None for the family's own: 1 and 5.
        noise_scale: factor on the initial noise; below 1 trades variety for plausible faces. face256 only.
        prompt, negative_prompt: words before what the attributes say, and words to stay away from. Stable Diffusion
            only.
        landmark_style: what the ControlNet was trained on, "mediapipe" or "dlib68". Stable Diffusion only.
        repulsion: identity-repulsion guidance off the source: a Repulsion, a mapping of its fields, or None for none.
        strength: factor on the repulsion's scale; each retry doubles it again.
        attributes: values to set, by name, in real units; the rest is taken over from the source.
        forget: attributes not to take over from the source (soft biometrics): any of FORGETTABLE.
        redact_with: how a face is hidden that could not be replaced.
        method: a new face, a classical redaction of all, or the average of k people (`k_same`).
        k: people a face is averaged from by Method.K_SAME.
        crowd: the people of the whole set, from `FaceAnonymizer.crowd`; None averages those of the picture itself.
        candidates: faces painted for each source in each try, as different people; of those that pass, the one is
            taken that best has the pose, expression and attributes asked for, whose hair and skin go on across the
            edge, and that is most like photos. None for the family's own: 2 for face256, 1 for Stable Diffusion.
        tries: how often that is tried before a face is redacted.
        threshold: a result whose similarity to its source reaches this is tried again, then redacted; None for the
            guide's own, calibrated at a false accept rate of 1 %. K_SAME counts faces that reach it as one person.
        keep: (R, D) embeddings of people to leave alone, from `FaceAnonymizer.people`.
        only: (R, D) embeddings; everybody else is left alone.
        batch: faces a model call; None for 8, or 1 for Stable Diffusion, which needs gigabytes for each.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    noise_scale: float = 0.8
    prompt: str = ""
    negative_prompt: str = ""
    landmark_style: str = "mediapipe"
    repulsion: Repulsion | Mapping[str, float] | None = field(default_factory=Repulsion)
    strength: float = 1.0
    attributes: Mapping[str, float] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    redact_with: Redaction = Redaction.BLANK
    method: Method = Method.INPAINT
    candidates: int | None = None
    tries: int = 3
    threshold: float | None = None
    keep: np.ndarray | None = None
    only: np.ndarray | None = None
    batch: int | None = None
    k: int = 5
    crowd: Crowd | None = None

    def __post_init__(self):
        object.__setattr__(self, "repulsion", as_repulsion(self.repulsion))
        object.__setattr__(self, "redact_with", Redaction(self.redact_with))
        object.__setattr__(self, "method", Method(self.method))
        if self.method in NOT_YET:
            raise ValueError(f"method {self.method.value} is not available yet; take one of {', '.join(METHODS)}")
        check_attributes(self.attributes)
        unknown = set(self.forget) - set(FORGETTABLE)
        if unknown:
            raise ValueError(f"forget takes any of {', '.join(FORGETTABLE)}; got {', '.join(sorted(unknown))}")
        lowest = dict.fromkeys(("steps", "candidates", "tries", "batch"), 1) | {"k": 2}
        lowest |= dict.fromkeys(("strength", "noise_scale", "guidance_scale"), 0)
        for name, low in lowest.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")
        if self.landmark_style not in STYLES:
            raise ValueError(f"landmark_style must be one of {', '.join(STYLES)}, got {self.landmark_style!r}")
        if self.keep is not None and self.only is not None:
            raise ValueError("give people to keep or people to anonymize, not both")
