"""Recognisers that score results: one small protocol, three ways in, and the guide kept out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from deid_diffusion.evaluation.align import ARCFACE, eye_distance, warp_to_template
from deid_diffusion.evaluation.faces import dlib_model, require_dlib, sha256
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.faces.geometry import OMZ_TEMPLATE
from deid_diffusion.types import Face

# The recogniser from which the shipped guide is distilled (Open Model Zoo 0095 as TorchScript). The guide pushes
# samples off what this network sees, so it would praise the result: as a judge it is the guide under another name.
TEACHER_SHA256 = "03f23d3aff209b79bfbec4957e4083ac17158586fd4a64222da4174c443ca3ed"

TEMPLATES = {"arcface": ARCFACE, "omz": OMZ_TEMPLATE}


class Judge(Protocol):
    """Anything that maps a face in a picture to a vector whose cosine says "same person".

    Attributes:
        name: goes into the report.
        weight_hash: sha256 of the weight file.
        threshold: cosine above which its makers call two faces the same person; None when unknown.
    """

    name: str
    weight_hash: str
    threshold: float | None

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(H, W, 3) uint8 RGB picture and a face in it -> (D,) float32."""
        ...


@dataclass(frozen=True, eq=False)
class NetFormat:
    """What a recogniser file wants to eat.

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

    def __post_init__(self):
        if self.order not in ("rgb", "bgr") or not 16 <= self.size <= 1024 or np.shape(self.template) != (5, 2):
            raise EvaluationError(
                f"judge format needs order rgb or bgr, size 16..1024 and a (5, 2) template, got order={self.order!r}, "
                f"size={self.size}, template {np.shape(self.template)}"
            )


class NetJudge:
    """A TorchScript (.pt) or ONNX (.onnx) recogniser: batch of one aligned crop in, one vector out."""

    def __init__(self, path: Path, form: NetFormat, name: str | None = None):
        if not path.is_file():
            raise EvaluationError(f"no judge at {path}: give a .pt (TorchScript) or .onnx file")
        self.name, self.form, self.threshold = name or path.name.split(".")[0], form, form.threshold
        self.weight_hash = sha256(path)
        self._net = load_net(path)

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        crop = warp_to_template(image, face.landmarks, self.form.template, self.form.size)
        return self._net(to_batch(crop, self.form.order, self.form.mean, self.form.scale))[0].reshape(-1)


class DlibJudge:
    """dlib's 128-D ResNet, aligned by dlib's own 5-point predictor. From ordinary packages: extra `eval`."""

    name = "dlib"
    # Its makers use distance 0.6. As a cosine: 0.6² = 2 r² (1 - cos) with r = 1.5, the norm its vectors have.
    threshold = 0.92

    def __init__(self):
        dlib = require_dlib()
        path = dlib_model("dlib_face_recognition_resnet_model_v1.dat")
        self._dlib, self.weight_hash = dlib, sha256(path)
        self._net = dlib.face_recognition_model_v1(str(path))
        self._predict = dlib.shape_predictor(str(dlib_model("shape_predictor_5_face_landmarks.dat")))

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
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
            `arcface` or `omz` (template), `mean=127.5`, `scale=127.5`, `threshold=0.4`, `name=net`. Without options,
            `FILE.json` next to it may hold the same keys, and `template` as five x y pairs (fractions of the side).
        forbidden: sha256 of weight files that may not judge: the guide's. The guide's teacher is always among them.

    Raises:
        EvaluationError: unreadable spec, missing file, or a judge that is the guide.
    """
    judge = DlibJudge() if spec == "dlib" else _net_judge(spec)
    if judge.weight_hash in {TEACHER_SHA256, *forbidden}:
        raise EvaluationError(
            f"{judge.name} is the guide, or the guide's teacher: the pipeline was steered by it, so its verdict is "
            "worth nothing. Give another recogniser, for example --judge dlib"
        )
    return judge


