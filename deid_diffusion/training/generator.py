"""Paints people who do not exist: MobileStyleGAN from the wheel `random-face`, as torch or by OpenVINO.

MobileStyleGAN (Belousov 2021, arXiv 2104.04767) is a small student of StyleGAN2 on FFHQ. The wheel (Apache-2.0) holds
its two graphs as OpenVINO IR: XML that lists operations, and a file of numbers. They are few enough to be read here,
so that neither the wheel's code nor OpenVINO is needed; where OpenVINO is installed it is the faster one on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F

WHEEL = "random-face==2021.7.21.1"
DIM, SIDE = 512, 1024  # of a style; px of a picture
MEAN_OF = 4096  # styles that the mean is taken over
BACKENDS = ("auto", "torch", "openvino")
_DTYPES = {"f32": np.float32, "i64": np.int64, "i32": np.int32}

Attributes = dict[str, str]


def wheel_folder() -> Path:
    """Where the installed wheel keeps its graphs, found without importing it (it would ask for packages unused here).

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = find_spec("random_face")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    if folder is None or not (folder / "SynthesisNetwork.xml").is_file():
        raise FileNotFoundError(
            f"wanted the networks of the wheel random-face, got {folder or 'no such package'}; "
            f"pip install --no-deps {WHEEL}"
        )
    return folder


class Graph(torch.nn.Module):
    """One network of OpenVINO IR (version 10): its operations in order, and its constants.

    Only what the two graphs hold is known. Constants of shapes and axes stay on the CPU, where torch wants them.
    """

    def __init__(self, path: Path):
        """Reads PATH.xml and PATH.bin.

        Raises:
            ValueError: an operation that is not known.
        """
        super().__init__()
        root = ElementTree.parse(path.with_suffix(".xml")).getroot()
        numbers = np.fromfile(path.with_suffix(".bin"), np.uint8)
        sources = {
            (e.get("to-layer", ""), e.get("to-port", "")): f"{e.get('from-layer')}:{e.get('from-port')}"
            for e in root.iterfind("edges/edge")
        }
        self.indices: dict[str, torch.Tensor] = {}
        self.steps: list[tuple[Callable[..., Any], list[str], list[str]]] = []
        layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
        for layer in _in_order(layers, sources):
            data = layer.find("data")
            values: Attributes = {} if data is None else dict(data.attrib)
            kind = layer.get("type")
            outputs = [f"{layer.get('id')}:{port.get('id')}" for port in layer.iterfind("output/port")]
            if kind == "Const":
                self._keep(outputs[0], _constant(values, numbers))
            elif kind == "Parameter":
                self.entry = outputs[0]
            elif kind in _OPERATIONS:
                inputs = [sources[layer.get("id"), port.get("id")] for port in layer.iterfind("input/port")]
                self.steps.append((partial(_OPERATIONS[kind], values), inputs, outputs))
            else:
                raise ValueError(f"{path.name} holds the operation {kind}, which is not known; take the wheel {WHEEL}")
        last = {name: number for number, (_, inputs, _) in enumerate(self.steps) for name in inputs}
        self.done_with = [[name for name in inputs if last[name] == n] for n, (_, inputs, _) in enumerate(self.steps)]

    def _keep(self, name: str, value: torch.Tensor) -> None:
        if value.is_floating_point():
            self.register_buffer(name.replace(":", "_"), value)
        else:
            self.indices[name] = value

    def forward(self, entry: torch.Tensor) -> torch.Tensor:
        """(B, 512) -> what the graph gives for it."""
        known = dict(self.indices) | {self.entry: entry}
        known |= {name.replace("_", ":"): value for name, value in self.named_buffers()}
        out = entry
        for (operation, inputs, outputs), finished in zip(self.steps, self.done_with, strict=True):
            out = operation(*(known[name] for name in inputs))
            known |= zip(outputs, out if isinstance(out, tuple) else (out,), strict=False)
            for name in finished:  # a picture is 12 MB, and there are many
                known.pop(name, None)
        return out


def _in_order(layers: dict[str, Any], sources: dict[tuple[str, str], str]) -> list[Any]:
    """Layers so that each comes after those it takes from."""
    needs: dict[str, list[str]] = {number: [] for number in layers}
    for (number, _), source in sources.items():
        needs[number].append(source.split(":")[0])
    ordered, waiting = {}, [number for number, layer in layers.items() if layer.get("type") == "Result"]
    while waiting:
        number = waiting[-1]
        missing = [other for other in needs[number] if other not in ordered]
        waiting += missing
        if not missing:
            ordered[waiting.pop()] = layers[number]
    return list(ordered.values())


