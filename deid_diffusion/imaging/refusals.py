"""Says what a file is that is not read, so that a good one is not called damaged."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO

import tifffile

# By their first bytes; "...." stands for any four.
_MAGIC = (
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"), (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"), (b"\0\0\0\x0cJXL ", "a JPEG XL picture"), (b"II\xbc", "a JPEG XR picture"),
    (b"%PDF", "a PDF document"), (b"8BPS", "a Photoshop document"), (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"), (b"gimp xcf", "a GIMP document"), (b"DDS ", "a DDS texture"),
    (b"\0\0\1\0", "an icon"), (b"PK\3\4", "a ZIP archive"), (b"....ftypcrx ", "a camera's raw file"),
    (b"FUJIFILM", "a camera's raw file"), (b"IIRO", "a camera's raw file"), (b"IIRS", "a camera's raw file"),
    (b"IIU\0", "a camera's raw file"), (b"....ftyp", "a video"), (b"\x1a\x45\xdf\xa3", "a video"),
    (b"RIFF....AVI ", "a video"), (b"P1", "a PNM picture"), (b"P2", "a PNM picture"), (b"P3", "a PNM picture"),
    (b"P4", "a PNM picture"), (b"P5", "a PNM picture"), (b"P6", "a PNM picture"), (b"P7", "a PAM picture"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file"),
)  # fmt: skip
_JPEG_KINDS = {0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical"}
_JPEG_KINDS |= {0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded", 0xCB: "lossless", 0xCD: "hierarchical"}
_JPEG_KINDS |= {0xCE: "hierarchical", 0xCF: "hierarchical"}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def what_it_is(data: bytes) -> str:
    """`a JPEG 2000 picture`, `a TIFF of 3 channels of 32-bit float`; empty where nobody can tell.

    To be asked when no decoder took the file.
    """
    if data[:4] in _TIFF_MAGIC:
        return tiff_kind(data)
    for magic, name in _MAGIC:
        if all(want in (ord("."), got) for want, got in zip(magic, data, strict=False)) and len(data) >= len(magic):
            return name
    start = data[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "an SVG drawing" if b"<svg" in start else unusual_kind(data)


def unusual_kind(data: bytes) -> str:
    """Of a file that a decoder took and failed at: what is unusual in it; empty when it must be damaged."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_kind(data)
    if data[:2] == b"BM":
        return _bmp_kind(data)
    return ""


def tiff_kind(data: bytes) -> str:
    """What the first page holds, in words; empty where the file is cut or garbled."""
    try:
        with contextlib.closing(tifffile.TiffFile(BytesIO(data))) as file:
            page = file.pages[0].aspage()
            ends = [at + size for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if not ends or max(ends) > len(data) or page.imagewidth < 1 or page.imagelength < 1:
                return ""
            bits, channels = _name(page.bitspersample), _name(page.samplesperpixel)
            kind = {2: "signed integer", 3: "float", 5: "complex", 6: "complex"}.get(page.sampleformat, "integer")
            photometric, compression = _name(page.photometric), _name(page.compression)
    except Exception:  # as with decoders
        return ""
    plural = "s" * (channels != "1")
    return f"a TIFF of {channels} channel{plural} of {bits}-bit {kind} ({photometric}, compression {compression})"


def _name(value: object) -> str:
    """Of a tag: a garbled one may hold pixels, which no message shows."""
    return getattr(value, "name", None) or (str(int(value)) if isinstance(value, int) else "unknown")


def _jpeg_kind(data: bytes) -> str:
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if data[at + 4] != 8:
                return f"a JPEG of {data[at + 4]} bit"
            return f"a JPEG that is {_JPEG_KINDS[marker]}" if marker in _JPEG_KINDS else ""
        at += 1 if marker == 0xFF else 2 + size
    return ""


def _bmp_kind(data: bytes) -> str:
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40:
        return ""
    bits, compression = struct.unpack_from("<HI", data, 28)
    if compression == 3 and len(data) >= 66:
        masks = " ".join(f"{mask:x}" for mask in struct.unpack_from("<3I", data, 54))
        return f"a BMP of {bits} bit with the masks {masks}"
    return f"a BMP of {bits} bit, compression {compression}" if compression > 3 else ""
