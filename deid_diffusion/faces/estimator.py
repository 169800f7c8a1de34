"""Reads landmarks and non-identity attributes from a crop, and lets people set them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..pipelines.conditioning import FIELDS, POINTS
from .apertures import FOLDER as APERTURES
from .apertures import SIDE as APERTURE_SIDE
from .apertures import ApertureReader
from .attribute_classifiers import FILE as CLASSIFIERS
from .attribute_classifiers import AttributeClassifiers
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
from .lenses import has_dark_lenses, lens_shade
from .network import load_network
from .ood_score import FILE as OOD
from .ood_score import OODScore
from .skin import LIGHT_NAMES, read_light

SIDE = 128  # px, what the estimator sees
# From the first of these on a close-up says more of a mouth than landmarks do, from the second on it says all. Of shut
# mouths it says up to 0.33.
WIDE_MOUTH = 0.33, 0.45
LANDMARKS = 478
UNIT = 64.0  # px: any eye distance will do, of faces that are then fitted to their crop
_PARTS = (LANDMARKS * 3, 1, 1, 7, 1, 1)
OUTPUTS = sum(_PARTS)
HAPPY = 1
_POSE = ("yaw_deg", "pitch_deg", "roll_deg")


@dataclass(frozen=True, eq=False)
class EstimatorOutputs:
    """The estimator's head, cut into its parts.

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


def split_outputs(logits: torch.Tensor) -> EstimatorOutputs:
    """(B, 1445) -> its parts."""
    points, age, male, expression, glasses, hair = logits.split(_PARTS, dim=-1)
    return EstimatorOutputs(
        points.view(-1, LANDMARKS, 3), 35 + 20 * age[:, 0], male[:, 0], expression, glasses[:, 0], hair[:, 0]
    )


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """What one crop says.

    Attributes:
        landmarks: (478, 3) float32 crop pixels.
        attributes: all of them set.
        placement: where the face stands in the crop.
        size: side of the crop in pixels.
        ood_score: how unlike photos it is, about 1 for a photo; 0 when nothing here can tell.
    """

    landmarks: np.ndarray
    attributes: Attributes
    placement: Placement
    size: int = 256
    ood_score: float = 0.0


