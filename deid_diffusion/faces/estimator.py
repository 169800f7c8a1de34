"""Reads landmarks and non-identity attributes from a crop, and lets people set them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..models.weights import weights_dir
from ..pipelines.conditioning import FIELDS, POINTS
from .attribute_classifiers import FILE as PROBES
from .attribute_classifiers import Probes
from .attributes import Attributes
from .face_shape import (
    EXPRESSION_NAMES,
    FaceShape,
    Placement,
    angles_from_rotation,
    read_expression,
    rotation_from_angles,
)
from .geometry import FIVE, apply, crop_from_image
from .ood_score import FILE as LIKENESS
from .ood_score import Likeness
from .skin import LIGHT_NAMES, read_light

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

SIDE = 128  # px, what the reader sees
LANDMARKS = 478
UNIT = 64.0  # px: any eye distance will do, of faces that are then fitted to their crop
_PARTS = (LANDMARKS * 3, 1, 1, 7, 1, 1)
OUTPUTS = sum(_PARTS)
HAPPY = 1
_POSE = ("yaw_deg", "pitch_deg", "roll_deg")


@dataclass(frozen=True, eq=False)
class ReaderOutputs:
    """The reader's head, cut into its parts.

    Attributes:
        landmarks: (B, 478, 3) x y z in units of the crop's side.
        age: (B,) years.
        male: (B,) logit.
        expression: (B, 7) logits: neutral happy sad angry fearful disgusted surprised.
        glasses, facial_hair: (B,) logits.
    """

    landmarks: torch.Tensor
    age: torch.Tensor
    male: torch.Tensor
    expression: torch.Tensor
    glasses: torch.Tensor
    facial_hair: torch.Tensor


def split_outputs(logits: torch.Tensor) -> ReaderOutputs:
    """(B, 1445) -> its parts."""
    points, age, male, expression, glasses, hair = logits.split(_PARTS, dim=-1)
    return ReaderOutputs(
        points.view(-1, LANDMARKS, 3), 35 + 20 * age[:, 0], male[:, 0], expression, glasses[:, 0], hair[:, 0]
    )


@dataclass(frozen=True, eq=False)
class Reading:
    """What one crop says.

    Attributes:
        landmarks: (478, 3) float32 crop pixels.
        attributes: all of them set.
        placement: where the face stands in the crop.
        size: side of the crop in pixels.
        oddity: how unlike photos it is, about 1 for a photo; 0 when nothing here can tell.
    """

    landmarks: np.ndarray
    attributes: Attributes
    placement: Placement
    size: int = 256
    oddity: float = 0.0


class FaceReader:
    """Reads landmarks and attributes with the shipped network; glasses, facial hair, gender with probes."""

    def __init__(
        self,
        network: ResNetForImageClassification,
        shape: FaceShape,
        probes: Probes | None = None,
        likeness: Likeness | None = None,
    ):
        self.network = network
        self.shape = shape
        self.probes = probes
        self.likeness = likeness

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None, device: str = "cpu") -> FaceReader:
        """Loads `network/`, `face_shape.safetensors`, and probes and likeness if they are there, of a folder.

        By default the shipped reader. Without probes the network tells glasses, facial hair and gender, too.

        Raises:
            ValueError: a network of another width, from before an attribute was added or after.
        """
        from transformers import ResNetForImageClassification

        folder = weights_dir("reader") if folder is None else Path(folder)
        network = ResNetForImageClassification.from_pretrained(folder / "network", dtype=torch.float32)
        if network.config.num_labels != OUTPUTS:
            raise ValueError(
                f"the reader in {folder} gives {network.config.num_labels} numbers a face, wanted {OUTPUTS}; widen it "
                f"with `deid train estimator_head --start {folder / 'network'}`, or take the shipped one"
            )
        probes = Probes.load(folder / PROBES) if (folder / PROBES).exists() else None
        likeness = Likeness.load(folder / LIKENESS) if (folder / LIKENESS).exists() else None
        return cls(network.eval().to(device), FaceShape.load(folder / "face_shape.safetensors"), probes, likeness)

    @torch.no_grad()
    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, 478, 3) float32 crop pixels."""
        return self._run(as_unit(crops))[0]

    @torch.no_grad()
    def read(self, crops: np.ndarray) -> list[Reading]:
        """(B, S, S, 3) uint8 -> everything about each face."""
        images = as_unit(crops)
        landmarks, outputs, states = self._run(images)
        odd = [0.0] * len(images) if self.likeness is None else self.likeness.oddity(states).tolist()
        light = read_light(images, torch.from_numpy(landmarks[..., :2])).numpy()
        looks = {
            "smile": outputs.expression.softmax(-1)[:, HAPPY], "age": outputs.age, "male": outputs.male.sigmoid(),
            "glasses": outputs.glasses.sigmoid(), "facial_hair": outputs.facial_hair.sigmoid(),
        }  # fmt: skip
        if self.probes is not None:
            looks |= self.probes.read(images, landmarks)
        rows = torch.stack([value.cpu() for value in looks.values()], -1).numpy()
        return [
            self._reading(points, dict(zip((*looks, *LIGHT_NAMES), (*row, *lit), strict=True)), images.shape[-1], one)
            for points, row, lit, one in zip(landmarks, rows, light, odd, strict=True)
        ]

    @torch.no_grad()
    def states(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, S, S) in [-1, 1] -> the network's hidden states, (B, C, h, w) each."""
        return self._run(images)[2]

    def _run(self, images: torch.Tensor) -> tuple[np.ndarray, ReaderOutputs, tuple[torch.Tensor, ...]]:
        out = self.network(shrink(images).to(self.network.device), output_hidden_states=True)
        outputs = split_outputs(out.logits)
        return outputs.landmarks.cpu().numpy() * images.shape[-1], outputs, out.hidden_states

    def _reading(self, points: np.ndarray, known: dict[str, float], size: int, oddity: float) -> Reading:
        if not np.isfinite(points).all():
            raise ValueError("the reader gave landmarks that are not finite; its weights may be damaged")
        placement = self.shape.locate(points)
        known |= read_expression(placement.unplace(points))
        known |= dict(zip(_POSE, angles_from_rotation(placement.rotation), strict=True))
        clipped = {name: float(np.clip(value, FIELDS[name].low, FIELDS[name].high)) for name, value in known.items()}
        return Reading(points, Attributes(**clipped), placement, size, oddity)

    def guide_points(self, reading: Reading, wanted: Attributes, person: np.ndarray | None = None) -> np.ndarray:
        """(K, 2) float32: the points of `guide_mesh` that the embedded model sees, in the order of its `POINTS`."""
        return self.guide_mesh(reading, wanted, person)[list(POINTS)]

    def guide_mesh(self, reading: Reading, wanted: Attributes, person: np.ndarray | None = None) -> np.ndarray:
        """The landmarks for the model: pose and expression as wanted, the source's own geometry left out.

        The face stands where a crop of it would put it (`geometry.crop_from_image`): its own proportions, not the
        source's, say how large it is and how high.

        Args:
            reading: gives, in steps, whatever `wanted` leaves open.
            wanted: pose and expression to draw.
            person: (P,) geometry of the target identity in standard deviations; None for the average face.

        Returns:
            (478, 2) float32 x y in crop pixels, in the order of FaceMesh. The outline is the target's, too.
        """
        values = reading.attributes.coarse().to_dict() | wanted.to_dict()
        expression = np.array([values[name] for name in EXPRESSION_NAMES])
        yaw, pitch, roll = (values[name] for name in _POSE)
        turned = (self.shape.expressed(expression, person) @ rotation_from_angles(yaw, pitch, 0.0).T)[:, :2]
        mesh = apply(crop_from_image(turned[list(FIVE)] * UNIT, reading.size), turned * UNIT)
        tilt = rotation_from_angles(0.0, 0.0, roll)[:2, :2]
        return ((mesh - reading.size / 2) @ tilt.T + reading.size / 2).astype(np.float32)


def shrink(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) -> (B, 3, SIDE, SIDE), as the reader sees them."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def as_unit(crops: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
