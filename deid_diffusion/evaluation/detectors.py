"""Face detectors of the evaluation's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.warp import ARCFACE, eye_distance
from deid_diffusion.faces.detect import CenterFaceDetector
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of, weights_dir


class FaceDetector(Protocol):
    """A face detector.

    Attributes:
        name: goes into the report.
        weight_hash: sha256 of its weights.
        measured: which of the 5 landmarks it really regresses; the others are placed from the mean face.
        same_as_pipeline: True where the shipped anonymizer detects faces with the same network, so that the detection
            rate would only say that the network agrees with itself.
    """

    name: str
    weight_hash: str
    measured: tuple[int, ...]
    same_as_pipeline: bool

    def __call__(self, image: np.ndarray) -> list[Face]:
        """The faces of an (H, W, 3) uint8 RGB picture; boxes and (5, 2) landmarks in its pixels."""
        ...


def detector_from_spec(spec: str) -> FaceDetector:
    """The detector called "dlib", "centerface" or "yunet:PATH.onnx".

    Raises:
        EvaluationError: another name, or a file or library is missing.
    """
    name, _, path = spec.partition(":")
    if name == "dlib":
        return DlibDetector()
    if name == "centerface":
        return ShippedDetector()
    if name == "yunet" and path:
        return YuNetDetector(Path(path))
    raise EvaluationError(f"detector must be dlib, centerface or yunet:PATH.onnx, got {spec!r}")


class YuNetDetector:
    """YuNet through OpenCV, five landmarks, milliseconds a picture.

    Args:
        path: the ONNX file of OpenCV's model zoo.
        threshold: confidence in [0, 1] from which a face counts.
        longest_side: pixels that larger pictures are shrunk to.

    Raises:
        EvaluationError: there is no such file.
    """

    measured: tuple[int, ...] = (0, 1, 2, 3, 4)
    same_as_pipeline = False

    def __init__(self, path: Path, threshold: float = 0.6, longest_side: int = 1280) -> None:
        if not path.is_file():
            raise EvaluationError(
                f"no YuNet file at {path.name}: give --detector yunet:PATH.onnx of OpenCV's model zoo"
            )
        self.name, self.weight_hash = "yunet", sha256_of(path)
        self._longest_side = longest_side
        self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, 0.3, 5000)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector`."""
        small, scale = _shrink(image, self._longest_side)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._net.detect(np.ascontiguousarray(small[..., ::-1]))
        faces = []
        for row in () if rows is None else rows:
            box = np.array([row[0], row[1], row[0] + row[2], row[1] + row[3]]) / scale
            faces.append(Face(box, row[4:14].reshape(5, 2) / scale, float(row[14])))
        return faces


