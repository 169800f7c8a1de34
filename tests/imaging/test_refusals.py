"""Good files are read or refused for what they are; only damaged ones are called damaged."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from deid_diffusion.imaging.pictures import PictureError, load_picture
from tests.imaging.fuzz import mutated, samples
from tests.imaging.test_pictures import scene, written

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def tiff(path, pixels, **how):
    tifffile.imwrite(path, pixels, **how)
    return path


def jpeg(path, cut=0, **how):
    Image.fromarray(scene()).save(path, quality=90, **how)
    data = path.read_bytes()
    return written(path, data[: len(data) - cut])


def with_frame_header(path, marker=0xC0, bits=8):
    data = bytearray(jpeg(path).read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    return written(path, bytes(data))


def bmp(path, bits, masks):
    """16 x 16 zeros with bit masks, which a BMP may have, and of any width."""
    body = bytes(16 * 16 * bits // 8)
    head = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, bits, 3, len(body), 0, 0, 0, 0) + struct.pack("<3I", *masks)
    return written(path, b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body)


GREY = scene()[..., 0]
REFUSED = {
    "float32": (lambda p: tiff(p / "a.tif", GREY.astype("f4"), photometric="minisblack"), "1 channel of 32-bit float"),
    "float16": (lambda p: tiff(p / "a.tif", GREY.astype("f2"), photometric="minisblack"), "16-bit float"),
    "float-rgb": (lambda p: tiff(p / "a.tif", scene().astype("f4"), photometric="rgb"), "3 channels of 32-bit float"),
    "complex": (lambda p: tiff(p / "a.tif", GREY.astype("c8"), photometric="minisblack"), "complex"),
    "int32": (lambda p: tiff(p / "a.tif", GREY.astype("i4"), photometric="minisblack"), "32-bit signed integer"),
    "uint32": (lambda p: tiff(p / "a.tif", GREY.astype("u4"), photometric="minisblack"), "32-bit integer"),
    "int16": (lambda p: tiff(p / "a.tif", GREY.astype("i2"), photometric="minisblack"), "16-bit signed integer"),
    "grey-alpha16": (
        lambda p: tiff(p / "a.tif", scene(channels=2, dtype=np.uint16), photometric="minisblack", planarconfig=1),
        "2 channels of 16-bit integer",
    ),
    "sensor": (lambda p: tiff(p / "a.tif", GREY, photometric="cfa"), "CFA"),
    "previews": (lambda p: tiff(p / "a.tif", scene(), photometric="rgb", subfiletype=1), "previews of one only"),
    "lossless-jpeg": (lambda p: with_frame_header(p / "a.jpg", 0xC3), "a JPEG that is lossless"),
    "12-bit-jpeg": (lambda p: with_frame_header(p / "a.jpg", 0xC1, 12), "a JPEG of 12 bit"),
    "bmp444": (lambda p: bmp(p / "a.bmp", 16, (0xF00, 0xF0, 0xF)), "a BMP of 16 bit with the masks f00 f0 f"),
    "bmp10": (lambda p: bmp(p / "a.bmp", 32, (0x3FF00000, 0xFFC00, 0x3FF)), "a BMP of 32 bit"),
    "pdf": (lambda p: written(p / "a.jpg", b"%PDF-1.7 ..."), "a PDF document"),
    "svg": (lambda p: written(p / "a.png", b'<?xml version="1.0"?><svg xmlns="..."/>'), "an SVG drawing"),
    "web": (lambda p: written(p / "a.jpg", b"\n<!DOCTYPE html><title>404"), "a web page"),
    "jpeg-xl": (lambda p: written(p / "a.jpg", b"\xff\x0a" + bytes(99)), "a JPEG XL picture"),
    "video": (lambda p: written(p / "a.jpg", b"\0\0\0\x18ftypisom" + bytes(99)), "a video"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_called_what_it_is(tmp_path, name):
    make, said = REFUSED[name]
    with pytest.raises(PictureError, match=said) as caught:
        load_picture(make(tmp_path))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, cut, progressive):
    whole = load_picture(jpeg(tmp_path / "a.jpg", progressive=progressive)).image
    shorter = load_picture(jpeg(tmp_path / "b.jpg", cut, progressive=progressive)).image
    assert np.array_equal(whole, shorter)


@pytest.mark.parametrize("cut", [3, 4, 9, 300])
def test_a_jpeg_without_its_last_pixels_is_damaged(tmp_path, cut):
    with pytest.raises(PictureError, match="damaged"):
        load_picture(jpeg(tmp_path / "a.jpg", cut))


@pytest.mark.parametrize("name", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_a_png_with_large_texts_and_profiles_is_read(tmp_path, name):
    texts, profile = PngImagePlugin.PngInfo(), SRGB
    if name == "iCCP":
        profile += bytes(2_000_000)
    elif name == "iTXt":
        texts.add_itxt("workflow", "x" * 70_000_000, zip=True)
    else:
        texts.add_text("workflow", "x" * 70_000_000, zip=name == "zTXt")
    Image.fromarray(scene()).save(tmp_path / "a.png", pnginfo=texts, icc_profile=profile)
    picture = load_picture(tmp_path / "a.png")
    assert np.array_equal(picture.image, scene())
    assert picture.icc == SRGB


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_picture_of_a_tiff_is_the_page_that_is_no_preview(tmp_path, depth):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(scene(dtype=depth)[::4, ::4].copy(), photometric="rgb", subfiletype=1)
        file.write(scene(dtype=depth), photometric="rgb", subfiletype=0)
    picture = load_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.image if picture.deep is None else picture.deep, scene(dtype=depth))


VARIETIES = {
    "tiled": {"tile": (16, 16)},
    "big": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "deflate-predicted": {"compression": "zlib", "predictor": True, "byteorder": ">"},
}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", VARIETIES)
def test_varieties_of_tiff_are_read_bit_for_bit(tmp_path, name, depth):
    picture = load_picture(tiff(tmp_path / "a.tif", scene(dtype=depth), photometric="rgb", **VARIETIES[name]))
    assert np.array_equal(picture.image if picture.deep is None else picture.deep, scene(dtype=depth))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path, depth):
    grey = scene(dtype=depth)[..., 0]
    picture = load_picture(tiff(tmp_path / "a.tif", np.iinfo(depth).max - grey, photometric="miniswhite"))
    pixels = picture.image if picture.deep is None else picture.deep
    assert np.array_equal(pixels[..., 0], grey)


def test_a_message_shows_nothing_of_a_garbled_file(tmp_path):
    """The tag of the compression points at the pixels."""
    data = bytearray(tiff(tmp_path / "a.tif", scene(), photometric="rgb").read_bytes())
    at = next(at for at in range(8, 400, 2) if data[at : at + 4] == b"\x03\x01\x03\0")
    data[at + 4 : at + 8] = (300).to_bytes(4, "little")
    with pytest.raises(PictureError) as caught:
        load_picture(written(tmp_path / "a.tif", bytes(data)))
    assert len(str(caught.value).replace(str(tmp_path), "")) < 400


LOAD = """
import sys
from deid_diffusion.imaging.pictures import PictureError, load_picture
try:
    load_picture(sys.argv[1])
except PictureError:
    pass
# Not ru_maxrss: that of the process which started this one is inherited.
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_a_garbled_deep_png_takes_no_memory_for_pixels_that_are_not_there(tmp_path):
    """As fuzz.py found one: Pillow takes it, and OpenCV made room for 2 GiB."""
    data = mutated(samples()["deep.png"], [], np.random.default_rng([9, 2986]))
    assert int.from_bytes(data[33:37], "big") > 2**31
    path = written(tmp_path / "a.png", data)
    ran = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, timeout=100, check=True)
    assert int(ran.stdout) < 1_000_000  # KiB