class FaceEstimator:
    """Reads landmarks and attributes with one network; glasses, facial hair and gender with linear classifiers."""

    def __init__(
        self,
        network: Any,
        shape: FaceShape,
        classifiers: AttributeClassifiers | None = None,
        ood: OODScore | None = None,
        apertures: ApertureReader | None = None,
    ):
        """Takes finished parts; `from_pretrained` is the usual way.

        Args:
            network: gives the numbers that `split_outputs` names, from (B, 3, S, S) in [-1, 1].
            shape: the 3D face model.
            classifiers: of glasses, facial hair and gender; None leaves them to the network.
            ood: out-of-distribution score of the network's features; None gives 0.
            apertures: reads eyes and mouth of clips; None leaves them to the landmarks.
        """
        self.network = network
        self.apertures = apertures
        self.shape = shape
        self.classifiers = classifiers
        self.ood = ood

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> FaceEstimator:
        """Loads `network/`, `face_shape.safetensors`, and what else there is of classifiers, OOD score and apertures.

        Without classifiers the network tells glasses, facial hair and gender, too.

        Args:
            folder: as `deid train pack` writes it.
            device: a torch device.

        Raises:
            ValueError: a network of another width, from before an attribute was added or after.
        """
        folder = Path(folder)
        network = load_network(folder / "network")
        if network.config.num_labels != OUTPUTS:
            raise ValueError(
                f"the estimator in {folder} gives {network.config.num_labels} numbers a face, wanted {OUTPUTS}; widen "
                f"it with `deid train estimator_head --start {folder / 'network'}`, or take the shipped one"
            )
        classifiers = AttributeClassifiers.load(folder / CLASSIFIERS) if (folder / CLASSIFIERS).exists() else None
        ood = OODScore.load(folder / OOD) if (folder / OOD).exists() else None
        shape = FaceShape.load(folder / "face_shape.safetensors")
        closer = ApertureReader.from_pretrained(folder / APERTURES, device) if (folder / APERTURES).is_dir() else None
        return cls(network.eval().to(device), shape, classifiers, ood, closer)

    def run_by(self, run: Callable[[Any, int], Any]) -> FaceEstimator:
        """The same with networks that something else runs.

        Args:
            run: a network, the side of the images that it is shown -> one that does the same.
        """
        other = copy.copy(self)
        other.network = run(self.network, SIDE)
        if self.apertures is not None:
            other.apertures = ApertureReader(run(self.apertures.network, APERTURE_SIDE))
        return other

    @torch.no_grad()
    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, 478, 3) float32 crop pixels."""
        return self._run(as_unit(crops))[0]

    @torch.no_grad()
    def analyze(self, crops: np.ndarray, moving: bool = False) -> list[FaceAnalysis]:
        """(B, S, S, 3) uint8 -> everything about each face.

        Args:
            crops: (B, S, S, 3) uint8.
            moving: only what moves counts: glasses, facial hair and gender are the network's, and nobody asks whether
                it is a photo.
        """
        images = as_unit(crops)
        landmarks, outputs, states = self._run(images)
        odd = [0.0] * len(images) if self.ood is None or moving else self.ood.ood_score(states).tolist()
        light = read_light(images, torch.from_numpy(landmarks[..., :2])).numpy()
        looks = {
            "smile": outputs.expression.softmax(-1)[:, HAPPY], "age": outputs.age, "male": outputs.male.sigmoid(),
            "glasses": outputs.glasses.sigmoid(), "facial_hair": outputs.facial_hair.sigmoid(),
        }  # fmt: skip
        if self.classifiers is not None and not moving:
            looks |= self.classifiers(images, landmarks)
        rows = torch.stack([value.cpu() for value in looks.values()], -1).numpy()
        known = [
            dict(zip((*looks, *LIGHT_NAMES), (*row, *lit), strict=True)) for row, lit in zip(rows, light, strict=True)
        ]
        if not moving:
            for crop, points, values in zip(crops, landmarks, known, strict=True):
                dark = has_dark_lenses(lens_shade(crop, points, values["skin_l"]), values["glasses"])
                values |= {"sunglasses": 1.0, "glasses": 1.0} if dark else {"sunglasses": 0.0}
        found = zip(landmarks, known, odd, strict=True)
        return [self._analysis(points, values, images.shape[-1], one) for points, values, one in found]

    def look_closer(
        self, crops: Sequence[np.ndarray], analyses: Sequence[FaceAnalysis], moving: bool = True
    ) -> list[FaceAnalysis]:
        """The same with eyes and mouth read from close-ups, which see a blink and a gaping mouth.

        Args:
            crops: (S, S, 3) uint8 each, of one size.
            analyses: of the same crops.
            moving: whether only changes count. Full lips that are shut read as a little open; of a photo, the mouth is
                read from the close-up where that sees it wide open, and from the landmarks elsewhere.
        """
        if self.apertures is None or not analyses:
            return list(analyses)
        found = self.apertures(as_unit(np.stack(crops)), np.stack([one.landmarks for one in analyses]))
        if not moving:
            closer, before = found["mouth_open"], torch.tensor([one.attributes.mouth_open for one in analyses])
            low, high = WIDE_MOUTH
            found["mouth_open"] = torch.lerp(before, closer, ((closer - low) / (high - low)).clamp(0, 1))
        return [
            replace(one, attributes=one.attributes.with_changes({n: float(row[place]) for n, row in found.items()}))
            for place, one in enumerate(analyses)
        ]

    def placed(self, analysis: FaceAnalysis, other_from_crop: np.ndarray, size: int) -> FaceAnalysis:
        """What a crop said, as another square of the same picture would show it.

        Args:
            analysis: of the crop.
            other_from_crop: (2, 3), a similarity.
            size: side of the other square in pixels.
        """
        points = analysis.landmarks.copy()
        points[:, :2] = apply(other_from_crop, points[:, :2].astype(float))
        points[:, 2] *= float(np.sqrt(abs(np.linalg.det(other_from_crop[:, :2]))))
        return self._analysis(points, analysis.attributes.to_dict(), size, analysis.ood_score)

    @torch.no_grad()
    def states(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, S, S) in [-1, 1] -> the network's hidden states, (B, C, h, w) each."""
        return self._run(images)[2]

    def _run(self, images: torch.Tensor) -> tuple[np.ndarray, EstimatorOutputs, tuple[torch.Tensor, ...]]:
        out = self.network(shrink(images).to(self.network.device), output_hidden_states=True)
        outputs = split_outputs(out.logits)
        return outputs.landmarks.cpu().numpy() * images.shape[-1], outputs, out.hidden_states

    def _analysis(self, points: np.ndarray, known: dict[str, float], size: int, ood_score: float) -> FaceAnalysis:
        if not np.isfinite(points).all():
            raise ValueError("the estimator gave landmarks that are not finite; its weights may be damaged")
        placement = self.shape.locate(points)
        known |= read_expression(placement.unplace(points))
        known |= dict(zip(_POSE, angles_from_rotation(placement.rotation), strict=True))
        clipped = {name: float(np.clip(value, FIELDS[name].low, FIELDS[name].high)) for name, value in known.items()}
        return FaceAnalysis(points, Attributes(**clipped), placement, size, ood_score)

    def target_points(
        self, analysis: FaceAnalysis, wanted: Attributes, shape_params: np.ndarray | None = None
    ) -> np.ndarray:
        """(K, 2) float32: the points of `target_mesh` that the embedded model sees, in the order of its `POINTS`.

        Args:
            analysis, wanted, shape_params: as `target_mesh` takes them.
        """
        return self.target_mesh(analysis, wanted, shape_params)[list(POINTS)]

    def target_mesh(
        self, analysis: FaceAnalysis, wanted: Attributes, shape_params: np.ndarray | None = None
    ) -> np.ndarray:
        """The landmarks for the model: pose and expression as wanted, the source's own geometry left out.

        The face stands where a crop of it would put it (`geometry.crop_from_image`): its own proportions, not the
        source's, say how large it is and how high.

        Args:
            analysis: gives, quantized, whatever `wanted` leaves open.
            wanted: pose and expression to draw.
            shape_params: (P,) geometry of the target identity in standard deviations; None for the average face.

        Returns:
            (478, 2) float32 x y in crop pixels, in the order of FaceMesh. The outline is the target's, too.
        """
        values = analysis.attributes.quantize().to_dict() | wanted.to_dict()
        expression = np.array([values[name] for name in EXPRESSION_NAMES])
        yaw, pitch, roll = (values[name] for name in _POSE)
        turned = (self.shape.expressed(expression, shape_params) @ rotation_from_angles(yaw, pitch, 0.0).T)[:, :2]
        mesh = apply(crop_from_image(turned[list(FIVE)] * UNIT, analysis.size), turned * UNIT)
        tilt = rotation_from_angles(0.0, 0.0, roll)[:2, :2]
        return ((mesh - analysis.size / 2) @ tilt.T + analysis.size / 2).astype(np.float32)


def shrink(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) -> (B, 3, SIDE, SIDE), as the estimator sees them."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def as_unit(crops: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
