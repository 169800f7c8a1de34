"""The stops of the privacy dial: how much of a source passes to its new face. What each costs: docs/privacy.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class PrivacyLevel:
    """One stop of the dial.

    Attributes:
        coarser: factors on the steps of `attributes.QUANTIZATION_STEP`, by name; 1 where none is named.
        skin_jitter: by how much, at most, the skin's L, a and b are moved at random before they are quantized.
        growth: by which share of the crop's side the mask reaches past the face, over hairline and ears.
        drop: attributes that are not taken over; "appearance" for targets of any group of looks.
        texture: whether the roughness of the skin passes.
        reach: how far the people may be from what is wanted among whom the target is drawn, see `IdentityBank.choose`.
    """

    coarser: Mapping[str, float] = field(default_factory=dict)
    skin_jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    growth: float = 0.12
    drop: tuple[str, ...] = ()
    texture: bool = True
    reach: float = 3.0

    def jitter(self, seed: int) -> dict[str, float]:
        """What is added to the skin's colour, by name.

        Args:
            seed: of the draw; every picture needs its own, or two of them tell what was added.
        """
        drawn = np.random.default_rng(seed).uniform(-1, 1, 3) * self.skin_jitter
        return dict(zip(("skin_l", "skin_a", "skin_b"), drawn.tolist(), strict=True))


WORN = ("glasses", "facial_hair", "sunglasses")
# The hairline and the ears tell most, so the mask reaches over them at every stop: masks of 2 to 14 % were trained.
# Roughness tells no attacker anything that was measured, and without it large faces lose half of their detail.
# The skin's colour is dropped at none: a coloured backdrop would tint it, and much wider steps show at the neck.
LEVELS = {
    "standard": PrivacyLevel(skin_jitter=(2.5, 2.0, 2.5)),
    "high": PrivacyLevel(
        coarser={"age": 2.0, "pitch_deg": 1.5, "yaw_deg": 1.5},
        skin_jitter=(4.0, 3.0, 4.0), drop=WORN, reach=6.0,
    ),
    "maximum": PrivacyLevel(
        coarser=dict.fromkeys(("pitch_deg", "yaw_deg", "mouth_open", "smile", "eyes_open", "brow_raise"), 2.0)
        | {"skin_l": 1.5, "skin_a": 2.0, "skin_b": 2.0},
        skin_jitter=(4.0, 3.0, 4.0), growth=0.13, drop=("age", *WORN, "light_x", "light_y", "appearance"),
        texture=False, reach=10.0,
    ),
}  # fmt: skip
