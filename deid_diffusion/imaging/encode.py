"""Turns pixels into the bytes of a picture file that holds nothing else."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from .high_depth import eight_bit
from .metadata import Metadata, with_metadata
from .strip import stripped

if TYPE_CHECKING:
    from .pictures import Picture

DEEP_KINDS = ("PNG", "TIFF")  # the formats we write with 16 bit a channel
_OPAQUE = ("JPEG", "BMP")


def encode_picture(
    picture: Picture, image: np.ndarray, deep: np.ndarray | None, kind: str, unchanged: bool, metadata: Metadata
) -> bytes:
    """The bytes of a file.

    Args:
        picture: what was read: its alpha, profile, greyness and own file.
        image: (H, W, 3) uint8 RGB, what is to be written.
        deep: (H, W, 3) uint16 of the same, which formats of 16 bit a channel get; None where there is none.
        kind: Pillow's name of the format: "PNG".
        unchanged: whether nothing of the picture was changed; its coded pixels are kept where the format is the same.
        metadata: what of it to put in.
    """
    data = _unchanged(picture, image, kind, metadata) if unchanged else None
    data = data or _encode(picture, image, deep, kind, metadata)
    return with_metadata(data, metadata) if kind in ("JPEG", "PNG") else data


def _unchanged(picture: Picture, image: np.ndarray, kind: str, metadata: Metadata) -> bytes | None:
    """The source's own file without its metadata, where the new one would be the same picture in the same format."""
    if kind == "WEBP" and metadata.exif():
        return None  # it has no place for EXIF unless it is made with one
    if not picture.encoded or kind != picture.format or not np.array_equal(image, picture.image):
        return None
    data = stripped(picture.encoded, kind)
    return data if data is not None and _shows_the_same(data, picture.encoded) else None


def _shows_the_same(data: bytes, other: bytes) -> bool:
    """Whether two files decode to the same pixels: of a garbled one, what was taken out may have mattered."""
    try:
        with Image.open(BytesIO(data)) as one, Image.open(BytesIO(other)) as two:
            return (one.mode, one.size) == (two.mode, two.size) and one.tobytes() == two.tobytes()
    except Exception:  # decoders raise every kind of error on damaged bytes
        return False


def _encode(picture: Picture, image: np.ndarray, deep: np.ndarray | None, kind: str, metadata: Metadata) -> bytes:
    grey = picture.grey and bool((image == image[..., :1]).all())
    alpha = picture.alpha
    if deep is not None and kind in DEEP_KINDS:
        if alpha is not None and alpha.dtype == np.uint8:
            alpha = alpha.astype(np.uint16) * 257
        return encode_deep(kind, deep[..., 0] if grey else deep, alpha, picture.icc, metadata)
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = eight_bit(alpha)
    pixels = np.ascontiguousarray(image[..., 0]) if grey else image
    return encode(kind, pixels, alpha, picture.icc, picture.lossless, picture.jpeg, metadata)


def encode(
    kind: str,
    image: np.ndarray,
    alpha: np.ndarray | None,
    icc: bytes | None,
    lossless: bool,
    jpeg: dict[str, Any],
    metadata: Metadata | None = None,
) -> bytes:
    """8-bit pixels to a file of `kind`.

    Args:
        kind: JPEG, PNG, WEBP, TIFF, AVIF, BMP, GIF or HEIF.
        image: (H, W, 3) uint8 RGB or (H, W) uint8 grey.
        alpha: (H, W) uint8 or None. Where the format has none, the picture is laid on white.
        icc: colour profile, written when its colour space is that of `image`: a CMYK profile is not.
        lossless: for WebP, which can be either.
        jpeg: `qtables` and `subsampling` for a JPEG; empty for quality 95 without subsampling.
        metadata: for a WebP, AVIF or TIFF.
    """
    if alpha is not None and kind in _OPAQUE:
        weight = alpha[..., None] if image.ndim == 3 else alpha
        image = 255 - ((255 - image.astype(np.uint16)) * weight + 127) // 255
        image, alpha = image.astype(np.uint8), None
    options: dict[str, Any] = {
        "JPEG": {"optimize": True, **(jpeg or {"quality": 95, "subsampling": 0})},
        "WEBP": {"lossless": lossless, "quality": 90, "exact": True},
        "TIFF": {"compression": "tiff_adobe_deflate"},
        "AVIF": {"quality": 90, "subsampling": "4:4:4"},
        "HEIF": {"quality": 90, "chroma": 444},
    }.get(kind, {})
    if metadata is not None and kind in ("WEBP", "AVIF"):
        options |= {"exif": metadata.exif()} if metadata.exif() else {}
    if kind == "TIFF" and metadata not in (None, Metadata()):
        # Pillow gives a compressed TIFF no EXIF directory.
        pixels = image if alpha is None else np.dstack([image, alpha])
        return _tiff(pixels, icc if _fits(icc, image) else None, alpha is not None, metadata)
    if _fits(icc, image):
        options["icc_profile"] = icc
    picture = Image.fromarray(image if alpha is None else np.dstack([image, alpha]))
    buffer = BytesIO()
    if kind == "HEIF":
        _heif(picture, buffer, options)
    else:
        picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _fits(icc: bytes | None, image: np.ndarray) -> bool:
    # Bytes 16 to 20 of a profile name its colour space.
    return icc is not None and icc[16:20] == (b"GRAY" if image.ndim == 2 else b"RGB ")


