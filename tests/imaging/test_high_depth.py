import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from deid_diffusion.imaging.high_depth import deep_tiff, tiff_page
from deid_diffusion.imaging.pictures import Picture, PictureError, load_picture, save_picture


def ramp(channels: int, dtype=np.uint16) -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (48, 70, channels) if channels > 1 else (48, 70)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def loaded(path) -> np.ndarray:
    """What was read, at full depth, as it would lie in the file."""
    picture = load_picture(path)
    pixels = picture.image if picture.deep is None else picture.deep
    pixels = pixels[..., 0] if picture.grey else pixels
    return pixels if picture.alpha is None else np.dstack([pixels, picture.alpha])


LAYOUTS = list(
    itertools.product(
        [1, 3, 4], [np.uint8, np.uint16], ["contig", "separate"], [None, "zlib", "lzma"], [None, (16, 32)], "<>"
    )
)


@pytest.mark.parametrize(("channels", "dtype", "planes", "compression", "tile", "order"), LAYOUTS)
def test_a_tiff_of_every_layout_is_read_to_the_bit(tmp_path, channels, dtype, planes, compression, tile, order):
    if channels == 1 and planes == "separate":
        planes = "contig"
    pixels = ramp(channels, dtype)
    how = {"photometric": "minisblack" if channels == 1 else "rgb", "compression": compression, "byteorder": order}
    how |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    how |= {"tile": tile} if tile else {"rowsperstrip": 7}
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if planes == "separate" else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, planarconfig=None if channels == 1 else planes, **how)
    assert np.array_equal(loaded(tmp_path / "a.tif"), pixels)


def test_white_may_be_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(1), photometric="miniswhite")
    assert np.array_equal(loaded(tmp_path / "a.tif"), 65535 - ramp(1))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_lzw_is_left_to_opencv_and_pillow_must_agree(tmp_path, bigtiff, monkeypatch):
    assert cv2.imwrite(str(tmp_path / "a.tif"), ramp(3)[..., ::-1])
    assert tiff_page((tmp_path / "a.tif").read_bytes()) is None  # needs a codec that is not there
    assert np.array_equal(loaded(tmp_path / "a.tif"), ramp(3))
    real = cv2.imdecode

    def scrambled(data, flags):
        pixels = real(data, flags)
        pixels[20:24, 30:40] = 7 * 257  # as memory that was never written
        return pixels

    monkeypatch.setattr(cv2, "imdecode", scrambled)
    with pytest.raises(PictureError, match="two decoders"):
        load_picture(tmp_path / "a.tif")
    assert cv2.imwrite(str(tmp_path / "a.png"), ramp(3))
    with pytest.raises(PictureError, match="two decoders"):
        load_picture(tmp_path / "a.png")


def lzw(data: bytes) -> bytes:
    """The simplest LZW: 9-bit codes, and a clear code before the table needs a tenth bit."""
    codes = [256]
    for n, byte in enumerate(data, 1):
        codes.append(byte)
        if n % 250 == 0:
            codes.append(256)
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def planes_by_lzw(pixels: np.ndarray) -> bytes:
    height, width, channels = pixels.shape
    strips = [lzw(pixels[..., c].astype("<u2").tobytes()) for c in range(channels)]
    extra = 8 + 2 + 10 * 12 + 4  # the values that do not fit into the directory
    at = [extra + 6 + 24 + sum(map(len, strips[:n])) for n in range(channels)]
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, extra), (259, 3, 1, 5), (262, 3, 1, 2)]
    entries += [(273, 4, 3, extra + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, extra + 18), (284, 3, 1, 2)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    values = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", *at) + struct.pack("<3I", *map(len, strips))
    return head + bytes(4) + values + b"".join(strips)


def test_planes_that_only_opencv_would_read_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(planes_by_lzw(ramp(3)))
    with Image.open(tmp_path / "a.tif") as image:  # it is a sound file
        assert np.array_equal(np.asarray(image), ramp(3) >> 8)
    with pytest.raises(PictureError, match="planes one after another, compression 5.*save it as PNG"):
        load_picture(tmp_path / "a.tif")


def test_memory_of_the_picture_before_is_in_no_picture(tmp_path):
    """Reads a marked picture, and then one of which OpenCV writes a third."""
    marked = np.full((300, 400, 3), 0xABCD, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", marked, photometric="rgb")
    plain = np.full((3, 300, 400), 0x1111, np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", plain, photometric="rgb", planarconfig="separate")
    for _ in range(5):
        load_picture(tmp_path / "a.tif")
        assert (loaded(tmp_path / "b.tif") == 0x1111).all()


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_missing_strips_are_damage_not_memory(tmp_path, tag, compression, planes):
    path = tmp_path / "a.tif"
    pixels = ramp(3).transpose(2, 0, 1).copy() if planes == "separate" else ramp(3)
    tifffile.imwrite(
        path, pixels, photometric="rgb", planarconfig=planes, rowsperstrip=8, compression=compression, metadata=None
    )
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags[tag]
        values = list(found.value)
        found.overwrite(values[:-2] if tag == "StripByteCounts" else [*values[:-1], 10**7])
    with pytest.raises(PictureError):
        load_picture(path)


def test_premultiplied_colour_is_divided_by_its_alpha(tmp_path):
    straight = ramp(4)
    straight[..., 3] |= 0x4000
    weight = straight[..., 3:] / 65535
    stored = np.dstack([np.rint(straight[..., :3] * weight), straight[..., 3]]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    got = loaded(tmp_path / "a.tif")
    assert np.array_equal(got[..., 3], straight[..., 3])
    assert np.abs(got[..., :3].astype(int) - straight[..., :3]).max() < 8


def test_a_fourth_channel_that_is_no_alpha_is_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(4), photometric="rgb", extrasamples=["unspecified"])
    picture = load_picture(tmp_path / "a.tif")
    assert picture.alpha is None
    assert np.array_equal(picture.deep, ramp(4)[..., :3])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_with_alpha_comes_back(tmp_path, suffix):
    grey = np.dstack([ramp(1)] * 3)
    picture = Picture((grey >> 8).astype(np.uint8), ramp(1)[::-1].copy(), grey, grey=True)
    save_picture(picture, picture.image, tmp_path / f"a{suffix}", grey)
    again = load_picture(tmp_path / f"a{suffix}")
    assert np.array_equal(again.deep, grey)
    assert np.array_equal(again.alpha, picture.alpha)


def test_a_colour_key_of_16_bit_becomes_alpha(tmp_path):
    pixels = ramp(1)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    body = b"tRNS" + struct.pack(">H", int(pixels[3, 4]))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    picture = load_picture(tmp_path / "a.png")
    assert np.array_equal(picture.alpha == 0, pixels == pixels[3, 4])
    assert np.array_equal(picture.deep[..., 0], pixels)


def test_a_decoder_that_reads_another_picture_is_not_believed():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, ramp(3), photometric="rgb")
    other = io.BytesIO()
    tifffile.imwrite(other, ramp(3)[::-1].copy(), photometric="rgb")
    image = Image.open(io.BytesIO(other.getvalue()))
    image.load()
    with pytest.raises(ValueError, match="two decoders"):
        deep_tiff(image, buffer.getvalue())
