"""Reads out of an opened picture what is worth carrying on: upright pixels at full depth, profile, JPEG quality."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageCms, JpegImagePlugin

from .high_depth import RefusedPictureError, check_tiff, deep_png, deep_tiff, upright
from .refusals import tiff_kind

_FAX = (2, 3, 4)  # values of the tag Compression: CCITT RLE, group 3, group 4
_NUMBERS = {"F": "32-bit float", "I": "32-bit integers"}


def upright_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16 in RGB order, EXIF orientation applied.

    Args:
        image: as opened by Pillow.
        data: the bytes of the file it was opened from; empty for an image made in memory.

    Raises:
        RefusedPictureError: of a depth or layout that is not read, or that two decoders read differently.
    """
    _check_fax(image)
    image.load()
    if image.format == "TIFF" and data and not _is_deep(image, data):
        check_tiff(image, data)
    if _is_deep(image, data):
        array = _deep_pixels(image, data)
    elif image.mode[0] in "IF":
        got = tiff_kind(data) or _NUMBERS.get(image.mode, f"mode {image.mode}")
        raise RefusedPictureError(f"wanted integers of 8 or 16 bit, got {got}; convert it to a 16-bit PNG")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        array = np.asarray(image.convert("RGBA"))
    else:
        array = np.asarray(_srgb_from_cmyk(image) if image.mode == "CMYK" else image.convert("RGB"))
    # TIFF has been turned by load(); the others have not.
    return upright(array, 1 if image.format == "TIFF" else orientation(image))


def _check_fax(image: Image.Image) -> None:
    """Refuses fax compression where Pillow leaves the lines of it that it cannot read as they were in memory."""
    if image.format == "TIFF" and image.tag_v2.get(259) in _FAX and int(PIL.__version__.split(".")[0]) < 13:
        raise RefusedPictureError(
            "wanted a TIFF whose damaged lines do not show what was in memory, got fax compression, read by Pillow "
            f"{PIL.__version__}; convert it to PNG, or install pillow>=13 (the extra web asks for an older one)"
        )


def upright_sides(image: Image.Image) -> tuple[int, int]:
    """Width and height of what `upright_pixels` gives, of an image opened by Pillow and not loaded."""
    # Pillow's size of an open TIFF is that of the stored pixels or of the turned ones, by its version.
    width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def orientation(image: Image.Image) -> int:
    """What EXIF says of how the pixels lie, 1 to 8. Viewers turn nothing by XMP; Pillow would."""
    try:
        exif = image.getexif()
        if image.format != "TIFF" and image.info.keys() & {"xmp", "XML:com.adobe.xmp"}:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        return exif.get(0x0112, 1)
    except Exception:  # garbled EXIF raises anything; the picture is whole all the same
        return 1


def seek_picture(image: Image.Image) -> int:
    """Goes to the first frame or page that is no preview of another; how many such there are."""
    frames = getattr(image, "n_frames", 1)
    if image.format != "TIFF":
        return frames
    pages = []
    for number in range(frames):
        image.seek(number)
        if not image.tag_v2.get(254, 0) & 1:  # NewSubfileType bit 0: a smaller copy of another page
            pages.append(number)
    image.seek(pages[0] if pages else 0)
    image.info.pop("xmp", None)  # see `orientation`; load() would turn a TIFF by it
    return len(pages)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether the source has 16 bit a channel; Pillow shows only 8 of them in colour."""
    if not data:
        return image.mode.startswith("I;16") or (image.mode == "I" and image.getextrema()[1] < 65536)
    if image.format == "PNG":
        return data[24] == 16  # the IHDR's bit depth
    if image.format == "TIFF":
        tags = image.tag_v2
        return set(tags.get(258, ())) == {16} and tags.get(262) in (0, 1, 2) and set(tags.get(339, (1,))) == {1}
    return False


def _deep_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    if not data:
        return np.asarray(image).astype(np.uint16)
    return deep_tiff(image, data) if image.format == "TIFF" else deep_png(image, data)


def _srgb_from_cmyk(image: Image.Image) -> Image.Image:
    icc = image.info.get("icc_profile")
    if icc:
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(icc))
            return ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            pass  # a broken profile: Pillow's plain inversion of the inks is what viewers show then
    return image.convert("RGB")


def clean_icc(icc: bytes | None) -> bytes | None:
    """A profile of RGB or grey, cut to the length it declares; None for any other."""
    if not icc or icc[36:40] != b"acsp" or icc[16:20] not in (b"RGB ", b"GRAY"):
        return None
    return icc[: int.from_bytes(icc[:4], "big")]


def jpeg_quality(image: Image.Image) -> dict[str, Any]:
    """`qtables` and `subsampling` of a JPEG, as Pillow's writer takes them; empty for what is none."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return {}
    return {
        "qtables": [tables[key] for key in sorted(tables)][:2],
        "subsampling": max(JpegImagePlugin.get_sampling(image), 0),  # -1: unusual, so keep all the colour
    }
