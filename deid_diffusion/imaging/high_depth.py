"""Reads pixels of 16 bit, which Pillow shows with 8 only, and compares each picture with what a second decoder says.

A decoder that takes one layout for another gives a scrambled picture, in which nobody finds a face; and what it did
not write is memory of the picture before. So nothing is taken on one decoder's word where a second one can speak.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from ..errors import DeidError
from .mend import PNG, png_chunk, png_chunks

ASSOCIATED = 1  # TIFF's ExtraSamples: colour is premultiplied by alpha
_CHANNELS = {"RGB": 3, "RGBA": 4}


class RefusedPictureError(DeidError, ValueError):
    """A whole picture that is not read; the message says what was wanted, what came and what to do."""


def deep_tiff(image: Image.Image, data: bytes) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4) uint16 in RGB order, upright.

    Args:
        image: as opened and loaded by Pillow, which says what the channels mean, and turned it.
        data: the bytes of its file.

    Raises:
        RefusedPictureError: no decoder reads 16 bit, or two read different pictures.
        ValueError: strips or tiles are missing.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]  # Pillow's types know no TIFF tags
    array = tiff_page(data, image.tell())
    if array is None and tags.get(284, 1) == 1 and image.tell() == 0:
        # LZW and what else needs tifffile's optional codecs; planes one after another OpenCV takes for pixels.
        array = _opencv(data)
    channels = _CHANNELS.get(image.mode, 1)
    array = None if array is None else _with_channels(array, channels)
    if array is None or array.dtype != np.uint16 or array.shape[:2] != (image.height, image.width):
        raise RefusedPictureError(_unread(tags))
    # Pillow takes the bytes of uncompressed planes for values of 8 bit; there tifffile's word must do.
    knows = not (tags.get(284, 1) == 2 and tags.get(259, 1) == 1)
    premultiplied = channels == 4 and ASSOCIATED in tuple(tags.get(338, ()))
    array = _straight(array) if premultiplied else array
    if knows and not _agree(array, image):
        raise RefusedPictureError(_unread(tags))
    return 65535 - array if tags.get(262) == 0 else array  # 0: white is zero


def deep_png(image: Image.Image, data: bytes) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4) uint16 in RGB order, not turned; a colour key has become alpha of 0 or 65535.

    Args:
        image: as opened and loaded by Pillow.
        data: the bytes of its file.

    Raises:
        RefusedPictureError: two decoders do not read the same.
    """
    # Only whole chunks and an end: OpenCV makes room for whatever a garbled PNG says will come.
    parts = [png_chunk(name, body) for name, body in png_chunks(data) if name in (b"IHDR", b"tRNS", b"IDAT")]
    array = _opencv(b"".join([PNG, *parts, png_chunk(b"IEND", b"")]))
    if array is None or array.dtype != np.uint16 or not _agree(array, image):
        raise RefusedPictureError("wanted a PNG that two decoders read alike, got one they do not; save it anew")
    key = image.info.get("transparency")
    if array.ndim == 2 and isinstance(key, int):
        array = np.dstack([array] * 3 + [np.where(array == key, 0, 65535).astype(np.uint16)])
    return array


