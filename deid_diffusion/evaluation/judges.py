"""Recognisers that score results: one small protocol, three file formats, and the identity encoder kept out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from deid_diffusion.evaluation.detectors import dlib_model, require_dlib
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.runtimes import load_net, to_batch
from deid_diffusion.evaluation.warp import ARCFACE, eye_distance, warp_to_template
from deid_diffusion.faces.geometry import OMZ_TEMPLATE
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of

# The recogniser from which the shipped identity encoder is distilled (Open Model Zoo 0095 as TorchScript). Identity
# repulsion moves samples away from what it embeds, so its score is optimistic: it is the identity encoder itself.
TEACHER_SHA256 = "03f23d3aff209b79bfbec4957e4083ac17158586fd4a64222da4174c443ca3ed"

T = TypeVar("T")
TEMPLATES = {"arcface": ARCFACE, "omz": OMZ_TEMPLATE}


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


@dataclass(frozen=True, eq=False)
class NetFormat:
    """How a recogniser's input is made from a picture.

    Attributes:
        size: side of the square input in pixels.
        order: "rgb" or "bgr".
        template: (5, 2) landmarks as fractions of the side.
        mean, scale: the net gets (pixel - mean) / scale, pixels 0..255.
        threshold: see `Judge`.
    """

    size: int = 112
    order: str = "rgb"
    template: np.ndarray = field(default_factory=lambda: ARCFACE)
    mean: float = 0.0
    scale: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr") or not 16 <= self.size <= 1024 or np.shape(self.template) != (5, 2):
            raise EvaluationError(
                f"judge format needs order rgb or bgr, size 16..1024 and a (5, 2) template, got order={self.order!r}, "
                f"size={self.size}, template {np.shape(self.template)}"
            )


# Usual preprocessing by name; `arcface` is that of InsightFace's ONNX files and their relatives.
PRESETS = {"arcface": NetFormat(mean=127.5, scale=127.5), "raw": NetFormat()}


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
    ending = next((e for e in (".onnx", ".pt") if f"{e}:" in spec or spec.endswith(e)), None)
    if ending is None:
        raise EvaluationError(f'judge must be "dlib" or FILE.pt/FILE.onnx[:OPTION...], got {spec!r}')
    stem, _, options = (f"{spec}:").rpartition(f"{ending}:")
    path, tokens = Path(stem + ending), [t for t in options.split(":") if t]
    beside = path.with_name(path.name + ".json")
    values: dict[str, Any] = _format_file(beside) if not tokens and beside.is_file() else dict(map(_option, tokens))
    name = values.pop("name", None)
    usual = "arcface" if ending == ".onnx" and not set(values) - {"threshold"} else "raw"
    base = _named(values.pop("preset", usual), "preset", PRESETS)
    template = values.pop("template", base.template)
    if isinstance(template, str):
        template = _named(template, "template", TEMPLATES)
    try:
        form = replace(base, template=np.array(template, dtype=np.float64), **values)
    except TypeError as error:
        raise EvaluationError(f"unknown key in the format of {path.name}: {error}") from error
    return NetJudge(path, form, name)


def _named(name: str, what: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise EvaluationError(f"{what} must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]


def _format_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{path.name} must hold an object of format keys, got {type(values).__name__}")
    return values


def _option(token: str) -> tuple[str, str | float | int]:
    key, _, value = token.partition("=")
    if not value:
        kind = "size" if key.isdigit() else "order" if key in ("rgb", "bgr") else "template"
        return kind, int(key) if kind == "size" else key
    if key in ("name", "preset"):
        return key, value
    try:
        return key, float(value)
    except ValueError as error:
        raise EvaluationError(f"judge option {key} needs a number, got {value!r}") from error
