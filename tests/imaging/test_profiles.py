"""What a file says of its colours and of how it lies: the output looks as the source does in viewers."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from deid_diffusion.imaging.mend import png_chunk
from deid_diffusion.imaging.pictures import load_picture, picture_size, save_picture
from deid_diffusion.imaging.profiles import D65, PRIMARIES, rgb_profile
from tests.imaging.test_pictures import scene

SRGB = ImageCms.createProfile("sRGB")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
P3 = bytes([12, 13, 0, 1])
# Of the standard's own words: linear, and Display P3.
GAMMA_1, GAMMA_22 = struct.pack(">I", 100_000), struct.pack(">I", 45_455)
P3_CORNERS = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
SRGB_CORNERS = struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)


def png(*chunks, mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(scene()).convert(mode).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(png_chunk(name, body) for name, body in chunks) + data[33:]


def shown(picture):
    """(3,) uint8: what a viewer that knows profiles makes of the stored 200, 100, 50."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    return ImageCms.profileToProfile(Image.new("RGB", (1, 1), (200, 100, 50)), profile, SRGB).getpixel((0, 0))


def linear_to_srgb(value):
    value = value / 255
    return round(255 * (12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055))


def test_the_profile_of_srgb_changes_nothing():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(D65, PRIMARIES[1], None)))
    shown = ImageCms.profileToProfile(Image.fromarray(scene()), profile, SRGB)
    assert np.abs(np.asarray(shown).astype(int) - scene()).max() <= 1


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([(b"gAMA", GAMMA_1)], [linear_to_srgb(v) for v in (200, 100, 50)]),
        ([(b"gAMA", GAMMA_22), (b"cHRM", P3_CORNERS)], (214, 94, 29)),
        ([(b"cICP", P3)], (214, 94, 29)),
        ([(b"cICP", P3), (b"gAMA", GAMMA_1)], (214, 94, 29)),
    ],
)
def test_colours_told_by_png_chunks_become_the_equal_profile(tmp_path, chunks, wanted):
    (tmp_path / "a.png").write_bytes(png(*chunks))
    picture = load_picture(tmp_path / "a.png")
    assert np.array_equal(picture.image, scene())
    assert np.abs(np.subtract(shown(picture), wanted)).max() <= 3
    assert len(picture.notices) == 1
    save_picture(picture, picture.image, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["icc_profile"] == picture.icc


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [(b"sRGB", b"\0"), (b"gAMA", GAMMA_22), (b"cHRM", SRGB_CORNERS)],
        [(b"gAMA", GAMMA_22)],
        [(b"gAMA", GAMMA_22), (b"cHRM", SRGB_CORNERS)],
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"sRGB", b"\0"), (b"gAMA", GAMMA_1)],
        [(b"gAMA", bytes(4))],
    ],
)
def test_srgb_and_nonsense_need_no_profile(tmp_path, chunks):
    (tmp_path / "a.png").write_bytes(png(*chunks))
    picture = load_picture(tmp_path / "a.png")
    assert picture.icc is None
    assert picture.notices == ()


def test_a_grey_picture_of_linear_light_keeps_its_curve(tmp_path):
    (tmp_path / "a.png").write_bytes(png((b"gAMA", GAMMA_1), mode="L"))
    picture = load_picture(tmp_path / "a.png")
    save_picture(picture, picture.image, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "L"
        assert image.info["icc_profile"][16:20] == b"GRAY"


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_noticed(tmp_path, transfer, name):
    (tmp_path / "a.png").write_bytes(png((b"cICP", bytes([9, transfer, 0, 1]))))
    (notice,) = load_picture(tmp_path / "a.png").notices
    assert name in notice


def test_adobe_rgb_by_exif_alone_becomes_its_profile(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    picture = load_picture(tmp_path / "a.jpg")
    assert np.abs(np.subtract(shown(picture), (228, 100, 42))).max() <= 4
    assert "Adobe RGB" in picture.notices[0]
    assert picture.encoded == b""  # with its EXIF the knowledge would go


def test_an_avif_in_display_p3_gets_its_profile(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    at = data.index(b"colrnclx") + 8
    assert load_picture(tmp_path / "a.avif").icc is None
    data[at : at + 4] = struct.pack(">HH", 12, 13)
    (tmp_path / "a.avif").write_bytes(data)
    assert np.abs(np.subtract(shown(load_picture(tmp_path / "a.avif")), (214, 94, 29))).max() <= 3


def test_cmyk_is_noticed(tmp_path):
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "a.jpg")
    assert load_picture(tmp_path / "a.jpg").notices == ("CMYK, which becomes RGB where the picture is encoded anew",)


@pytest.mark.parametrize("exif", [None, 1, "other"])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tif", "avif"])
def test_an_orientation_in_xmp_alone_turns_nothing_as_in_viewers(tmp_path, suffix, exif):
    from PIL import PngImagePlugin

    options = {"xmp": XMP}
    if suffix == "png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif suffix == "tif":
        options = {"tiffinfo": {700: XMP}}
    if exif is not None and suffix != "tif":
        options["exif"] = Image.Exif()
        options["exif"][0x0112 if exif == 1 else 0x010F] = exif
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(scene()).save(path, **options)
    assert load_picture(path).image.shape == scene().shape
    assert picture_size(path) == (64, 48)
    with Image.open(path) as image:
        if suffix != "tif":
            assert load_picture(image).image.shape == scene().shape


def test_an_orientation_in_exif_beside_xmp_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif, xmp=XMP.replace(b"6", b"1"))
    assert load_picture(tmp_path / "a.jpg").image.shape == (64, 48, 3)
    assert picture_size(tmp_path / "a.jpg") == (48, 64)
