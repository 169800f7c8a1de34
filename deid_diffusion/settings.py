"""Everything a user can choose about an anonymization, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

from .messages import brief, brief_repr
from .pipelines.conditioning import FIELDS, check_value
from .pipelines.repulsion import Repulsion, as_repulsion
from .pipelines.sd_landmarks import STYLES
from .privacy import LEVELS, PrivacyLevel
from .types import KEEPABLE, Redaction, member

if TYPE_CHECKING:
    from .faces.references import References
    from .methods.k_same import Cohort
    from .methods.protocol import Method
    from .methods.pseudonyms import Pseudonyms

# What may be withheld from the model without breaking the geometry of the new face.
APPEARANCE = "appearance"  # no attribute: the group of looks from which the target is taken
DROPPABLE = (
    *("age", "male", "skin_l", "skin_a", "skin_b", "light_x", "light_y", "glasses", "facial_hair", "sunglasses"),
    APPEARANCE,
)


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
        repulsion_factor: factor on the repulsion's scale; each retry doubles it again.
        attributes: values to set, by name, in real units; the rest is taken over from the source.
        drop_attributes: attributes not to take over from the source (soft biometrics): any of DROPPABLE;
            "appearance" for targets of any looks.
        privacy: "standard", "high" or "maximum": how little passes from the source, see `privacy.LEVELS`.
        redact_with: how a face is hidden that could not be replaced.
        method: what becomes of faces: a name of `methods.method_names()`, or an object shaped like `methods.Method`.
        target: whom swap makes of everybody: a number of the bank, or "random" for one that follows from the seed.
        attraction: scale of the guidance towards that person, in the unit of `Repulsion.scale`; 0 for none.
        quantization: factor on the steps in which attributes pass from the source, see
            `faces.attributes.QUANTIZATION_STEP`; 0 passes them as they were estimated, which is a fingerprint. Of
            pictures; clips have `ClipOptions.motion`.
        pseudonyms: a key, by which the same person becomes the same stranger in every picture and clip; None for a new
            stranger each time. Only for methods that give each person a face of their own.
        against: recognisers, beside the identity encoder, against which perturb changes faces: TorchScript files with
            their format, as `deid eval --judge` takes them, such as "net.pt:112:rgb:threshold=0.4".
        max_change: levels of 255 by which perturb changes a pixel at most (L-infinity).
        max_dssim: (1 - SSIM) / 2 of the face before and after, which perturb keeps to.
        k: people a face is averaged from by k-same.
        cohort: people of the whole set, from `FaceAnonymizer.fit_cohort`; None averages those of the picture itself.
        candidates: faces generated for each source in each try, as different people; of those that pass, the one is
            taken that best has the pose, expression and attributes asked for, whose hair and skin go on across the
            edge, and that is most like photos. None for the family's own: 2 for face256, 1 for Stable Diffusion.
        tries: how often that is tried before a face is redacted.
        threshold: a result whose similarity to its source reaches this is tried again, then redacted; None for the
            identity encoder's own, calibrated at a false accept rate of 1 %. k-same counts faces that reach it as one
            person.
        keep: people to leave alone by any method, from `FaceAnonymizer.embed_references`.
        only: likewise; everybody else is left alone. What either leaves and misses: `faces.references`.
        panorama: every picture shows 360 degrees from border to border, so that faces may lie across its seam; without
            it those do that are twice as wide as high and say so (GPano).
        keep_metadata: what of the source's metadata the saved picture carries: any of `types.KEEPABLE`.
        max_pixels: a picture of more is refused; None for 300 million.
        batch: faces a model call; None for 8, or 1 for Stable Diffusion, which needs gigabytes for each.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    noise_scale: float = 0.8
    prompt: str = ""
    negative_prompt: str = ""
    landmark_style: str = "mediapipe"
    repulsion: Repulsion | Mapping[str, float] | None = field(default_factory=Repulsion)
    repulsion_factor: float = 1.0
    attributes: Mapping[str, float] = field(default_factory=dict)
    drop_attributes: tuple[str, ...] = ()
    privacy: str = "standard"
    redact_with: Redaction = Redaction.BLANK
    method: str | Method = "inpaint"
    candidates: int | None = None
    tries: int = 3
    threshold: float | None = None
    keep: References | None = None
    only: References | None = None
    batch: int | None = None
    panorama: bool = False
    keep_metadata: tuple[str, ...] = ()
    max_pixels: int | None = None
    target: int | str = "random"
    attraction: float = 30.0
    quantization: float = 1.0
    pseudonyms: Pseudonyms | None = None
    against: tuple[str, ...] = ()
    max_change: float = 12.0
    max_dssim: float = 0.05
    k: int = 5
    cohort: Cohort | None = None
    __repr__ = brief_repr

    @property
    def level(self) -> PrivacyLevel:
        """The stop of the dial."""
        return LEVELS[self.privacy]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Attributes that are not taken over: those named, and those of the dial."""
        return tuple(sorted({*self.drop_attributes, *self.level.drop} - {APPEARANCE}))

    @property
    def looks(self) -> bool:
        """Whether targets are taken from the source's group of looks, where the identity bank has groups."""
        return APPEARANCE not in (*self.drop_attributes, *self.level.drop)

    def __post_init__(self) -> None:
        object.__setattr__(self, "repulsion", as_repulsion(self.repulsion))
        object.__setattr__(self, "redact_with", member(Redaction, self.redact_with, "redact_with"))
        check_attributes(self.attributes)
        unknown = set(self.drop_attributes) - set(DROPPABLE)
        if unknown:
            named = sorted(brief(name if isinstance(name, str) else type(name)) for name in unknown)[:5]
            raise ValueError(f"drop_attributes takes any of {', '.join(DROPPABLE)}; got {', '.join(named)}")
        if not isinstance(self.keep_metadata, tuple | list) or any(n not in KEEPABLE for n in self.keep_metadata):
            raise ValueError(f"keep_metadata takes any of {', '.join(KEEPABLE)}; got {brief(self.keep_metadata)}")
        lowest = dict.fromkeys(("steps", "candidates", "tries", "batch", "max_pixels"), 1) | {"k": 2}
        positive = ("repulsion_factor", "noise_scale", "guidance_scale", "attraction", "quantization")
        lowest |= dict.fromkeys(positive, 0)
        for name, low in lowest.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {brief(getattr(self, name))}")
        if self.privacy not in LEVELS:
            raise ValueError(f"privacy must be one of {', '.join(LEVELS)}, got {brief(self.privacy)}")
        if self.landmark_style not in STYLES:
            raise ValueError(f"landmark_style must be one of {', '.join(STYLES)}, got {brief(self.landmark_style)}")
        self._check_methods()
        if self.keep is not None and self.only is not None:
            raise ValueError("give people to keep or people to anonymize, not both")

    def _check_methods(self) -> None:
        """What single methods read."""
        if not isinstance(self.against, tuple | list) or not all(isinstance(one, str) for one in self.against):
            raise ValueError(f"against takes recognisers' files with their format, got {brief(self.against)}")
        if not 1 <= self.max_change <= 64 or not 0 < self.max_dssim <= 0.5:
            raise ValueError(
                "max_change must be in 1..64 levels and max_dssim in (0, 0.5], got "
                f"{brief(self.max_change)} and {brief(self.max_dssim)}"
            )
        whole = isinstance(self.target, int) and not isinstance(self.target, bool) and self.target >= 0
        if self.target != "random" and not whole:
            raise ValueError(f"target must be random or a number of the bank, got {brief(self.target)}")


def check_attributes(values: Mapping[str, float]) -> None:
    """Refuses a name or a value that no attribute has.

    Raises:
        ValueError: there is one.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"attributes must be values by name, got {brief(values)}")
    for name, value in values.items():
        if name not in FIELDS:
            raise ValueError(f"unknown attribute {brief(name)}; know {', '.join(FIELDS)}")
        if value is None:
            continue
        # A clip asks a hundred times a frame, nearly always about a float.
        if type(value) is not float and (not isinstance(value, Real) or brief(value).startswith("a long")):
            raise ValueError(f"{name} must be a number, got {brief(value)}")
        check_value(name, value)
