"""Turns decoded video frames into upright RGB, and puts changed pixels back into their planes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from .tone import LEVELS, PQ, pq_from_standard, standard_from_pq

# Red's and blue's weight in luma by H.273 matrix code.
_MATRICES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_LIMITED, _FULL = 1, 2
# Where red, green and blue lie in a pixel of a packed format.
_PACKED = {
    "rgb24": (0, 1, 2),
    "bgr24": (2, 1, 0),
    "rgba": (0, 1, 2),
    "rgb0": (0, 1, 2),
    "bgra": (2, 1, 0),
    "bgr0": (2, 1, 0),
    "argb": (1, 2, 3),
    "0rgb": (1, 2, 3),
    "abgr": (3, 2, 1),
    "0bgr": (3, 2, 1),
}
_BLOCKS = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}
_PLANAR = re.compile(r"(?:yuva?(?P<full>j)?(?P<block>4\d\d)p|gray)(?P<bits>\d+)?(?:le)?")


@dataclass(frozen=True)
class Orientation:
    """How the coded picture is turned to be upright: axes swapped first, then mirrored in x and in y."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @staticmethod
    def from_matrix(matrix: tuple[int, ...] | None) -> Orientation:
        """Of FFmpeg's display matrix, the nearest of the eight turns and mirrors; None is upright."""
        if matrix is None:
            return Orientation()
        a, b, _, c, d = matrix[:5]  # x' = a x + c y, y' = b x + d y
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return Orientation(False, a < 0, d < 0)
        return Orientation(True, c < 0, b < 0)

    def upright(self, coded: np.ndarray) -> np.ndarray:
        """(h, w, ...) coded to (H, W, ...) upright."""
        return self._mirror(coded.swapaxes(0, 1) if self.swap else coded)

    def coded(self, upright: np.ndarray) -> np.ndarray:
        """(H, W, ...) upright to (h, w, ...) coded: the way back."""
        mirrored = self._mirror(upright)
        return mirrored.swapaxes(0, 1) if self.swap else mirrored

    def _mirror(self, array: np.ndarray) -> np.ndarray:
        return array[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


@dataclass(frozen=True)
class Layout:
    """How a pixel format stores colour.

    Attributes:
        pix_fmt: FFmpeg's name.
        block: pixels (x, y) that share one chroma sample; None for grey and RGB.
        bits: of a sample.
        full: range 0 to 2 ** bits - 1 and not the limited one of television.
        matrix: H.273 code of the luma weights.
        is_pq: whether the signal is PQ, which is shown as a standard one; see `tone`.
    """

    pix_fmt: str
    block: tuple[int, int] | None
    bits: int
    full: bool
    matrix: int
    is_pq: bool = False

    @staticmethod
    def of(pix_fmt: str, color_range: int, color_matrix: int, width: int, height: int, color_trc: int = 2) -> Layout:
        """The layout of a clip's frames.

        Args:
            pix_fmt: FFmpeg's name of the pixel format.
            color_range: 1 limited, 2 full, 0 unspecified.
            color_matrix: H.273 code; unspecified is guessed from the size.
            width, height: in pixels.
            color_trc: H.273 code of the transfer.

        Raises:
            ValueError: a format whose samples cannot be replaced; says so in words.
        """
        if pix_fmt in _PACKED or pix_fmt == "gbrp":
            return Layout(pix_fmt, None, 8, True, 0)
        found = _PLANAR.fullmatch(pix_fmt)
        if found is None or (found["block"] or "444") not in _BLOCKS:
            raise ValueError(f"wanted planar YUV, grey or 8-bit RGB, got {pix_fmt}")
        if color_matrix not in _MATRICES:
            if color_matrix not in (0, 2, 3):
                raise ValueError(
                    f"wanted a colour matrix of BT.601, 709, 2020 or the like, got H.273 code {color_matrix}"
                )
            # Players take unmarked pictures of high definition for BT.709 and others for BT.601.
            color_matrix = 1 if width >= 1280 or height > 576 else 6
        # Grey is full where nothing says otherwise, colour is limited.
        full = color_range != _LIMITED if found["block"] is None else bool(found["full"]) or color_range == _FULL
        bits = int(found["bits"] or 8)
        return Layout(pix_fmt, _BLOCKS.get(found["block"]), bits, full, color_matrix, color_trc == PQ)


def to_rgb(frame: Any, layout: Layout) -> np.ndarray:
    """(h, w, 3) uint8 RGB in the coded orientation of a decoded `av.VideoFrame`.

    The inverse of `paste` to the rounding: swscale's fast conversion is a level too dark, its exact one twice as slow.

    Args:
        frame: as decoded; not written to.
        layout: of its pixel format.
    """
    if layout.matrix == 0:
        return frame.to_ndarray(format="rgb24")
    planes = list(_views(frame))
    if layout.block is not None:
        step_x, step_y = layout.block
        height, width = planes[0].shape
        chroma = [_enlarge(plane, step_x, step_y)[:height, :width] for plane in planes[1:3]]
        planes = [cv2.merge([planes[0], *chroma])]
    if layout.is_pq:
        signal = cv2.transform(planes[0].astype(np.float32), _rgb_from_yuv(layout) * ((LEVELS - 1) / 255))
        return standard_from_pq()[np.clip(np.rint(signal), 0, LEVELS - 1).astype(np.uint16)]
    rgb = cv2.transform(planes[0], _rgb_from_yuv(layout))
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb)


def _enlarge(plane: np.ndarray, step_x: int, step_y: int) -> np.ndarray:
    height, width = plane.shape
    return cv2.resize(plane, (width * step_x, height * step_y), interpolation=cv2.INTER_NEAREST)