class ShippedDetector:
    """The shipped pipeline's own detector, CenterFace, so not an independent one."""

    name = "centerface"
    measured: tuple[int, ...] = (0, 1, 2, 3, 4)
    same_as_pipeline = True

    def __init__(self, threshold: float = 0.4) -> None:
        self._detect = CenterFaceDetector(threshold=threshold)
        self.weight_hash = sha256_of(weights_dir("centerface") / "centerface.onnx")

    def __call__(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector`."""
        return self._detect(image)


class DlibDetector:
    """dlib's HOG detector, and its CNN where HOG sees nothing; landmarks by its 5-point predictor.

    From ordinary packages (extra `eval`), independent of the pipeline; blind to faces under about 80 px and to
    strong turns. The predictor reads eye corners and the base of the nose; the mouth is placed from the mean face.

    Args:
        hog_side, cnn_side: pixels that the longest side of larger pictures is shrunk to, for HOG and for the CNN.
    """

    name = "dlib"
    measured: tuple[int, ...] = (0, 1, 2)
    same_as_pipeline = False

    def __init__(self, hog_side: int = 800, cnn_side: int = 400) -> None:
        dlib = require_dlib()
        self._dlib, self._sides = dlib, (hog_side, cnn_side)
        self._hog = dlib.get_frontal_face_detector()
        self._cnn = dlib.cnn_face_detection_model_v1(str(dlib_model("mmod_human_face_detector.dat")))
        path = dlib_model("shape_predictor_5_face_landmarks.dat")
        self._predict, self.weight_hash = dlib.shape_predictor(str(path)), sha256_of(path)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """See `FaceDetector`."""
        small, scale = _shrink(image, self._sides[0])
        # Below this HOG has false detections in cloth and flags, each of which would count as an unchanged face.
        rects, scores, _ = self._hog.run(small, 0, 0.2)
        found = list(zip(rects, scores, strict=True))
        if not found:
            small, scale = _shrink(image, self._sides[1])
            found = [(hit.rect, hit.confidence) for hit in self._cnn(small, 0)]
        faces = []
        for rect, score in found:
            points = dlib_points(self._predict(small, rect))
            box = np.array([rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1]) / scale
            faces.append(Face(box, points / scale, float(np.clip(score, 0, 1))))
        return faces


def dlib_points(shape: Any) -> np.ndarray:
    """dlib's 5 points (right eye outer and inner, left eye outer and inner, nose base) -> (5, 2) landmarks."""
    corners = np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)
    eyes = np.stack([corners[2:4].mean(axis=0), corners[:2].mean(axis=0)])
    # Eye, eye and nose base fix an affine map of the mean face, where the base lies 40 % of the way from tip to mouth.
    base = 0.6 * ARCFACE[2] + 0.4 * ARCFACE[3:].mean(axis=0)
    known = np.column_stack([np.stack([ARCFACE[0], ARCFACE[1], base]), np.ones(3)])
    image_from_mean = np.linalg.lstsq(known, np.vstack([eyes, corners[4]]), rcond=None)[0]
    placed = np.column_stack([ARCFACE, np.ones(5)]) @ image_from_mean
    return np.vstack([eyes, placed[2:]])


def match_face(face: Face, found: list[Face]) -> Face | None:
    """The detection of highest IoU with `face`: at least 0.25, or centres within half an inter-pupil distance.

    Args:
        face: the face looked for.
        found: detections in a picture of the same frame.

    Returns:
        One of `found`, or None.
    """
    best, best_overlap = None, 0.0
    for other in found:
        edges = np.minimum(face.box[2:], other.box[2:]) - np.maximum(face.box[:2], other.box[:2])
        both = float(np.prod(np.maximum(edges, 0)))
        union = float(np.prod(face.box[2:] - face.box[:2]) + np.prod(other.box[2:] - other.box[:2])) - both
        near = np.linalg.norm((face.box - other.box).reshape(2, 2).mean(axis=0)) < eye_distance(face.landmarks) / 2
        overlap = max(both / union, 0.25 if near else 0.0)
        if overlap >= 0.25 and overlap > best_overlap:
            best, best_overlap = other, overlap
    return best


def require_dlib() -> Any:
    """The dlib module.

    Raises:
        EvaluationError: it is not installed; names the extra.
    """
    if importlib.util.find_spec("dlib") is None:
        raise EvaluationError(
            'dlib is not installed: pip install "deid-diffusion[eval]", or name another --detector and --judge'
        )
    import dlib

    return dlib


def dlib_model(name: str) -> Path:
    """Where `face_recognition_models` keeps a model file; found without importing it (it fails on new setuptools).

    Raises:
        EvaluationError: the package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise EvaluationError('face_recognition_models is not installed: pip install "deid-diffusion[eval]"')
    return Path(spec.submodule_search_locations[0]) / "models" / name


def _shrink(image: np.ndarray, longest_side: int) -> tuple[np.ndarray, float]:
    scale = min(1.0, longest_side / max(image.shape[:2]))
    if scale == 1.0:
        return np.ascontiguousarray(image), 1.0
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale
