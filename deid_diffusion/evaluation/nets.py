"""Optional networks that measure a face: age, gender, expression, landmarks, pose, features; each used if given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.runtimes import load_net, to_batch
from deid_diffusion.evaluation.warp import crop_box, square_box
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of

KINDS = ("age_gender", "expression", "landmarks", "pose", "features")
POSE_ZOOM = 1.2  # of the face's square: where mirrored portraits got the least different angles


@dataclass(frozen=True)
class NetOptions:
    """Paths of the optional networks, TorchScript, ONNX or OpenVINO; None = not measured.

    Attributes:
        age_gender: 112 px RGB 0..255 tight face square -> age in years, 2 logits male and female.
        expression: the same square -> 7 logits: neutral happy sad angry fearful disgusted surprised.
        landmarks: the same square -> 136 numbers, 68 x y in 0..1 of the square.
        pose: 60 px BGR 0..255, a square 1.2 times that -> pitch, roll, yaw in degrees, as the Open Model Zoo's
            head-pose-estimation-adas-0001 gives them. Without it, pose is five landmarks on a mean head.
        features: 227 px BGR minus (104, 117, 123), face with surroundings -> feature maps, the last one is averaged
            over its places: the space of the Frechet and kernel distances.
    """

    age_gender: Path | None = None
    expression: Path | None = None
    landmarks: Path | None = None
    pose: Path | None = None
    features: Path | None = None

    @classmethod
    def from_specs(cls, specs: tuple[str, ...]) -> NetOptions:
        """From ("age_gender=FILE", ...) as given on the command line.

        Raises:
            EvaluationError: not KIND=FILE with one of `KINDS`.
        """
        values: dict[str, Path] = {}
        for spec in specs:
            kind, _, path = spec.partition("=")
            if kind not in KINDS or not path:
                raise EvaluationError(f"net must be KIND=FILE with KIND one of {', '.join(KINDS)}, got {spec!r}")
            values[kind] = Path(path)
        return cls(**values)


class FaceNets:
    """The loaded networks.

    Args:
        options: their files.

    Attributes:
        hashes: sha256 of the weights, by kind.
        names: file names up to their first dot, by kind.

    Raises:
        EvaluationError: a file is missing, or holds no such network.
    """

    def __init__(self, options: NetOptions) -> None:
        given = {kind: getattr(options, kind) for kind in KINDS if getattr(options, kind) is not None}
        for kind, path in given.items():
            for needed in (path, _weights(path)):
                if not needed.is_file():
                    raise EvaluationError(f"no file for net {kind}: {needed}")
        self._nets = {kind: load_net(path) for kind, path in given.items()}
        self.hashes = {kind: sha256_of(_weights(path)) for kind, path in given.items()}
        self.names = {kind: path.name.split(".")[0] for kind, path in given.items()}

    def __contains__(self, kind: str) -> bool:
        return kind in self._nets

    def age_male(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(2,) age in years and the probability of presenting as male.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box in image pixels.
        """
        age, logits = self._nets["age_gender"](_tight(image, face))
        logits = logits.reshape(-1)
        return np.array([float(age.reshape(-1)[0]), 1 / (1 + np.exp(float(logits[1] - logits[0])))], np.float32)

    def expression(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(7,) probabilities, in the order of `NetOptions.expression`.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box in image pixels.
        """
        logits = self._nets["expression"](_tight(image, face))[0].reshape(-1)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def landmarks(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(68, 2) x y in image pixels.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box in image pixels.
        """
        box = square_box(face.box)
        return box[:2] + self._nets["landmarks"](_tight(image, face))[0].reshape(68, 2) * (box[2] - box[0])

    def pose(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(3,) yaw, pitch, roll in degrees; positive: face turned to the picture's right, down, clockwise.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box in image pixels.
        """
        crop = crop_box(image, square_box(face.box, POSE_ZOOM), 60)
        pitch, roll, yaw = (float(angle.reshape(-1)[0]) for angle in self._nets["pose"](to_batch(crop, "bgr")))
        return np.array([yaw, pitch, roll], np.float32)

    def features(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(D,) the mean of the last feature map over its places.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box in image pixels.
        """
        crop = crop_box(image, square_box(face.box, 1.3), 227)
        last = self._nets["features"](to_batch(crop, "bgr", (104.0, 117.0, 123.0)))[-1][0]
        return last.reshape(len(last), -1).mean(axis=1)


def five_points(points: np.ndarray) -> np.ndarray:
    """(68, 2) -> (5, 2): eye centres, nose tip, mouth corners."""
    eyes = [points[36:42].mean(axis=0), points[42:48].mean(axis=0)]
    return np.stack([*eyes, points[30], points[48], points[54]])


def _weights(path: Path) -> Path:
    return path.with_suffix(".bin") if path.suffix == ".xml" else path


def _tight(image: np.ndarray, face: Face) -> np.ndarray:
    return to_batch(crop_box(image, square_box(face.box), 112), "rgb")
