"""Turns what a face should be (landmarks, attributes, identity, surroundings) into what the unet reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# The points the model sees, by FaceMesh number. No jaw line: its outline is the person's.
# fmt: off
POINTS = (
    33, 133, 159, 145, 468,          # left eye of the image: outer, inner corner, upper, lower lid, iris
    263, 362, 386, 374, 473,         # right eye of the image, same order
    70, 105, 107, 300, 334, 336,     # brows, outer to inner, left then right
    168, 1, 2, 98, 327,              # nose: bridge, tip, base, wings
    61, 291, 0, 17, 13, 14,          # mouth: corners, outer lips, inner lips (top, bottom)
)
# fmt: on


@dataclass(frozen=True)
class Field:
    """One attribute: its range, and the affine map that brings it near [-1, 1] for the unet."""

    low: float
    high: float
    centre: float
    scale: float
    unit: str


FIELDS: dict[str, Field] = {
    "yaw_deg": Field(-90, 90, 0, 45, "degrees, positive when the face turns to the image's right"),
    "pitch_deg": Field(-90, 90, 0, 30, "degrees, positive when the face looks up"),
    "roll_deg": Field(-180, 180, 0, 30, "degrees, positive clockwise in the image"),
    "mouth_open": Field(0, 1, 0.25, 0.5, "0 closed to 1 wide open (lip gap of half the eye distance)"),
    "smile": Field(0, 1, 0.5, 0.5, "0 none to 1 broad"),
    "eyes_open": Field(0, 1, 0.7, 0.4, "0 shut to 1 wide"),
    "brow_raise": Field(0, 1, 0.5, 0.5, "0 lowered to 1 raised"),
    "gaze_x": Field(-1, 1, 0, 0.4, "-1 to the image's left, 1 to its right, relative to the head"),
    "gaze_y": Field(-1, 1, 0, 0.4, "-1 down, 1 up, relative to the head"),
    "age": Field(0, 100, 35, 20, "years"),
    "male": Field(0, 1, 0.5, 0.5, "presented gender, 0 feminine to 1 masculine"),
    "skin_l": Field(0, 100, 60, 20, "CIELab L* of the skin as lit"),
    "skin_a": Field(-128, 127, 14, 8, "CIELab a* of the skin"),
    "skin_b": Field(-128, 127, 16, 10, "CIELab b* of the skin"),
    "light_x": Field(-1, 1, 0, 0.3, "-1 lit from the image's left, 1 from its right"),
    "light_y": Field(-1, 1, 0, 0.3, "-1 lit from below, 1 from above"),
    "glasses": Field(0, 1, 0.5, 0.5, "0 none to 1 glasses before the eyes"),
    "facial_hair": Field(0, 1, 0.5, 0.5, "0 clean-shaven to 1 beard or moustache"),
    "sunglasses": Field(0, 1, 0.5, 0.5, "0 eyes that are seen to 1 dark lenses before them"),
}
ATTRIBUTE_NAMES = tuple(FIELDS)
FEWEST = 18  # attributes that every unet reads; those after them were added later


def shown(value: object) -> str:
    """A value for an error message: a word or a number whole, of anything longer its type, for it may be a picture."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def attribute_vector(attributes: Sequence[Mapping[str, float | None]]) -> torch.Tensor:
    """One mapping a face -> (B, 2A) float32: A scaled values, then A validity bits.

    A name that is missing or None is left to the model.

    Raises:
        ValueError: an unknown name, or a value outside its range.
    """
    rows = torch.zeros(len(attributes), 2 * len(FIELDS))
    for row, values in zip(rows, attributes, strict=True):
        for name, value in values.items():
            if value is None:
                continue
            check_value(name, value)
            spec, column = FIELDS[name], ATTRIBUTE_NAMES.index(name)
            row[column] = (value - spec.centre) / spec.scale
            row[column + len(FIELDS)] = 1
    return rows


def check_value(name: str, value: float) -> None:
    """Refuses what no attribute is.

    Args:
        name: of an attribute.
        value: in its unit.

    Raises:
        ValueError: an unknown name, or a value outside its range.
    """
    if name not in FIELDS:
        raise ValueError(f"unknown attribute {shown(name)}; know {', '.join(FIELDS)}")
    spec = FIELDS[name]
    if not spec.low <= value <= spec.high:
        raise ValueError(f"{name} must lie in [{spec.low}, {spec.high}] ({spec.unit}), got {shown(value)}")


def first_attributes(scaled: torch.Tensor, count: int) -> torch.Tensor:
    """(B, 2A) of `attribute_vector` -> (B, 2 `count`): for a unet that was trained before the others were added."""
    return scaled.unflatten(1, (2, -1))[:, :, :count].flatten(1)


def condition_vector(attributes: torch.Tensor, identity: torch.Tensor | None, identity_dim: int) -> torch.Tensor:
    """(B, 2A), (B, D) or None -> (B, 2A + D + 1): attributes, unit-norm identity times sqrt(D), its validity bit.

    Raises:
        ValueError: `identity` is not (B, `identity_dim`).
    """
    batch = attributes.shape[0]
    if identity is None:
        tail = attributes.new_zeros(batch, identity_dim + 1)
    else:
        if identity.shape != (batch, identity_dim):
            raise ValueError(f"identity must be ({batch}, {identity_dim}), got {tuple(identity.shape)}")
        # sqrt(D) brings each coordinate to the size of the attributes.
        unit = F.normalize(identity.to(attributes), dim=-1) * identity_dim**0.5
        tail = torch.cat([unit, attributes.new_ones(batch, 1)], dim=-1)
    return torch.cat([attributes, tail], dim=-1)


def landmark_maps(points: torch.Tensor, size: int, fold: int, sigma: float = 6.0) -> torch.Tensor:
    """(B, K, 2) x y in crop pixels -> (B, K, size/fold, size/fold): one Gaussian of `sigma` pixels a point.

    A point that is not finite draws nothing: the model is then free to choose.
    """
    grid = (torch.arange(size // fold, device=points.device, dtype=points.dtype) + 0.5) * fold
    # Outer product of two one-dimensional Gaussians.
    across = torch.exp(-0.5 * ((grid - points[..., :1]) / sigma) ** 2)
    down = torch.exp(-0.5 * ((grid - points[..., 1:]) / sigma) ** 2)
    return torch.nan_to_num(down[..., :, None] * across[..., None, :], nan=0.0)


def fold(image: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, C, S, S) -> (B, C factor^2, S/factor, S/factor): pixels to channels, nothing lost."""
    return F.pixel_unshuffle(image, factor)


def unfold(folded: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, C factor^2, S/factor, S/factor) -> (B, C, S, S): the inverse of `fold`."""
    return F.pixel_shuffle(folded, factor)


def erase(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Replaces what the mask covers by a smooth continuation of what it does not: no masked pixel is read.

    Args:
        image: (B, 3, S, S) in [-1, 1].
        mask: (B, 1, S, S) in [0, 1]; everything above 0 counts as masked.

    Returns:
        (B, 3, S, S), equal to `image` where the mask is 0.
    """
    known = (mask <= 0).to(image)
    levels = [(image * known, known)]
    while min(levels[-1][0].shape[-2:]) > 1:
        colour, weight = levels[-1]
        levels.append((F.avg_pool2d(colour, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)))
    # Push-pull: coarse averages of the known fill what finer levels do not know (Gortler et al. 1996, 3.4).
    colour, weight = levels[-1]
    filled = colour / weight.clamp_min(1e-6)
    for colour, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        sure = weight.clamp(0, 1)
        filled = colour + (1 - sure) * coarse
    return image * known + filled * (1 - known)