def check_tiff(image: Image.Image, data: bytes) -> None:
    """Compares what Pillow read of a TIFF with what tifffile reads, where it can.

    Args:
        image: as opened and loaded by Pillow, and turned upright.
        data: the bytes of its file.

    Raises:
        RefusedPictureError: they differ, or nobody can tell.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, kind = set(tags.get(258, (1,))), tags.get(262)
    if tags.get(284, 1) == 2 and max(bits) > 8:
        raise RefusedPictureError(_unread(tags))
    premultiplied = ASSOCIATED in tuple(tags.get(338, ()))
    if bits != {8} or kind not in (1, 2) or premultiplied or image.mode not in ("L", *_CHANNELS):
        return
    array = tiff_page(data, image.tell())
    array = None if array is None else _with_channels(array, _CHANNELS.get(image.mode, 1))
    if array is not None and not np.array_equal(array, np.asarray(image)):
        raise RefusedPictureError(_unread(tags))


def tiff_page(data: bytes, number: int = 0) -> np.ndarray | None:
    """A page by tifffile, (H, W) or (H, W, C), upright; None where it needs a codec that is not there.

    Args:
        data: the bytes of a TIFF.
        number: of the page, from 0.

    Raises:
        ValueError: strips or tiles are missing.
    """
    with contextlib.closing(tifffile.TiffFile(BytesIO(data))) as file:
        page = file.pages[number].aspage()
        if page.shaped[0] not in (1, page.samplesperpixel) or page.shaped[1] != 1 or page.dtype is None:
            return None
        # tifffile leaves what has no strip or tile as it found it in memory.
        sizes = page.databytecounts
        if len(sizes) < (1 if page.is_contiguous else prod(page.chunked)) or not all(sizes):
            raise ValueError("strips or tiles are missing")
        array = np.zeros(page.shaped, page.dtype)
        try:
            page.asarray(out=array)
        except (ValueError, KeyError, ImportError, NotImplementedError) as error:
            if "imagecodecs" in str(error) or isinstance(error, (KeyError, ImportError, NotImplementedError)):
                return None
            raise
        orientation = int(page.tags.valueof(274, 1))
    array = array.reshape(page.shaped)  # planes, depth, height, width, samples: asarray() squeezed it
    array = array[:, 0, :, :, 0].transpose(1, 2, 0) if page.planarconfig == 2 else array[0, 0]
    return upright(array[..., 0] if array.shape[2] == 1 else array, orientation)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """The picture turned and mirrored as its orientation says.

    Args:
        array: (H, W) or (H, W, C).
        orientation: of EXIF, 1 to 8; what is not one is taken for 1.

    Returns:
        (H, W) or (H, W, C) of the same type, a view; height and width swapped for 5 to 8.
    """
    if orientation in (2, 5, 7, 4):
        array = array[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(array, turns)


def _opencv(data: bytes) -> np.ndarray | None:
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array is None or array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray | None:
    """The channels that mean something; None when there are too few."""
    have = 1 if array.ndim == 2 else array.shape[2]
    if channels == 1:
        return array if array.ndim == 2 else None
    return array[..., :channels] if have >= channels else None


def _straight(array: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint16 with colour no longer premultiplied by alpha."""
    alpha = array[..., 3:].astype(np.uint32)
    colour = np.minimum(array[..., :3].astype(np.uint32) * 65535 // np.maximum(alpha, 1), 65535)
    return np.concatenate([colour, alpha], axis=2).astype(np.uint16)


def _agree(array: np.ndarray, image: Image.Image) -> bool:
    """Whether uint16 pixels are those of which Pillow shows the upper 8 bit, in every pixel."""
    if image.mode[0] == "I":
        return np.array_equal(array, np.asarray(image))
    shown = np.asarray(image)
    if array.shape[:2] != shown.shape[:2] or array.ndim != 3:
        return False
    # A colour key became alpha by 16 bit, which Pillow's 8 cannot tell.
    channels = min(array.shape[2], 3 if "transparency" in image.info else 4)
    if shown.ndim != 3 or shown.shape[2] < channels:
        return False
    high, shown = (array[..., :channels] >> 8).astype(np.int32), shown[..., :channels].astype(np.int32)
    if channels == 4:
        if not np.array_equal(high[..., 3], shown[..., 3]):
            return False
        # Where little shows, premultiplied colours are known to few digits.
        return int((np.abs(high - shown).max(2) * shown[..., 3]).max()) <= 2 * 255
    return np.array_equal(high, shown)


def _unread(tags: Mapping[int, Any]) -> str:
    planes = ", planes one after another" if tags.get(284, 1) == 2 else ""
    return (
        f"wanted a TIFF that two decoders read alike, got one of {max(tags.get(258, (1,)))} bit{planes}, compression "
        f"{tags.get(259, 1)} that they do not; save it as PNG, or as an uncompressed TIFF of interleaved RGB"
    )


def eight_bit(deep: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) uint16 -> the same shape in uint8, rounded to the nearest level."""
    # 257 = 65535 / 255: the nearest level, so that 8-bit data widened to 16 comes back as it was.
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
