"""Recognisers that score results: one small protocol, three file formats, and the identity encoder kept out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from deid_diffusion.evaluation.detectors import dlib_model, require_dlib
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.runtimes import load_net, to_batch
from deid_diffusion.evaluation.warp import eye_distance, warp_to_template
from deid_diffusion.faces.recogniser_spec import TEMPLATES, NetFormat, RecogniserError, parse_spec
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of

__all__ = ["TEMPLATES", "DlibJudge", "Judge", "NetFormat", "NetJudge", "id_encoder_hashes", "judge_from_spec"]
# The recogniser from which the shipped identity encoder is distilled (Open Model Zoo 0095 as TorchScript). Identity
# repulsion moves samples away from what it embeds, so its score is optimistic: it is the identity encoder itself.
TEACHER_SHA256 = "03f23d3aff209b79bfbec4957e4083ac17158586fd4a64222da4174c443ca3ed"


class Judge(Protocol):
    """A face recogniser: maps a face in a picture to an embedding, compared by cosine similarity.

    Attributes:
        name: goes into the report.
        weight_hash: sha256 of the weight file.
        threshold: cosine above which its makers call two faces the same person; None when unknown.
    """

    name: str
    weight_hash: str
    threshold: float | None

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """The embedding of one face.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: where it is in the picture; box and landmarks in image pixels.

        Returns:
            (D,) float32, of any norm.
        """
        ...


class NetJudge:
    """A recogniser from a TorchScript (.pt) or ONNX (.onnx) file: batch of one aligned crop in, one vector out.

    Args:
        path: the weight file.
        form: its preprocessing.
        name: goes into the report; by default the file's name up to its first dot.

    Raises:
        EvaluationError: no such file, no network, or one that does not take such crops.
    """

    def __init__(self, path: Path, form: NetFormat, name: str | None = None) -> None:
        if not path.is_file():
            raise EvaluationError(f"no judge at {path}: give a .pt (TorchScript) or .onnx file")
        self.name, self.form, self.threshold = name or path.name.split(".")[0], form, form.threshold
        self.weight_hash = sha256_of(path)
        self._net = load_net(path)
        shape = (1, 3, form.size, form.size)
        try:
            size = self._net(np.zeros(shape, np.float32))[0].size
        except Exception as error:  # each runtime has exceptions of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise EvaluationError(
                f"{path.name} does not take a float32 batch of {shape}: {reason}; name its side, as in FILE:112"
            ) from error
        if size < 2:
            raise EvaluationError(f"{path.name} gives {size} number a face; a recogniser gives an embedding")

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """See `Judge`."""
        crop = warp_to_template(image, face.landmarks, self.form.template, self.form.size)
        return self._net(to_batch(crop, self.form.order, self.form.mean, self.form.scale))[0].reshape(-1)


class DlibJudge:
    """dlib's 128-D ResNet, aligned by dlib's own 5-point predictor. From ordinary packages: extra `eval`."""

    name = "dlib"
    # Its makers use distance 0.6. As a cosine: 0.6² = 2 r² (1 - cos) with r = 1.5, the norm its vectors have.
    threshold: float | None = 0.92

    def __init__(self) -> None:
        dlib = require_dlib()
        path = dlib_model("dlib_face_recognition_resnet_model_v1.dat")
        self._dlib, self.weight_hash = dlib, sha256_of(path)
        self._net = dlib.face_recognition_model_v1(str(path))
        self._predict = dlib.shape_predictor(str(dlib_model("shape_predictor_5_face_landmarks.dat")))

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """See `Judge`."""
        eyes, side = face.landmarks[:2].mean(axis=0), 2.4 * eye_distance(face.landmarks)
        down = face.landmarks[3:].mean(axis=0) - eyes
        side = max(side, 2.1 * float(np.linalg.norm(down)))
        x, y = eyes + 0.5 * down - side / 2
        rect = self._dlib.rectangle(round(x), round(y), round(x + side), round(y + side))
        chip = self._dlib.get_face_chip(image, self._predict(image, rect), 150, 0.25)
        return np.array(self._net.compute_face_descriptor(chip), dtype=np.float32)


def judge_from_spec(spec: str, forbidden: Iterable[str] = ()) -> Judge:
    """A judge from one line of text.

    Args:
        spec: "dlib", or `FILE[:OPTION...]` with FILE ending in .pt or .onnx and options `112` (side), `rgb` or `bgr`,
            `arcface` or `omz` (template), `mean=127.5`, `scale=127.5`, `threshold=0.4`, `name=net`, `preset=arcface`
            (112 rgb arcface mean=127.5 scale=127.5) or `preset=raw` (112 rgb arcface, pixels 0..255). An option
            overrides its preset. Where only a name or a threshold is given, the preset of an ONNX file is `arcface`;
            everywhere else it is `raw`. Without options, `FILE.json` next to it may hold the same keys, and `template`
            as five x y pairs (fractions of the side).
        forbidden: sha256 of weight files that may not judge: the identity encoder's. Its teacher is always among them.

    Raises:
        EvaluationError: unreadable spec, missing file, or a judge that is the identity encoder.
    """
    judge = DlibJudge() if spec == "dlib" else _net_judge(spec)
    if judge.weight_hash in {TEACHER_SHA256, *forbidden}:
        raise EvaluationError(
            f"{judge.name} is the anonymizer's identity encoder or its teacher: the outputs were optimised against "
            "it, so its scores say nothing. Give another recogniser, for example --judge dlib"
        )
    return judge


def id_encoder_hashes(weights: Path) -> tuple[str, ...]:
    """sha256 of the weight files of the identity encoder, which may not judge.

    Args:
        weights: a pipeline's folder, with `id_encoder/*.safetensors`, or its `id_encoder` folder.

    Raises:
        EvaluationError: there is none, so that nothing would be kept out.
    """
    inner = weights / "id_encoder"
    files = sorted((inner if inner.is_dir() else weights).glob("*.safetensors"))
    if not files:
        raise EvaluationError(
            f"no identity encoder in {weights}: wanted a pipeline folder with id_encoder/*.safetensors"
        )
    return tuple(sha256_of(path) for path in files)


def _net_judge(spec: str) -> NetJudge:
    try:
        return NetJudge(*parse_spec(spec))
    except RecogniserError as error:
        raise EvaluationError(str(error)) from error
