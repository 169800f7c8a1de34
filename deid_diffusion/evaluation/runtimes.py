"""Loads a network's file and runs it on the CPU: TorchScript, ONNX or OpenVINO."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError

Net = Callable[[np.ndarray], list[np.ndarray]]


def load_net(path: Path) -> Net:
    """A function from a float32 batch (B, 3, H, W) to its outputs, on the CPU.

    Args:
        path: TorchScript (.pt), ONNX (.onnx, by onnxruntime where that is installed, else by OpenVINO) or OpenVINO
            (.xml, its .bin beside it; outputs in the order of their names).

    Raises:
        EvaluationError: not such a file, or no library that runs it.
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

    def infer(batch: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            out = net(torch.from_numpy(batch))
        return [o.float().numpy() for o in (out if isinstance(out, list | tuple) else [out])]

    return infer


def to_batch(crop: np.ndarray, order: str, mean: float | tuple[float, ...] = 0.0, scale: float = 1.0) -> np.ndarray:
    """A crop as a network's input.

    Args:
        crop: (S, S, 3) uint8 RGB.
        order: "rgb" or "bgr", the network's channels.
        mean, scale: the network gets (pixel - mean) / scale; `mean` is one number or one per channel, in `order`.

    Returns:
        (1, 3, S, S) float32.
    """
    pixels = crop[..., ::-1] if order == "bgr" else crop
    scaled = (pixels - np.asarray(mean, np.float32)) / np.float32(scale)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def _onnx_net(path: Path) -> Net:
    try:
        import onnxruntime
    except ImportError as error:
        if importlib.util.find_spec("openvino") is None:
            raise EvaluationError(
                f'{path.name} needs onnxruntime or openvino: pip install onnxruntime or "deid-diffusion[openvino]"'
            ) from error
        return _openvino_net(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise EvaluationError(f"{path.name} is no ONNX model: {str(error).strip().splitlines()[-1]}") from error
    wanted = session.get_inputs()[0].name
    return lambda batch: session.run(None, {wanted: batch})


def _openvino_net(path: Path) -> Net:
    try:
        import openvino
    except ImportError as error:
        raise EvaluationError('openvino is not installed: pip install "deid-diffusion[openvino]"') from error
    core = openvino.Core()
    try:
        # Measurements are to be the same everywhere, and bfloat16 is the default where the CPU has it.
        net = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        what = f"{path.name} is no ONNX model"
        if path.suffix == ".xml":
            what = f"{path.name} with {path.with_suffix('.bin').name} beside it is no OpenVINO model"
        raise EvaluationError(f"{what}: {str(error).strip().splitlines()[-1]}") from error
    names = [output.get_any_name() for output in net.outputs]
    if path.suffix == ".xml":
        names.sort()

    def infer(batch: np.ndarray) -> list[np.ndarray]:
        found = net(batch)
        return [found[name] for name in names]

    return infer
