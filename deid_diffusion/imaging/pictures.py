"""Carries a picture between a file and arrays: pixels, alpha, depth and colour profile, and nothing else.

A saved file is built from pixels alone; only one in which nothing was changed keeps its coded pixels. EXIF, GPS,
XMP, MakerNote, IPTC, comments, text chunks, thumbnails, further frames and trailing bytes of the source have no way
into it: those are where un-anonymized copies hide.
"""

from __future__ import annotations

import secrets
import stat
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DeidError
from ..messages import brief_error, brief_path, brief_repr, not_a_path
from .decode import clean_icc, jpeg_quality, orientation, seek_picture, upright_pixels, upright_sides
from .encode import encode_picture
from .high_depth import RefusedPictureError, eight_bit
from .mend import PNG, completed_jpeg, plain_png
from .metadata import Metadata, read_metadata
from .places import unfit_place
from .profiles import told_profile
from .refusals import unusual_kind, what_it_is
from .strip import STRIPPED

PIXEL_LIMIT = 300_000_000  # beyond any camera's sensor; 900 MB as 8-bit RGB
# fmt: off
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF",
           ".tiff": "TIFF", ".avif": "AVIF", ".bmp": "BMP", ".gif": "GIF", ".heic": "HEIF", ".heif": "HEIF"}
# fmt: on
_READ = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF")
_READERS = ("Jpeg", "Mpo", "Png", "WebP", "Tiff", "Avif", "Bmp", "Gif")  # their modules: Pillow has fifty
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OPENING = threading.Lock()


class PictureError(DeidError, ValueError):
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
        panorama: it shows 360 degrees from border to border, by its XMP.
        metadata: what of the source's can be kept on purpose.
        notices: sentences on what of the source was not taken over as it was.
        encoded: the source's file, of upright pixels, for when nothing is changed; empty where it is encoded anew.
    """

    image: np.ndarray
    alpha: np.ndarray | None = None
    deep: np.ndarray | None = None
    icc: bytes | None = None
    format: str = "PNG"
    grey: bool = False
    lossless: bool = True
    jpeg: dict[str, Any] = field(default_factory=dict)
    panorama: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    notices: tuple[str, ...] = ()
    encoded: bytes = b""
    __repr__ = brief_repr


def load_picture(source: str | PathLike | Image.Image | np.ndarray, max_pixels: int = PIXEL_LIMIT) -> Picture:
    """Reads a file, a PIL image, or an array (H, W), (H, W, 3), (H, W, 4) of uint8 or uint16 in RGB order.

    Args:
        source: what to read.
        max_pixels: more than that are refused.

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
        panorama = b"GPano:" in data and b"equirectangular" in data
        if _is_heif(data):
            picture = _from_heif(data, name, max_pixels)
        else:
            picture = _from_data(plain_png(data) if data.startswith(PNG) else data, name, max_pixels)
        height, width = picture.image.shape[:2]
        return replace(picture, panorama=panorama and width == 2 * height)
    except PictureError:
        raise
    except RefusedPictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        got = what_it_is(data) or "none of these"
        raise PictureError(
            f"{name}: wanted a JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF or HEIC picture of 8 or 16 bit, got {got}, "
            "whatever its suffix says; leave it out or convert it"
        ) from None
    except Exception as error:  # decoders raise every kind of error on damaged bytes
        if got := unusual_kind(b"" if isinstance(source, Image.Image) else data):
            raise PictureError(f"{name}: wanted an ordinary picture, got {got}; convert it to a PNG") from error
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
                if image.format == "TIFF":
                    seek_picture(image)
                return upright_sides(image)
    except Exception:  # as load_picture
        return None


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]


