"""Compares a frame with its output by pixels alone: what was left, what flickers. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from deid_diffusion.evaluation.warp import eye_distance, square_box
from deid_diffusion.types import Face

BLOCK = 16  # px, side of the blocks over which the encoder's error is taken
MOST_NOISE = 6.0  # levels: beyond that it is no encoder; a frame that is blurred as a whole would hide nothing else
TELLING = 3.0  # times the noise: a part of a face with fainter detail cannot be told from skin
DETAIL = 0.33  # of a part's side: what is wider is shade, which a new face has as well
# Share of the detail that may differ where it was left. Of copies encoded at CRF 23 up to .24 differs in the part that
# differs least, of new faces at least .40 (64 faces of 8 clips).
LEFT = 0.3
CUT = 18.0  # levels between thumbnails of 64 x 36


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new shot begins between two frames, one after the other.

    Args:
        before, after: (36, 64, 3) uint8, their thumbnails.
    """
    return float(cv2.absdiff(before, after).mean()) > CUT


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (36, 64, 3) uint8."""
    return cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA)


def difference(source: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, twice -> (H, W) float32, difference of the lightness in levels."""
    before, after = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (source, output))
    return cv2.subtract(after, before, dtype=cv2.CV_32F)


def encoder_noise(changes: np.ndarray, faces: Sequence[Face]) -> tuple[float, float]:
    """What encoding changes where no face is.

    Args:
        changes: (H, W) float32, see `difference`.
        faces: of the frame; a square twice as wide around each does not count.

    Returns:
        root mean square in levels: the 95th percentile over blocks, at least 1 and at most MOST_NOISE, and that of
        all; 1 and NaN where no block is free.
    """
    height, width = (max(side // BLOCK, 1) for side in changes.shape)
    blocks = cv2.resize(cv2.multiply(changes, changes), (width, height), interpolation=cv2.INTER_AREA)
    free = np.ones(blocks.shape, bool)
    for face in faces:
        low, high = np.split(square_box(face.box, 2.0) / BLOCK, 2)
        x0, y0 = np.floor(np.maximum(low, 0)).astype(int)
        x1, y1 = np.ceil(np.maximum(high, 0)).astype(int)
        free[y0:y1, x0:x1] = False
    if not free.any():
        return 1.0, float("nan")
    worst = float(np.sqrt(np.percentile(blocks[free], 95)))
    return float(np.clip(worst, 1.0, MOST_NOISE)), float(np.sqrt(blocks[free].mean()))


def is_exposed(source: np.ndarray, changes: np.ndarray, face: Face, noise: float) -> bool:
    """Whether an eye, the nose or the mouth of a face came out as it went in, but for what encoding does everywhere.

    Args:
        source: (H, W, 3) uint8 RGB, the frame before.
        changes: (H, W) float32, see `difference`.
        face: as detected in the source.
        noise: see `encoder_noise`.
    """
    side = max(eye_distance(face.landmarks), 0.35 * float(face.box[3] - face.box[1]))
    mouth = face.landmarks[3:].mean(axis=0)
    windows = [_window(changes.shape, place, 0.7 * side) for place in (*face.landmarks[:3], mouth)]
    told = False
    for window in windows:
        if window[0].stop - window[0].start < 2 or window[1].stop - window[1].start < 2:
            continue
        lightness = cv2.cvtColor(np.ascontiguousarray(source[window]), cv2.COLOR_RGB2GRAY)
        detail = _detail(lightness.astype(np.float32))
        if detail < TELLING * noise:
            continue
        told = True
        if _detail(changes[window]) <= max(LEFT * detail, 1.25 * noise):
            return True
    whole = _window(changes.shape, (face.box[:2] + face.box[2:]) / 2, 0.7 * float(min(face.box[2:] - face.box[:2])))
    # A face without detail, in the dark, very small or blurred: all of it has to be as it was.
    return not told and bool(changes[whole].size) and float(np.sqrt((changes[whole] ** 2).mean())) <= 1.25 * noise


def flicker(
    frames: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray], face: Face
) -> tuple[float, float]:
    """How much a face changes from one frame to the next that its motion does not explain.

    Args:
        frames: (H, W, 3) uint8 RGB, source and output.
        before: the frames before them.
        face: as detected in the source.

    Returns:
        mean difference, in levels, of the lightness to the frame before, moved by the source's optical flow (DIS), in
        the ellipse in the face's box: of the source, and of the output.
    """
    window = _window(frames[0].shape, (face.box[:2] + face.box[2:]) / 2, 1.3 * float(max(face.box[2:] - face.box[:2])))
    low = np.array([window[1].start, window[0].start])
    now, then = ([cv2.cvtColor(one[window], cv2.COLOR_RGB2GRAY) for one in two] for two in (frames, before))
    if min(now[0].shape) < 16:
        return float("nan"), float("nan")
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now[0], then[0], None)
    y, x = np.mgrid[: len(flow), : flow.shape[1]].astype(np.float32)
    inner = np.zeros(now[0].shape, np.uint8)
    middle, axes = (face.box[:2] + face.box[2:]) / 2 - low, 0.9 * (face.box[2:] - face.box[:2])
    cv2.ellipse(inner, (middle.tolist(), axes.tolist(), 0.0), 1, -1)
    found = []
    for image, old in zip(now, then, strict=True):
        moved = cv2.remap(old, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)
        found.append(float(cv2.absdiff(image, moved)[inner > 0].mean()) if inner.any() else float("nan"))
    return found[0], found[1]


def _detail(part: np.ndarray) -> float:
    """Standard deviation in levels, without shades, of (h, w) float32."""
    blurred = cv2.GaussianBlur(part, (0, 0), max(DETAIL * len(part), 0.8))
    return float((part - blurred).std())


def _window(shape: Sequence[int], centre: np.ndarray, side: float) -> tuple[slice, slice]:
    """Rows and columns of a square, cut at the picture's borders."""
    low = np.clip(np.rint(centre - side / 2), 0, (shape[1], shape[0])).astype(int)
    high = np.clip(np.rint(centre + side / 2), 0, (shape[1], shape[0])).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])