def guide_hashes(weights: Path) -> tuple[str, ...]:
    """sha256 of the guide's files below a pipeline folder: `weights/id_encoder/*.safetensors`, none when not there."""
    return tuple(sha256(path) for path in sorted((weights / "id_encoder").glob("*.safetensors")))


def load_net(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function from a float32 batch (B, 3, H, W) to its outputs, on the CPU.

    Args:
        path: TorchScript (.pt), ONNX (.onnx) or OpenVINO (.xml, its .bin beside it; outputs in the order of their
            names).
    """
    if path.suffix == ".xml":
        return _openvino_net(path)
    if path.suffix == ".onnx":
        return _onnx_net(path)
    if path.suffix != ".pt":
        raise EvaluationError(
            f"net must be .pt (TorchScript), .onnx or .xml (OpenVINO), got {path.name}; export it to one of them"
        )
    import torch

    try:
        net = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise EvaluationError(f"{path.name} is no TorchScript file: {str(error).splitlines()[0]}") from error

    def run(batch: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            out = net(torch.from_numpy(batch))
        return [o.float().numpy() for o in (out if isinstance(out, list | tuple) else [out])]

    return run


def to_batch(crop: np.ndarray, order: str, mean: float | tuple[float, ...] = 0.0, scale: float = 1.0) -> np.ndarray:
    """(S, S, 3) uint8 RGB -> (1, 3, S, S) float32 in the channel order wanted, (pixel - mean) / scale."""
    pixels = crop[..., ::-1] if order == "bgr" else crop
    return np.ascontiguousarray(((pixels - np.float32(mean)) / np.float32(scale)).transpose(2, 0, 1)[None], np.float32)


def _onnx_net(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise EvaluationError('onnxruntime is not installed: pip install "deid-diffusion[onnx]"') from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0].name
    return lambda batch: session.run(None, {wanted: batch})


def _openvino_net(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    try:
        import openvino
    except ImportError as error:
        raise EvaluationError('openvino is not installed: pip install "deid-diffusion[openvino]"') from error
    core = openvino.Core()
    try:
        # Measurements are to be the same everywhere, and bfloat16 is the default where the CPU has it.
        net = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise EvaluationError(
            f"{path.name} with {path.with_suffix('.bin').name} beside it is no OpenVINO model: "
            f"{str(error).strip().splitlines()[-1]}"
        ) from error
    names = sorted(output.get_any_name() for output in net.outputs)

    def run(batch: np.ndarray) -> list[np.ndarray]:
        found = net(batch)
        return [found[name] for name in names]

    return run


def _net_judge(spec: str) -> NetJudge:
    ending = next((e for e in (".onnx", ".pt") if f"{e}:" in spec or spec.endswith(e)), None)
    if ending is None:
        raise EvaluationError(f'judge must be "dlib" or FILE.pt/FILE.onnx[:112:rgb:arcface], got {spec!r}')
    stem, _, options = (f"{spec}:").rpartition(f"{ending}:")
    path, tokens = Path(stem + ending), [t for t in options.split(":") if t]
    beside = path.with_name(path.name + ".json")
    values = json.loads(beside.read_text()) if not tokens and beside.is_file() else dict(map(_option, tokens))
    name = values.pop("name", None)
    template = values.pop("template", "arcface")
    if isinstance(template, str) and template not in TEMPLATES:
        raise EvaluationError(f"template must be one of {sorted(TEMPLATES)}, got {template!r}")
    template = TEMPLATES[template] if isinstance(template, str) else np.array(template, dtype=np.float64)
    try:
        return NetJudge(path, replace(NetFormat(), template=template, **values), name)
    except TypeError as error:
        raise EvaluationError(f"unknown key in the format of {path.name}: {error}") from error


def _option(token: str) -> tuple[str, str | float | int]:
    key, _, value = token.partition("=")
    if not value:
        kind = "size" if key.isdigit() else "order" if key in ("rgb", "bgr") else "template"
        return kind, int(key) if kind == "size" else key
    if key == "name":
        return key, value
    try:
        return key, float(value)
    except ValueError as error:
        raise EvaluationError(f"judge option {key} needs a number, got {value!r}") from error