def save_picture(
    picture: Picture,
    image: np.ndarray,
    path: str | PathLike,
    deep: np.ndarray | None = None,
    unchanged: bool = False,
    keep_metadata: Collection[str] = (),
) -> None:
    """Writes new pixels in the source's manner: alpha, depth, profile, grey, JPEG quality; the suffix says the format.

    The file appears whole or not at all. PNG, TIFF, BMP, and WebP from a lossless source hold the exact pixels.

    Args:
        picture: what was loaded; gives everything but the pixels.
        image: (H, W, 3) uint8 RGB.
        path: where to; an existing file is replaced.
        deep: (H, W, 3) uint16 RGB; written instead of `image` where the format holds 16 bit (PNG, TIFF).
        unchanged: nothing of the picture was changed; its coded pixels are kept where the format stays the same.
        keep_metadata: any of `types.KEEPABLE`; density by JPEG, PNG and TIFF, the others by WebP and AVIF, too.

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
        data = encode_picture(picture, image, deep, kind, unchanged, picture.metadata.only(keep_metadata))
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
    for name in _READERS:
        with suppress(ImportError):  # a Pillow without it
            import_module(f"PIL.{name}ImagePlugin")
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


def _from_data(data: bytes, name: str, max_pixels: int) -> Picture:
    try:
        with _open(BytesIO(data)) as image:
            return _from_pil(image, data, name, max_pixels)
    except OSError:
        whole = completed_jpeg(data) if data[:2] == b"\xff\xd8" else None
        if whole is None:
            raise
    with _open(BytesIO(whole)) as image:
        return _from_pil(image, whole, name, max_pixels)


def _from_heif(data: bytes, name: str, max_pixels: int) -> Picture:
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(f"{name}: wanted a HEIC reader, got none; pip install 'deid-diffusion[heic]'") from None
    heif = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=True)
    _check_still(heif.size, len(heif), name, max_pixels)
    image = heif.to_pillow()
    told, notice = told_profile(image, data)
    # libheif turns the pixels itself; to_pillow() resets the EXIF orientation to match.
    picture = replace(_from_pil(image, b"", name, max_pixels), format="HEIF", lossless=False)
    return replace(picture, icc=picture.icc or told, notices=(notice,) if notice else ())


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
    return Picture(rgb if deep is None else eight_bit(deep), alpha, deep, grey=array.ndim == 2)


def _from_pil(image: Image.Image, data: bytes, name: str, max_pixels: int) -> Picture:
    """A PIL image to a Picture; `data` is the file it came from, or empty."""
    kind = "JPEG" if image.format == "MPO" else image.format or "PNG"
    frames = 1 if image.format == "MPO" else seek_picture(image)
    if not frames:
        raise PictureError(
            f"{name}: wanted a picture, got previews of one only, as in a camera's raw file; develop it"
        )
    _check_still(image.size, frames, name, max_pixels)
    told, notice = told_profile(image, data)
    notices = (notice, "CMYK, which becomes RGB where the picture is encoded anew" if image.mode == "CMYK" else "")
    metadata = read_metadata(image)  # load() forgets a TIFF's
    pixels = upright_pixels(image, data)
    return replace(
        _from_array(pixels),
        icc=told or clean_icc(image.info.get("icc_profile")),
        format=kind if kind in FORMATS.values() else "PNG",
        grey=image.mode in ("1", "L", "LA", "La") or image.mode[0] == "I",
        lossless=kind not in ("JPEG", "AVIF") and (kind != "WEBP" or b"VP8L" in data[:4096]),
        jpeg=jpeg_quality(image),
        metadata=metadata,
        notices=tuple(filter(None, notices)),
        # Of a JPEG that tells its colours by EXIF nothing else would.
        encoded=data if kind in STRIPPED and orientation(image) == 1 and not (told and kind == "JPEG") else b"",
    )


def merge_deep(deep: np.ndarray, edited: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint16 with the changed pixels taken from the 8-bit edited picture, and the others at full depth.

    Args:
        deep: (H, W, 3) uint16, the source.
        edited: (H, W, 3) uint8.
        changed: (H, W) bool.
    """
    return np.where(changed[..., None], edited.astype(np.uint16) * 257, deep)
