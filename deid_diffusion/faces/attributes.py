"""Non-identity attributes of a face: what can be estimated and set, and how it is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..pipelines.conditioning import FIELDS, attribute_vector
from ..settings import check_attributes

# Unquantized, these numbers are a fingerprint: a resting brow or an iris's height is bone and lids. Quantized as a
# viewer would name them (half open, looking left, in the thirties) they describe thousands of people.
QUANTIZATION_STEP = {
    "yaw_deg": 7.5, "pitch_deg": 7.5, "roll_deg": 10.0, "mouth_open": 0.25, "smile": 0.25, "eyes_open": 0.34,
    "brow_raise": 0.34, "gaze_x": 0.34, "gaze_y": 0.34, "age": 10.0, "male": 1.0, "skin_l": 5.0, "skin_a": 4.0,
    "skin_b": 5.0, "light_x": 0.2, "light_y": 0.2, "glasses": 1.0, "facial_hair": 1.0,
    "sunglasses": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Attributes:
    """What a face looks like, without whose it is. None = left to the model.

    Ranges, units and signs: `pipelines.conditioning.FIELDS`, whose order this class repeats.
    """

    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    mouth_open: float | None = None
    smile: float | None = None
    eyes_open: float | None = None
    brow_raise: float | None = None
    gaze_x: float | None = None
    gaze_y: float | None = None
    age: float | None = None
    male: float | None = None
    skin_l: float | None = None
    skin_a: float | None = None
    skin_b: float | None = None
    light_x: float | None = None
    light_y: float | None = None
    glasses: float | None = None
    facial_hair: float | None = None
    sunglasses: float | None = None

    def __post_init__(self) -> None:
        check_attributes({name: value for name, value in vars(self).items() if value is not None})

    def to_dict(self) -> dict[str, float]:
        """The values that are set, by name."""
        return {name: float(value) for name, value in vars(self).items() if value is not None}

    def to_vector(self) -> torch.Tensor:
        """(2A,) float32: scaled values, then validity bits, as the pipeline takes them."""
        return attribute_vector([self.to_dict()])[0]

    def with_changes(self, changes: Mapping[str, float | None]) -> Attributes:
        """A copy with some values set, or given up with None."""
        check_attributes({name: value for name, value in changes.items() if value is not None})
        return replace(self, **changes)

    def quantize(self, coarser: Mapping[str, float] | None = None, factor: float = 1.0) -> Attributes:
        """A copy in the steps of `QUANTIZATION_STEP`: what may pass from a source to the new face.

        Args:
            coarser: factors on the steps, by name.
            factor: on all steps; 0 leaves the values as they were estimated.
        """
        if factor == 0:
            return self
        steps = {name: QUANTIZATION_STEP[name] * (coarser or {}).get(name, 1.0) * factor for name in self.to_dict()}
        return Attributes(**within({name: round(value / steps[name]) * steps[name] for name, value in
                                    self.to_dict().items()}))  # fmt: skip

    def shifted(self, by: Mapping[str, float]) -> Attributes:
        """A copy with something added to some of its values, within their ranges.

        Args:
            by: what, by name; of what is not set nothing is shifted.
        """
        return Attributes(**within({name: value + by.get(name, 0.0) for name, value in self.to_dict().items()}))


def within(values: Mapping[str, float]) -> dict[str, float]:
    """Values by name, in the ranges of `FIELDS`."""
    return {name: min(max(value, FIELDS[name].low), FIELDS[name].high) for name, value in values.items()}
