"""Carries a picture between a file and arrays: pixels, alpha, depth and colour profile, and nothing else.

A saved file is built from pixels alone. EXIF, GPS, XMP, MakerNote, IPTC, comments, text chunks, thumbnails, further
frames and trailing bytes of the source have no way into it: those are where un-anonymized copies hide.
"""

from __future__ import annotations

import secrets
import stat
import threading
from dataclasses import dataclass, field, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..messages import brief_error, brief_path, brief_repr, not_a_path
from .decode import clean_icc, jpeg_quality, upright_pixels, upright_sides, visual_frames
from .encode import DEEP_KINDS, encode, encode_deep
from .high_depth import RefusedPictureError
from .places import unfit_place

PIXEL_LIMIT = 300_000_000  # beyond any camera's sensor; 900 MB as 8-bit RGB
# fmt: off
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF",
           ".tiff": "TIFF", ".avif": "AVIF", ".bmp": "BMP", ".gif": "GIF", ".heic": "HEIF", ".heif": "HEIF"}
# fmt: on
_READ = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OPENING = threading.Lock()


class PictureError(ValueError):
    """A picture could not be read or written; the message says what was wanted, what came and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright picture, EXIF orientation applied.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, or uint16 beside `deep`; None when opaque.
        deep: (H, W, 3) uint16 RGB, a 16-bit source at full depth, and `image` is it rounded; None for 8 bit.
        icc: colour profile of the source, None for sRGB or unknown.
        format: what the source was, a value of `FORMATS`.
        grey: the source had one colour channel.
        lossless: the source stored its pixels exactly.
        jpeg: `qtables` and `subsampling` of a JPEG source, as Pillow's writer takes them; else empty.
    """

    image: np.ndarray
    alpha: np.ndarray | None = None
    deep: np.ndarray | None = None
    icc: bytes | None = None
    format: str = "PNG"
    grey: bool = False
    lossless: bool = True
    jpeg: dict[str, Any] = field(default_factory=dict)
    __repr__ = brief_repr


def load_picture(source: str | PathLike | Image.Image | np.ndarray, max_pixels: int = PIXEL_LIMIT) -> Picture:
    """Reads a file, a PIL image, or an array (H, W), (H, W, 3), (H, W, 4) of uint8 or uint16 in RGB order.

    Raises:
        PictureError: for what cannot be read whole, and for several frames or pages: with one repainted, the others
            would still show the face. Of a multi-picture JPEG (MPO) the first is read; the rest are its previews.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = "the PIL image" if isinstance(source, Image.Image) else brief_path(source)
    if not isinstance(source, Image.Image) and not_a_path(source):
        raise PictureError(f"wanted the path of a picture, got {name}; open bytes by PIL.Image.open(BytesIO(...))")
    try:
        if isinstance(source, Image.Image):
            return _from_pil(source, b"", name, max_pixels)
        data = _read(Path(source))
        if _is_heif(data):
            return _from_heif(data, name, max_pixels)
        with _open(BytesIO(data)) as image:
            return _from_pil(image, data, name, max_pixels)
    except PictureError:
        raise
    except RefusedPictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise PictureError(
            f"{name}: wanted a JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF or HEIC picture, got none of these, whatever its "
            "suffix says; leave it out or convert it"
        ) from None
    except Exception as error:  # decoders raise every kind of error on damaged bytes
        raise PictureError(
            f"{name}: wanted a whole picture, got a damaged one ({brief_error(error)}); copy it again"
        ) from error


def picture_size(path: str | PathLike) -> tuple[int, int] | None:
    """Width and height that `load_picture` will give, EXIF orientation applied, mostly from the file's header alone.

    Returns:
        None for what cannot be read; `load_picture` says why.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(64)
            file.seek(0)
            if _is_heif(head):
                import pillow_heif

                return pillow_heif.open_heif(file).size
            with _open(file) as image:
                return upright_sides(image)
    except Exception:  # as load_picture
        return None


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]