def same(frame: Any, other: Any) -> bool:
    """Whether two decoded frames have the same samples.

    Args:
        frame, other: `av.VideoFrame`s; another size or pixel format makes them different.
    """
    if (frame.width, frame.height, frame.format.name) != (other.width, other.height, other.format.name):
        return False
    pairs = list(zip(_views(frame), _views(other), strict=True))
    # A few rows tell most frames apart.
    return all(np.array_equal(a[::32], b[::32]) for a, b in pairs) and all(np.array_equal(a, b) for a, b in pairs)


def paste(frame: Any, layout: Layout, image: np.ndarray | None, changed: np.ndarray | None) -> Any:
    """A new `av.VideoFrame` with the samples of `frame`, and those of `image` where `changed`.

    A chroma sample is replaced when any pixel that shares it has changed; every other sample keeps its bits. No side
    data (captions, time codes, coordinates) comes along.

    Args:
        frame: as decoded; not written to.
        image: (h, w, 3) uint8 RGB in the coded orientation, or None for a plain copy.
        changed: (h, w) bool in the coded orientation, or None.
    """
    copy = type(frame)(frame.width, frame.height, frame.format.name)
    for target, source in zip(_views(copy), _views(frame), strict=True):
        target[:] = source
    if image is None or changed is None or not changed.any():
        return copy
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    step_x, step_y = layout.block or (1, 1)
    left, top = columns[0] // step_x * step_x, rows[0] // step_y * step_y
    box = np.s_[top : rows[-1] + 1, left : columns[-1] + 1]
    if layout.matrix == 0:
        _paste_rgb(copy, layout, box, image[box], changed[box])
    else:
        _paste_yuv(copy, layout, (left, top), image[box], changed[box])
    return copy


def _paste_rgb(copy: Any, layout: Layout, box: tuple[slice, slice], image: np.ndarray, changed: np.ndarray) -> None:
    views = list(_views(copy))
    if layout.pix_fmt == "gbrp":
        targets = [views[2], views[0], views[1]]
    else:
        pixels = views[0].reshape(copy.height, copy.width, -1)
        targets = [pixels[..., offset] for offset in _PACKED[layout.pix_fmt]]
    for channel, target in enumerate(targets):
        target[box][changed] = image[..., channel][changed]


def _paste_yuv(copy: Any, layout: Layout, corner: tuple[int, int], image: np.ndarray, changed: np.ndarray) -> None:
    left, top = corner
    signal = pq_from_standard()[image] if layout.is_pq else image.astype(np.float32)
    yuv = cv2.transform(signal, _yuv_from_rgb(layout))
    views = list(_views(copy))
    _put(views[0], left, top, yuv[..., 0], changed, layout)
    if layout.block is None:
        return
    step_x, step_y = layout.block
    pad = ((0, -changed.shape[0] % step_y), (0, -changed.shape[1] % step_x))
    blocks = np.pad(changed, pad)
    small = (blocks.shape[1] // step_x, blocks.shape[0] // step_y)
    touched = np.asarray(blocks.reshape(small[1], step_y, small[0], step_x).any(axis=(1, 3)))
    for number in (1, 2):
        chroma = np.pad(yuv[..., number], pad, mode="edge")
        _put(
            views[number],
            left // step_x,
            top // step_y,
            cv2.resize(chroma, small, interpolation=cv2.INTER_AREA),
            touched,
            layout,
        )


def _put(plane: np.ndarray, left: int, top: int, values: np.ndarray, where: np.ndarray, layout: Layout) -> None:
    height, width = where.shape
    samples = np.clip(np.rint(values), 0, 2**layout.bits - 1).astype(plane.dtype)
    plane[top : top + height, left : left + width][where] = samples[where]


@lru_cache(maxsize=8)
def _yuv_from_rgb(layout: Layout) -> np.ndarray:
    """(3, 4) float64: RGB 0..255 to samples, with the offsets in the last column."""
    red, blue = _MATRICES[layout.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb, cr = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    unit, top = 2.0 ** (layout.bits - 8), 2.0**layout.bits - 1
    scales, offsets = (
        ((top,) * 3, (0, 128 * unit, 128 * unit))
        if layout.full
        else (
            (219 * unit, 224 * unit, 224 * unit),
            (16 * unit, 128 * unit, 128 * unit),
        )
    )
    rows = [
        np.append(row * scale / 255, offset)
        for row, scale, offset in zip((luma, cb, cr), scales, offsets, strict=True)
    ]
    return np.array(rows)


@lru_cache(maxsize=8)
def _rgb_from_yuv(layout: Layout) -> np.ndarray:
    """(3, 4) float64, the way back; (3, 2) for grey."""
    full = _yuv_from_rgb(layout)
    inverse = np.linalg.inv(full[:, :3])
    offset = -inverse @ full[:, 3:]
    if layout.block is None:
        return np.hstack([inverse[:, :1], inverse[:, :1] * -full[0, 3]])
    return np.hstack([inverse, offset])


def _views(frame: Any) -> Iterator[np.ndarray]:
    """Each plane as (rows, samples) without its padding; packed formats have several samples a pixel."""
    components = frame.format.components
    dtype = np.dtype("<u2" if components[0].bits > 8 else "u1")
    for number, plane in enumerate(frame.planes):
        packed = sum(component.plane == number for component in components)
        bytes_a_pixel = 4 if frame.format.name in ("rgb0", "bgr0", "0rgb", "0bgr") else packed * dtype.itemsize
        row = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        yield row[:, : plane.width * bytes_a_pixel].view(dtype)
