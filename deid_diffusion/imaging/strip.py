"""Takes everything but the picture out of a JPEG, PNG or WebP, without decoding and encoding it anew.

What is kept is named, so that a kind of metadata nobody thought of goes, too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .mend import PNG, cut_profile, png_chunk, png_chunks

STRIPPED = ("JPEG", "PNG", "WEBP")
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"sBIT")
_ICC = b"ICC_PROFILE\0"
# Start of frame, tables, restart interval, number of lines, start of scan.
_JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD}
_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type


def stripped(data: bytes, kind: str) -> bytes | None:
    """The same picture with its colour profile and nothing else.

    Args:
        data: a whole file of upright pixels.
        kind: one of `STRIPPED`.

    Returns:
        None where that cannot be told with certainty; it is to be encoded anew then.
    """
    try:
        return {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[kind](data)
    except (ValueError, LookupError, struct.error, zlib.error):
        return None


def _jpeg(data: bytes) -> bytes:
    head, body, profile = [b"\xff\xd8"], [], {}
    for marker, content, scan in _segments(data):
        if marker == 0xE0 and content[:5] == b"JFIF\0":
            # Version, a density that says nothing, and no thumbnail.
            head = [b"\xff\xd8", _segment(0xE0, content[:7] + b"\0\0\1\0\1\0\0")]
        elif marker == 0xE2 and content[: len(_ICC)] == _ICC:
            profile[content[len(_ICC)]] = content[len(_ICC) + 2 :]
        elif marker == 0xEE and content[:5] == b"Adobe":
            body.append(_segment(marker, content[:12]))
        elif marker in _JPEG_KEPT:
            body.append(_segment(marker, content) + scan)
    icc = cut_profile(b"".join(profile[number] for number in sorted(profile)))
    pieces = [icc[at : at + 65_000] for at in range(0, len(icc), 65_000)]
    head += [_segment(0xE2, _ICC + bytes([n, len(pieces)]) + piece) for n, piece in enumerate(pieces, 1)]
    return b"".join([*head, *body, b"\xff\xd9"])


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, content and, after a start of scan, its coded pixels; ValueError where there is anything else."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return
        if marker == 0xFF:
            at += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker <= 0xD8:
            break
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + size]
        if size < 2 or len(content) != size - 2:
            break
        at = start = at + 2 + size
        if marker == 0xDA:
            while data[at] != 0xFF or data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
                at = data.index(b"\xff", at + 1)
        yield marker, content, data[start:at]
    raise ValueError("no JPEG up to its end")


def _segment(marker: int, content: bytes) -> bytes:
    if len(content) > 65_533:
        raise ValueError("too long for a JPEG segment")
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _png(data: bytes) -> bytes:
    chunks = list(png_chunks(data))
    if chunks[-1][0] != b"IEND" or chunks[0][0] != b"IHDR":
        raise ValueError("no PNG up to its end")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    packed = b"".join(body for name, body in chunks if name == b"IDAT")
    # A picture cropped in place may have its old pixels behind the new ones.
    size = height * (1 + (width * bits * _CHANNELS[colour] + 7) // 8)
    reader = zlib.decompressobj()
    if interlaced or len(reader.decompress(packed, size + 1)) != size or reader.unconsumed_tail:
        raise ValueError("more or fewer pixels than the header says")
    if not reader.eof or reader.unused_data:
        raise ValueError("something stands behind the pixels")
    return b"".join([PNG, *(png_chunk(name, body) for name, body in chunks if name in _PNG_KEPT)])


def _webp(data: bytes) -> bytes:
    out, at, end = [], 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError("cut")
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) != size:
            raise ValueError("cut")
        if name == b"VP8X":
            body = bytes([body[0] & ~0b1100]) + body[1:]  # no EXIF, no XMP
        if name == b"ICCP" and cut_profile(body) != body:
            raise ValueError("something else than a profile")
        if name in _WEBP_KEPT:
            out.append(struct.pack("<4sI", name, size) + body + bytes(size % 2))
        at += 8 + size + size % 2
    content = b"WEBP" + b"".join(out)
    return b"RIFF" + struct.pack("<I", len(content)) + content