def save_picture(picture: Picture, image: np.ndarray, path: str | PathLike, deep: np.ndarray | None = None) -> None:
    """Writes new pixels in the source's manner: alpha, depth, profile, grey, JPEG quality; the suffix says the format.

    The file appears whole or not at all. PNG, TIFF, BMP, and WebP from a lossless source hold the exact pixels.

    Args:
        picture: what was loaded; gives everything but the pixels.
        image: (H, W, 3) uint8 RGB.
        path: where to; an existing file is replaced.
        deep: (H, W, 3) uint16 RGB; written instead of `image` where the format holds 16 bit (PNG, TIFF).

    Raises:
        PictureError: unknown suffix, no such folder, not writable, disk full, too large for the format.
    """
    if wrong := not_a_path(path):
        raise PictureError(f"wanted a path, got {wrong}; nothing was written: give a shorter name")
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path}: wanted a suffix out of {' '.join(FORMATS)}, got {path.suffix!r}; name one")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    for name, other in (("alpha", picture.alpha), ("deep", deep)):
        if other is not None and other.shape[:2] != image.shape[:2]:
            raise ValueError(f"{name} must have the image's size {image.shape[:2]}, got {other.shape[:2]}")
    if wrong := unfit_place(path):
        raise PictureError(
            f"{brief_path(path)}: wanted a new or an ordinary file, got {wrong}; nothing was written: give another"
        )
    if not path.parent.is_dir():
        raise PictureError(f"{path}: wanted an existing folder, got none at {path.parent}; make it first")
    try:
        data = _encode(picture, image, deep, kind)
    except Exception as error:  # as with decoders
        raise PictureError(
            f"{path}: {kind} cannot hold this picture ({brief_error(error)}); choose .png or .tif"
        ) from error
    _write_whole(path, data)


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
        part.replace(path)
    except OSError as error:
        raise PictureError(
            f"{path}: wanted to write {len(data):,} bytes, got {error.strerror or error}; nothing was written: "
            "free space, check permissions or choose another place"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise PictureError(f"{path}: wanted a picture file, got a folder; name a file in it")
        if not stat.S_ISREG(mode):
            raise PictureError(f"{path}: wanted a picture file, got a device or a pipe; name a file")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError(f"{path}: wanted a picture file, found none; check the path") from None
    except OSError as error:
        raise PictureError(f"{path}: wanted to read it, got {error.strerror}; check its permissions") from error
    if not data:
        raise PictureError(f"{path}: wanted a picture, got an empty file (0 bytes); copy it again")
    return data


def _open(file: BinaryIO) -> Image.Image:
    # Pillow's own bomb limit is process-wide and acts before the size can be asked for; ours comes right after.
    Image.init()
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[kind for kind in _READ if kind in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_still(size: tuple[int, int], frames: int, name: str, max_pixels: int) -> None:
    if frames > 1:
        raise PictureError(
            f"{name}: wanted one still picture, got {frames} frames or pages, and all but the first would keep their "
            "faces; split it, or make it a video"
        )
    if size[0] * size[1] > max_pixels:
        raise PictureError(
            f"{name}: wanted at most {max_pixels:,} pixels, got {size[0]} x {size[1]}; if you trust it, raise the "
            "limit: --max-pixels N, or max_pixels=N"
        )


def _from_heif(data: bytes, name: str, max_pixels: int) -> Picture:
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(f"{name}: wanted a HEIC reader, got none; pip install 'deid-diffusion[heic]'") from None
    heif = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=True)
    _check_still(heif.size, len(heif), name, max_pixels)
    # libheif turns the pixels itself; to_pillow() resets the EXIF orientation to match.
    return replace(_from_pil(heif.to_pillow(), b"", name, max_pixels), format="HEIF", lossless=False)


def _from_array(array: np.ndarray) -> Picture:
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise PictureError(
            "wanted an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16 in RGB order, got "
            f"{array.shape} {array.dtype}; convert it, e.g. (x * 255).round().astype(np.uint8)"
        )
    if not array.size:
        raise PictureError(f"wanted at least one pixel, got an array of shape {array.shape}")
    # Writable, because torch complains of arrays that are not, and Pillow's are not.
    rgb = np.require(np.dstack([array] * 3) if array.ndim == 2 else array[..., :3], requirements=["C", "W"])
    alpha = array[..., 3].copy() if array.shape[2:] == (4,) else None
    deep = rgb if array.dtype == np.uint16 else None
    return Picture(rgb if deep is None else _eight_bit(deep), alpha, deep, grey=array.ndim == 2)


def _from_pil(image: Image.Image, data: bytes, name: str, max_pixels: int) -> Picture:
    """A PIL image to a Picture; `data` is the file it came from, or empty."""
    kind = "JPEG" if image.format == "MPO" else image.format or "PNG"
    _check_still(image.size, 1 if image.format == "MPO" else visual_frames(image), name, max_pixels)
    return replace(
        _from_array(upright_pixels(image, data)),
        icc=clean_icc(image.info.get("icc_profile")),
        format=kind if kind in FORMATS.values() else "PNG",
        grey=image.mode in ("1", "L", "LA", "La") or image.mode[0] == "I",
        lossless=kind not in ("JPEG", "AVIF") and (kind != "WEBP" or b"VP8L" in data[:4096]),
        jpeg=jpeg_quality(image),
    )


def merge_deep(deep: np.ndarray, edited: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint16 with the changed pixels taken from the 8-bit edited picture, and the others at full depth."""
    return np.where(changed[..., None], edited.astype(np.uint16) * 257, deep)


def _eight_bit(deep: np.ndarray) -> np.ndarray:
    # 257 = 65535 / 255: the nearest level, so that 8-bit data widened to 16 comes back as it was.
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _encode(picture: Picture, image: np.ndarray, deep: np.ndarray | None, kind: str) -> bytes:
    grey = picture.grey and bool((image == image[..., :1]).all())
    alpha = picture.alpha
    if deep is not None and kind in DEEP_KINDS:
        if alpha is not None and alpha.dtype == np.uint8:
            alpha = alpha.astype(np.uint16) * 257
        return encode_deep(kind, deep[..., 0] if grey else deep, alpha, picture.icc)
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = _eight_bit(alpha)
    pixels = np.ascontiguousarray(image[..., 0]) if grey else image
    return encode(kind, pixels, alpha, picture.icc, picture.lossless, picture.jpeg)
