"""Makes of a file what decoders take: a PNG without the texts they choke on, a JPEG with the end it lost."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
PROFILE_LIMIT = 16 << 20  # bytes: larger than any profile
_END = b"\xff\xd9"
_TAILS = (b"", bytes(64), b"\x55" * 64, b"\xaa" * 64)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each whole chunk, up to IEND or to where it is garbled; checksums are left to the decoder."""
    at = len(PNG)
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield name, data[at + 8 : at + 8 + size]
        if name == b"IEND":
            return
        at += 12 + size


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk as it stands in a file: length, name, body, checksum.

    Args:
        name: its four letters.
        body: what it holds.
    """
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def plain_png(data: bytes) -> bytes:
    """Without its texts, and with its profile cut to the length that it declares: decoders limit both."""
    parts, at = [PNG], len(PNG)
    for name, body in png_chunks(data):
        stored = data[at : at + 12 + len(body)]
        at += len(stored)
        if name == b"iCCP":
            stored = _cut_profile(body, stored)
        if name not in (b"tEXt", b"zTXt", b"iTXt"):
            parts.append(stored)
    return b"".join([*parts, data[at:]])


def _cut_profile(body: bytes, stored: bytes) -> bytes:
    """The chunk with nothing behind the profile; empty where the profile is broken."""
    label, _, packed = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], PROFILE_LIMIT)
    except zlib.error:
        return b""
    whole = cut_profile(profile)
    if whole == profile:
        return stored
    return png_chunk(b"iCCP", label + b"\0\0" + zlib.compress(whole)) if whole else b""


def cut_profile(profile: bytes) -> bytes:
    """A colour profile as long as it declares to be; empty for what is none, or a part of one."""
    size = int.from_bytes(profile[:4], "big")
    return profile[:size] if profile[36:40] == b"acsp" and len(profile) >= size else b""


def completed_jpeg(data: bytes) -> bytes | None:
    """A JPEG that lost its end marker, with it; None where pixels are missing, too.

    Where all pixels are there, decoders ignore whatever follows; where not, they make pixels of it.
    """
    data = data.removesuffix(b"\xff")
    first: np.ndarray | None = None
    for tail in _TAILS:
        try:
            with Image.open(BytesIO(data + tail + _END), formats=["JPEG"]) as image:
                pixels = np.asarray(image)
        except Exception:  # as with decoders
            return None
        if first is not None and not np.array_equal(first, pixels):
            return None
        first = pixels
    return data + _END
