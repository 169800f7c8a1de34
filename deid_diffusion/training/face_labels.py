"""Labels one generated portrait: crops, landmarks, attributes, embedding, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.faces.align import FAR_OFF, crop_faces, cut, disagreement
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.centerface import CenterFace
from deid_diffusion.faces.detect import merge
from deid_diffusion.faces.estimator import FaceAnalysis, FaceEstimator, as_unit, shrink, split_outputs
from deid_diffusion.faces.face_shape import angles_from_rotation, read_expression
from deid_diffusion.faces.facemesh import SEEN, FaceMesh
from deid_diffusion.faces.geometry import FIVE, OMZ_TEMPLATE, apply, compose, crop_from_image, fit_similarity, invert
from deid_diffusion.faces.lenses import DARK_LENS, DEEP, TRACE, has_dark_lenses, lens_shade
from deid_diffusion.faces.skin import individual_typology_angle
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.types import Face

SIZE, SMALL = 512, 256  # px, the two crops; everything is in pixels of the smaller one
LOOKED_AT = 256  # px: what the detector sees of a picture, enough for faces of a sixteenth of its side
TEACHER_SIDE, AGE_SIDE = 128, 112  # px, what these networks take
# Faults. Of 400 pictures drawn blindly 7 are above ODD; a face beside the first counts from SECOND on.
ODD, SECOND, LEAST_SIDE = 1.2, 0.3, 400.0
LABEL_RULE = (ODD, SECOND, LEAST_SIDE, DARK_LENS, TRACE, DEEP)
MEASURED = (
    *("log_age", "male", "ita_deg", "glasses", "lens_shade", "facial_hair", "yaw_deg", "mouth_open"),
    *("smile", "light_x", "light_y", "pitch_deg", "ood_score"),
)


@dataclass(frozen=True, eq=False)
class LabelledFace:
    """One portrait, cut out and described.

    Attributes:
        large, small: (512, 512, 3) and (256, 256, 3) uint8 RGB, the same square.
        crop256_from_image1024: (2, 3) float64.
        native_side: px of the square in its picture.
        landmarks: (478, 3) float32 px of the 256 px crop.
        attributes: (A,) float32 in the order of ATTRIBUTE_NAMES.
        expression: (7,) float32 probabilities.
        embedding: (D,) float32 unit norm.
        measured: (M,) float32 in the order of MEASURED.
        fault: why it should not be trained on; empty for none.
    """

    large: np.ndarray
    small: np.ndarray
    crop256_from_image1024: np.ndarray
    native_side: float
    landmarks: np.ndarray
    attributes: np.ndarray
    expression: np.ndarray
    embedding: np.ndarray
    measured: np.ndarray
    fault: str


@dataclass(eq=False)
class Labeller:
    """The networks that look at a portrait.

    Attributes:
        estimator: landmarks where there is no mesh, attributes, out-of-distribution score.
        id_encoder: the shipped recogniser, where there is no recogniser.
        mesh: MediaPipe's landmarks; None for the estimator's.
        recogniser: TorchScript, (B, 3, 128, 128) BGR 0..255 with the five points at OMZ_TEMPLATE -> (B, D); or None.
        age_net: TorchScript, (B, 3, 112, 112) RGB 0..255 of the tight square around the landmarks -> years (B, 1) and
            logits of male, female (B, 2); None for the estimator, which takes small children for teenagers.
    """

    estimator: FaceEstimator
    id_encoder: torch.nn.Module
    mesh: FaceMesh | None = None
    recogniser: torch.nn.Module | None = None
    age_net: torch.nn.Module | None = None

    def __post_init__(self) -> None:
        self._detect = CenterFace()

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> LabelledFace | str:
        """(1024, 1024, 3) uint8 RGB -> its face, or why there is none to be cut out."""
        faces = self._faces(image)
        points = self._landmarks(image, faces)
        if points is None:
            return "no face"
        square = crop_from_image(points[list(FIVE), :2].astype(float), SIZE)
        large = cut(image, square, SIZE)
        small = cv2.resize(large, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        reading, unit = self.estimator.analyze(small[None])[0], as_unit(small[None])
        to_small = compose(np.array([[SMALL / SIZE, 0, 0], [0, SMALL / SIZE, 0]]), square)
        scale = float(np.sqrt(np.linalg.det(to_small[:, :2])))
        landmarks = reading.landmarks
        if self.mesh is not None:
            landmarks = np.column_stack([apply(to_small, points[:, :2]), points[:, 2] * scale]).astype(np.float32)
        values = self._attributes(image, points, landmarks, reading)
        expression = split_outputs(self.estimator.network(shrink(unit)).logits).expression.softmax(-1)[0].numpy()
        shade = lens_shade(small, landmarks, values["skin_l"])
        values["sunglasses"] = float(has_dark_lenses(shade, values["glasses"]))
        if values["sunglasses"]:
            values["glasses"] = 1.0
        else:
            shade = min(shade, 1 - DARK_LENS - 1e-3)
        embedding = self._embedding(image, points, unit)
        measured = _measured(values, shade, reading.ood_score)
        native = SMALL / scale
        fault = _fault(faces, points, native, reading.ood_score)
        row = np.array([values[name] for name in ATTRIBUTE_NAMES], np.float32)
        return LabelledFace(large, small, to_small, native, landmarks, row, expression, embedding, measured, fault)

    def _faces(self, image: np.ndarray) -> list[Face]:
        seen = cv2.resize(image, (LOOKED_AT, LOOKED_AT), interpolation=cv2.INTER_AREA)
        found = merge(self._detect(seen[None], SECOND)[0])
        scale = image.shape[0] / LOOKED_AT
        rows = zip(found.boxes * scale, found.points * scale, found.scores.tolist(), strict=True)
        return [Face(*row) for row in rows]

    def _landmarks(self, image: np.ndarray, faces: list[Face]) -> np.ndarray | None:
        """(478, 3) in pixels of the picture."""
        if self.mesh is not None:
            points = self.mesh(cv2.resize(image, (SEEN, SEEN), interpolation=cv2.INTER_AREA))
            return None if points is None else points * (image.shape[0] / SEEN)
        crops = crop_faces(image, faces[:1], self.estimator, SIZE)
        if not crops or crops[0] is None:
            return None
        flat = apply(invert(crops[0].crop_from_image), crops[0].landmarks.astype(float))
        return np.column_stack([flat, np.zeros(len(flat))])

    def _attributes(
        self, image: np.ndarray, points: np.ndarray, landmarks: np.ndarray, reading: FaceAnalysis
    ) -> dict[str, float]:
        values = reading.attributes.to_dict()
        place = self.estimator.shape.locate(landmarks)
        values |= read_expression(place.unplace(landmarks))
        values |= zip(("yaw_deg", "pitch_deg", "roll_deg"), angles_from_rotation(place.rotation), strict=True)
        if self.age_net is not None:
            low, high = points[:, :2].min(0), points[:, :2].max(0)
            scale = AGE_SIDE / float((high - low).max())
            shift = AGE_SIDE / 2 - scale * (low + high) / 2
            face = cut(image, np.column_stack([np.eye(2) * scale, shift]), AGE_SIDE)
            age, gender = self.age_net(_pixels(face))
            values |= {"age": max(float(age), 0.0), "male": float(gender.flatten().softmax(0)[0])}
        return Attributes(**values).to_dict()

    def _embedding(self, image: np.ndarray, points: np.ndarray, unit: torch.Tensor) -> np.ndarray:
        if self.recogniser is None:
            return embed(self.id_encoder, unit)[0].numpy()
        scale, turn, shift = fit_similarity(points[list(FIVE), :2].astype(float), OMZ_TEMPLATE * TEACHER_SIDE)
        face = cut(image, np.column_stack([scale * turn, shift]), TEACHER_SIDE)
        return F.normalize(self.recogniser(_pixels(face[:, :, ::-1])).flatten().float(), dim=0).numpy()


def load_net(path: str) -> torch.nn.Module | None:
    """A TorchScript file; None for an empty name.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"wanted a TorchScript file, got {path}, which is none")
    return torch.jit.load(path, map_location="cpu").eval()


def _measured(values: dict[str, float], shade: float, ood_score: float) -> np.ndarray:
    lab = np.array([values["skin_l"], values["skin_a"], values["skin_b"]])
    own = {
        "log_age": np.log(values["age"] + 5), "ita_deg": individual_typology_angle(lab), "lens_shade": shade,
        "ood_score": ood_score,
    }  # fmt: skip
    return np.array([own.get(name, values.get(name)) for name in MEASURED], np.float32)


def _fault(faces: list[Face], points: np.ndarray, native: float, ood_score: float) -> str:
    if not faces:
        return "no face"
    if len(faces) > 1:
        return "second face"
    if disagreement(faces[0], points[:, :2]) > FAR_OFF:
        return "landmarks off"
    if native < LEAST_SIDE:
        return "too small"
    return "unlike photos" if ood_score > ODD else ""


def _pixels(image: np.ndarray) -> torch.Tensor:
    """(S, S, 3) uint8 -> (1, 3, S, S) float32 0..255."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