def _constant(values: Attributes, numbers: np.ndarray) -> torch.Tensor:
    shape = _ints(values.get("shape", ""))
    start = int(values["offset"])
    raw = numbers[start : start + int(values["size"])].view(_DTYPES[values["element_type"]])
    return torch.from_numpy(raw.reshape(shape).copy())


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _matmul(values: Attributes, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.mT if values["transpose_a"] == "true" else x
    return x @ (y.mT if values["transpose_b"] == "true" else y)


def _mean(values: Attributes, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    return x.mean(axes.flatten().tolist(), keepdim=values["keep_dims"] == "true")


def _gather(values: Attributes, x: torch.Tensor, index: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    found = x.index_select(int(axis), index.flatten())
    return found if index.dim() else found.squeeze(int(axis))


def _unsqueeze(values: Attributes, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in sorted(axes.flatten().tolist()):
        x = x.unsqueeze(axis)
    return x


def _reshape(values: Attributes, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    kept = values["special_zero"] == "true"
    return x.reshape([x.shape[n] if kept and side == 0 else side for n, side in enumerate(shape.tolist())])


def _broadcast(values: Attributes, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))


def _prelu(values: Attributes, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return F.prelu(x, slope)


def _convolve(values: Attributes, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if weight.shape[-2:] == (1, 1):  # a product of matrices, for which torch is faster on one picture
        return (weight[:, :, 0, 0] @ x.flatten(2)).unflatten(2, x.shape[2:])
    return F.conv2d(x, weight, stride=_ints(values["strides"]), padding=_ints(values["pads_begin"]))


def _convolve_groups(values: Attributes, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    groups, weight = len(weight), weight.flatten(0, 1)
    return F.conv2d(x, weight, stride=_ints(values["strides"]), padding=_ints(values["pads_begin"]), groups=groups)


def _spread(values: Attributes, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The transpose of a convolution by channel whose steps are its kernel's sides: every pixel becomes several."""
    high, wide = weight.shape[-2:]
    if _ints(values["strides"]) != [high, wide] or any(_ints(values["pads_begin"] + "," + values["pads_end"])):
        raise ValueError(f"wanted a transposed convolution without overlap, got {values}; take the wheel {WHEEL}")
    out = x[:, :, :, None, :, None] * weight.view(1, -1, 1, high, 1, wide)
    return out.flatten(4).flatten(2, 3)


def _split(values: Attributes, x: torch.Tensor, axis: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x.split(sizes.tolist(), int(axis))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda values, x, y: x + y,
    "Broadcast": _broadcast,
    "Concat": lambda values, *parts: torch.cat(parts, int(values["axis"])),
    "Convolution": _convolve,
    "Gather": _gather,
    "GroupConvolution": _convolve_groups,
    "GroupConvolutionBackpropData": _spread,
    "MatMul": _matmul,
    "Multiply": lambda values, x, y: x * y,
    "PReLU": _prelu,
    "Power": lambda values, x, y: x**y,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Result": lambda values, x: x,
    "ShapeOf": lambda values, x: torch.tensor(x.shape),
    "Squeeze": lambda values, x, axes: x.squeeze(axes.flatten().tolist()),
    "Tile": lambda values, x, times: x.repeat(times.tolist()),
    "Unsqueeze": _unsqueeze,
    "VariadicSplit": _split,
}


class Generator:
    """Styles from noise, pictures from styles.

    Attributes:
        mean: (512,) float32, the mean of many styles: the average person.
        spread: (512, 512) float32, their covariance.
    """

    def __init__(self, folder: Path | None = None, device: str = "cpu", backend: str = "auto"):
        """Loads the networks.

        Args:
            folder: where MappingNetwork and SynthesisNetwork (.xml, .bin) lie; None for the installed wheel.
            device: of torch.
            backend: "torch", "openvino" (CPU only), or "auto": OpenVINO where it is installed and the device is a CPU.

        Raises:
            FileNotFoundError: the wheel is not installed.
            ValueError: another backend, or OpenVINO on another device.
        """
        if backend not in BACKENDS or (backend == "openvino" and device != "cpu"):
            raise ValueError(
                f"backend must be one of {', '.join(BACKENDS)}, openvino with device cpu; got {backend} on {device}"
            )
        folder = wheel_folder() if folder is None else folder
        self.mapping = Graph(folder / "MappingNetwork")
        if backend == "openvino" or (backend == "auto" and device == "cpu" and find_spec("openvino")):
            self.backend, self._paint = "openvino", _compiled(folder / "SynthesisNetwork.xml")
        else:
            graph = Graph(folder / "SynthesisNetwork").to(device).eval()
            self.backend, self._paint = "torch", lambda styles: graph(styles.to(device))
        noise = np.random.default_rng(0).standard_normal((MEAN_OF, DIM)).astype(np.float32)
        styles = self._map(noise)
        self.mean, self.spread = styles.mean(0), np.cov(styles.T).astype(np.float32)

    def styles(self, noise: np.ndarray, psi: np.ndarray) -> np.ndarray:
        """(N, 512) normal noise, (N,) truncation in 0..1 -> (N, 512) float32 styles, nearer to the mean if less."""
        return self.mean + psi[:, None].astype(np.float32) * (self._map(noise.astype(np.float32)) - self.mean)

    @torch.no_grad()
    def paint(self, styles: np.ndarray) -> np.ndarray:
        """(B, 512) styles -> (B, 1024, 1024, 3) uint8 RGB."""
        pictures = self._paint(torch.from_numpy(np.ascontiguousarray(styles, np.float32)))
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte()
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    @torch.no_grad()
    def _map(self, noise: np.ndarray) -> np.ndarray:
        return self.mapping(torch.from_numpy(noise)).numpy()


def _compiled(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The synthesis network by OpenVINO, in as many threads as torch has."""
    import openvino

    precision = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    net = openvino.Core().compile_model(path, "CPU", precision)
    return lambda styles: torch.from_numpy(np.concatenate([net([row[None]])[0] for row in styles.numpy()]))
