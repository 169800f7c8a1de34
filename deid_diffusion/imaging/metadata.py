"""The little of a file's metadata that can be kept on purpose: copyright, date, density.

It is read as values and written anew: no thumbnail, place or camera comes along with it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .mend import PNG, png_chunk

_COPYRIGHT, _ARTIST, _EXIF_IFD, _DATE = 0x8298, 0x013B, 0x8769, 0x9003
_LONGEST = 500  # characters
_PER_METRE = 0.0254


@dataclass(frozen=True)
class Metadata:
    """What may be kept; empty where the file says nothing.

    Attributes:
        copyright, artist: as EXIF has them.
        date: when the picture was taken, `YYYY:MM:DD HH:MM:SS`.
        dpi: pixels per inch, across and down.
    """

    copyright: str = ""
    artist: str = ""
    date: str = ""
    dpi: tuple[float, float] | None = None

    def only(self, names: Collection[str]) -> Metadata:
        """Of this what is asked for by `types.KEEPABLE`."""
        return Metadata(
            *((self.copyright, self.artist) if "copyright" in names else ("", "")),
            self.date if "date" in names else "",
            self.dpi if "dpi" in names else None,
        )

    def exif(self) -> bytes:
        """Of copyright, artist and date: "Exif", two zeros and a TIFF; empty when there are none."""
        exif = Image.Exif()
        for tag, value in ((_COPYRIGHT, self.copyright), (_ARTIST, self.artist)):
            if value:
                exif[tag] = value
        if self.date:
            exif.get_ifd(_EXIF_IFD)[_DATE] = self.date
        return exif.tobytes() if self.copyright or self.artist or self.date else b""


def read_metadata(image: Image.Image) -> Metadata:
    """Of an image opened by Pillow; what is garbled counts as not there."""
    try:
        exif = image.getexif()
        texts = [exif.get(_COPYRIGHT), exif.get(_ARTIST), exif.get_ifd(_EXIF_IFD).get(_DATE)]
    except Exception:  # garbled EXIF raises anything
        texts = [None] * 3
    copyright, artist, date = (_text(value) for value in texts)
    return Metadata(copyright, artist, date if re.fullmatch(r"[\d: ]{19}", date) else "", _dpi(image.info.get("dpi")))


def _text(value: object) -> str:
    text = value.replace("\0", " ").strip() if isinstance(value, str) else ""
    return text if text.isprintable() and len(text) <= _LONGEST else ""


def _dpi(value: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(side) for side in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    sound = all(math.isfinite(side) and 1 <= side < 65_536 for side in (across, down))
    return (across, down) if sound else None


def with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """The bytes of a JPEG or PNG with metadata.

    Args:
        data: of a whole file that holds none.
        metadata: what is put in.
    """
    exif = metadata.exif()
    if data.startswith(PNG):
        more = b""
        if metadata.dpi:
            more += png_chunk(b"pHYs", struct.pack(">2IB", *(round(side / _PER_METRE) for side in metadata.dpi), 1))
        if exif:
            more += png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
        return data[:33] + more + data[33:]
    head, rest = data[:2], data[2:]
    if rest[4:9] == b"JFIF\0":
        head, rest = data[:20], data[20:]
        if metadata.dpi:
            head = head[:13] + struct.pack(">B2H", 1, *(round(side) for side in metadata.dpi)) + head[18:]
    return head + (b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif if exif else b"") + rest
