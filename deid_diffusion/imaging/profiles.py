"""Makes the ICC profile that says what a file says of its colours in another way.

With it the pixels stay as they are: a picture off its faces is the same to the bit, and looks the same in viewers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .mend import PNG, png_chunks

D65 = (0.3127, 0.3290)
# By CICP's numbers (ITU-T H.273): x y of red, green, blue. All have the white D65.
PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),  # sRGB, BT.709
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # CICP's transfer characteristics; most others are shown as sRGB
HDR = {16: "PQ", 18: "HLG"}
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# Y = (a X + b)^g from d on, else c X; of IEC 61966-2-1.
_SRGB_CURVE = (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))


def told_profile(image: Image.Image, data: bytes) -> tuple[bytes | None, str]:
    """What a file says of its colours, other than by a profile.

    Args:
        image: as opened by Pillow.
        data: the bytes of its file; empty for an image made in memory.

    Returns:
        the profile that says the same and a notice, both empty for sRGB and where nothing is said; with PQ and HLG,
        which no such profile can say, a notice alone.
    """
    grey = image.mode in ("1", "L", "LA", "La") or image.mode[0] == "I"
    if data.startswith(PNG):
        return _told_by_png(data, grey)
    if data[4:8] == b"ftyp":
        at = data.find(b"colrnclx")
        if at <= 0:
            return None, ""
        primaries, transfer = struct.unpack_from(">2H", data, at + 8)
        return _from_cicp(primaries, transfer, grey)
    if image.mode == "RGB" and "icc_profile" not in image.info and _is_adobe_rgb(image):
        return rgb_profile(D65, *ADOBE_RGB), "Adobe RGB by its EXIF alone; the profile is embedded"
    return None, ""


def _told_by_png(data: bytes, grey: bool) -> tuple[bytes | None, str]:
    chunks = {}
    for name, body in png_chunks(data):
        if name == b"IDAT":
            break
        chunks[name] = body
    # The order in which the standard says who is to be believed.
    if len(chunks.get(b"cICP", b"")) == 4:
        return _from_cicp(chunks[b"cICP"][0], chunks[b"cICP"][1], grey)
    if chunks.keys() & {b"iCCP", b"sRGB"} or len(chunks.get(b"gAMA", b"")) != 4:
        return None, ""
    gamma = int.from_bytes(chunks[b"gAMA"], "big") / 100_000
    corners = np.frombuffer(chunks.get(b"cHRM", b""), ">u4").reshape(-1, 2) / 100_000
    if len(corners) != 4 or not (corners > 0).all():
        corners = np.array([D65, *PRIMARIES[1]])
    usual_gamma, usual = abs(gamma - 0.4545) < 0.01, np.abs(corners - [D65, *PRIMARIES[1]]).max() < 0.005
    if not 0.1 < gamma < 10 or (usual_gamma and (usual or grey)):
        return None, ""
    said = "colours by gAMA and cHRM; the equal profile is embedded"
    exponent = None if usual_gamma else 1 / gamma
    return grey_profile(exponent) if grey else rgb_profile(corners[0], corners[1:], exponent), said


def _from_cicp(primaries: int, transfer: int, grey: bool) -> tuple[bytes | None, str]:
    if transfer in HDR:
        return None, f"high dynamic range ({HDR[transfer]}) is not kept; the result looks paler"
    exponent = GAMMAS.get(transfer)
    if exponent is None and (grey or primaries not in PRIMARIES or primaries == 1):
        return None, ""
    said = f"colours by CICP {primaries}/{transfer}; the equal profile is embedded"
    return grey_profile(exponent) if grey else rgb_profile(D65, PRIMARIES.get(primaries, PRIMARIES[1]), exponent), said


def _is_adobe_rgb(image: Image.Image) -> bool:
    try:
        return image.getexif().get_ifd(0xA005).get(1, "").strip("\0 ") == "R03"
    except Exception:  # garbled EXIF raises anything
        return False


def rgb_profile(
    white: Sequence[float], primaries: Sequence[Sequence[float]] | np.ndarray, exponent: float | None
) -> bytes:
    """A matrix profile, ICC 4.

    Args:
        white: x y.
        primaries: (3, 2) x y of red, green and blue.
        exponent: of the curve; None for sRGB's.
    """
    columns = np.array([_xyz(x, y) for x, y in primaries]).T
    columns = columns * np.linalg.solve(columns, _xyz(*white))
    to_d50 = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _xyz(*white))) @ _BRADFORD
    tags = {f"{name}XYZ": _xyz_tag(column) for name, column in zip("rgb", (to_d50 @ columns).T, strict=True)}
    tags |= {f"{name}TRC": _curve_tag(exponent) for name in "rgb"}
    tags["chad"] = b"sf32" + bytes(4) + _fixed(to_d50.ravel())
    return _profile("RGB ", tags)


def grey_profile(exponent: float | None) -> bytes:
    """As `rgb_profile`, of one channel."""
    return _profile("GRAY", {"kTRC": _curve_tag(exponent)})


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(values: Sequence[float] | np.ndarray) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz_tag(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve_tag(exponent: float | None) -> bytes:
    kind, numbers = _SRGB_CURVE if exponent is None else (0, (exponent,))
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(numbers)


def _text_tag(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words


def _profile(space: str, tags: dict[str, bytes]) -> bytes:
    tags = {"desc": _text_tag("as the source says"), "cprt": _text_tag("CC0"), "wtpt": _xyz_tag(_D50), **tags}
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x04300000, b"mntr", space.encode(), b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(_D50) + bytes(48)
    return head + table + body