def _heif(picture: Image.Image, buffer: BytesIO, options: dict[str, Any]) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImportError("HEIC needs an extra: pip install 'deid-diffusion[heic]'") from None
    icc = options.pop("icc_profile", None)
    heif = pillow_heif.from_pillow(picture)
    if icc is not None:
        heif.info["icc_profile"], heif.info["icc_profile_type"] = icc, "prof"
    heif.save(buffer, **options)


def encode_deep(
    kind: str, image: np.ndarray, alpha: np.ndarray | None, icc: bytes | None, metadata: Metadata | None = None
) -> bytes:
    """16-bit pixels to a PNG or TIFF.

    Args:
        kind: one of `DEEP_KINDS`.
        image: (H, W, 3) uint16 RGB or (H, W) uint16 grey.
        alpha: (H, W) uint16 or None.
        icc: as in `encode`.
        metadata: for a TIFF.
    """
    icc = icc if _fits(icc, image) else None
    if alpha is not None and image.ndim == 2:
        # OpenCV writes no PNG of 16-bit grey with alpha, and Pillow opens no TIFF of it.
        image, icc = np.dstack([image] * 3), None
    pixels = image if alpha is None else np.dstack([image, alpha])
    if kind == "PNG":
        return _deep_png(pixels, icc)
    return _tiff(pixels, icc, alpha is not None, metadata or Metadata())


def _deep_png(pixels: np.ndarray, icc: bytes | None) -> bytes:
    ok, packed = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    if not ok:
        raise ValueError("OpenCV refused the pixels")
    data: bytes = packed.tobytes()
    if icc is None:
        return data
    body = b"iCCPicc\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    # After the signature (8 bytes) and the IHDR chunk (25), before the pixels. OpenCV writes no profile.
    return data[:33] + chunk + data[33:]


def _tiff(pixels: np.ndarray, icc: bytes | None, has_alpha: bool, metadata: Metadata) -> bytes:
    # (H, W) or (H, W, C) of uint8 or uint16. Pillow has no 16-bit RGB and OpenCV writes no profile; one deflated
    # strip needs no more than this.
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    difference = pixels.copy()
    difference[:, 1:] -= pixels[:, :-1]  # predictor 2, modulo 2^8 or 2^16
    strip = zlib.compress(difference.astype(pixels.dtype.newbyteorder("<")).tobytes())
    tags = TiffImagePlugin.ImageFileDirectory_v2()  # little-endian
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * pixels.itemsize,) * channels, 8
    tags[262] = 2 if channels >= 3 else 1
    tags[273], tags[277], tags[278], tags[279] = 0, channels, height, len(strip)
    tags[284], tags[317] = 1, 2
    if has_alpha:
        tags[338] = 2  # not premultiplied
    if icc is not None:
        tags[34675] = icc
    if metadata.dpi is not None:
        tags[282], tags[283], tags[296] = *metadata.dpi, 2  # pixels per inch
    for tag, text in ((33432, metadata.copyright), (315, metadata.artist)):
        if text:
            tags[tag] = text
    if metadata.date:
        tags[34665] = {36867: metadata.date}  # DateTimeOriginal, in EXIF's own directory
    buffer = BytesIO()
    tags.save(buffer)  # shifts the strip's offset to the end of what it writes
    return buffer.getvalue() + strip
