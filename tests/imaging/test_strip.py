"""A picture in which nothing was changed keeps its coded pixels, and loses everything else."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from deid_diffusion.imaging.mend import PNG, png_chunk, png_chunks
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.imaging.strip import stripped
from deid_diffusion.result import AnonymizedImage
from tests.imaging.test_pictures import scene

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SECRET = b"SECRET"


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(scene())).save(buffer, kind, **options)
    return buffer.getvalue()


def gps_exif(orientation=1):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    thumbnail = encoded("JPEG", Image.new("RGB", (16, 16), "red"))
    return b"Exif\0\0" + exif.tobytes()[6:] + SECRET + thumbnail


def camera_jpeg(orientation=1, **options):
    """With everything that holds copies: EXIF with a thumbnail, JFIF's thumbnail, XMP, IPTC, a motion trailer."""
    data = encoded("JPEG", exif=gps_exif(orientation), icc_profile=SRGB, comment=SECRET, xmp=SECRET, **options)
    thumbnail = struct.pack(">H", 16 + 3 * 4) + b"JFIF\0\1\1\1\0\x48\0\x48\2\2" + b"SECRETSECRET"
    iptc = b"Photoshop 3.0\08BIM" + SECRET
    jfxx = b"JFXX\0\x10" + SECRET
    first = b"\xff\xd8\xff\xe0" + thumbnail
    for marker, body in ((0xED, iptc), (0xE0, jfxx), (0xE2, b"MPF\0" + SECRET), (0xEB, SECRET)):
        first += bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return first + data[at:] + b"MotionPhoto_Data" + b"ftypmp42" + SECRET


def save_unchanged(tmp_path, data, name, suffix=None):
    source = tmp_path / name
    source.write_bytes(data)
    picture = load_picture(source)
    out = tmp_path / f"out{suffix or source.suffix}"
    changed = np.zeros(picture.image.shape[:2], bool)
    AnonymizedImage(picture.image, (), changed_mask=changed, source=picture).save(out)
    return out.read_bytes()


def scans(data):
    """Everything from the last start of frame to the end of the picture."""
    start = max(data.rfind(b"\xff\xc0\0\x11"), data.rfind(b"\xff\xc2\0\x11"))
    return data[start : data.index(b"\xff\xd9", start)]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2, "restart_marker_rows": 1}]
)
def test_a_jpeg_keeps_its_coded_pixels_and_nothing_else(tmp_path, options):
    data = camera_jpeg(**options)
    out = save_unchanged(tmp_path, data, "a.jpg")
    assert scans(data) == scans(out)
    assert len(scans(out)) > 500
    assert SECRET not in out
    for rest in (b"Exif", b"http", b"8BIM", b"MPF", b"JFXX", b"ftyp", b"\x48\0\x48"):
        assert rest not in out
    assert out.count(b"\xff\xd8\xff") == 1  # no picture in the picture
    with Image.open(io.BytesIO(out)) as image:
        assert image.info["icc_profile"] == SRGB
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_of_other_colours_looks_the_same(tmp_path, mode):
    data = encoded("JPEG", Image.fromarray(scene()).convert(mode), exif=gps_exif())
    out = save_unchanged(tmp_path, data, "a.jpg")
    assert SECRET not in out
    with Image.open(io.BytesIO(out)) as new, Image.open(io.BytesIO(data)) as old:
        assert new.mode == old.mode == mode
        assert np.array_equal(np.asarray(new), np.asarray(old))


def test_a_turned_jpeg_is_encoded_upright(tmp_path):
    out = save_unchanged(tmp_path, camera_jpeg(6), "a.jpg")
    assert SECRET not in out
    with Image.open(io.BytesIO(out)) as image:
        assert image.size == (48, 64)


def test_another_format_is_encoded_anew(tmp_path):
    out = save_unchanged(tmp_path, camera_jpeg(), "a.jpg", ".png")
    assert out.startswith(PNG)
    assert SECRET not in out


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_a_png_keeps_its_coded_pixels_and_nothing_else(tmp_path, mode):
    image = Image.fromarray(scene()).convert(mode)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", SECRET.decode())
    texts.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    profile = {"icc_profile": SRGB} if mode == "RGB" else {}
    data = encoded("PNG", image, pnginfo=texts, exif=gps_exif(), dpi=(300, 300), **profile) + SECRET
    out = save_unchanged(tmp_path, data, "a.png")
    kept = {b"IHDR", b"IDAT", b"IEND"} | ({b"PLTE"} if mode == "P" else {b"iCCP"} if profile else set())
    assert {name for name, _ in png_chunks(out)} == kept
    assert [b for n, b in png_chunks(out) if n == b"IDAT"] == [b for n, b in png_chunks(data) if n == b"IDAT"]
    assert SECRET not in out


def test_a_png_with_old_pixels_behind_the_new_ones_is_encoded_anew(tmp_path):
    """As of screenshots cropped in place."""
    data, parts = encoded("PNG"), []
    for name, body in png_chunks(data):
        parts.append(png_chunk(name, body + zlib.compress(SECRET * 9) if name == b"IDAT" else body))
    more = PNG + b"".join(parts)
    assert stripped(more, "PNG") is None
    out = save_unchanged(tmp_path, more, "a.png")
    assert sum(len(body) for name, body in png_chunks(out) if name == b"IDAT") < len(data)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 60}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_keeps_its_coded_pixels_and_nothing_else(tmp_path, mode, options):
    image = Image.fromarray(scene(channels=len(mode)))
    data = encoded("WEBP", image, exif=gps_exif(), xmp=SECRET, icc_profile=SRGB, **options) + SECRET
    out = save_unchanged(tmp_path, data, "a.webp")
    assert SECRET not in out
    assert b"EXIF" not in out
    assert len(out) == 8 + int.from_bytes(out[4:8], "little")
    with Image.open(io.BytesIO(out)) as new, Image.open(io.BytesIO(data)) as old:
        assert np.array_equal(np.asarray(new), np.asarray(old))
        assert new.info["icc_profile"] == SRGB
        assert not new.getexif()


def test_a_changed_picture_is_encoded_anew(tmp_path):
    (tmp_path / "a.jpg").write_bytes(camera_jpeg())
    picture = load_picture(tmp_path / "a.jpg")
    changed = np.zeros(picture.image.shape[:2], bool)
    changed[:8, :8] = True
    image = picture.image.copy()
    image[:8, :8] = 0
    AnonymizedImage(image, (), changed_mask=changed, source=picture).save(tmp_path / "b.jpg")
    assert load_picture(tmp_path / "b.jpg").image[:6, :6].max() < 30


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("profile", [SECRET * 50, SRGB + SECRET * 50])
def test_what_is_no_profile_does_not_pass_for_one(tmp_path, suffix, profile):
    kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix]
    out = save_unchanged(tmp_path, encoded(kind, icc_profile=profile), f"a{suffix}")
    with Image.open(io.BytesIO(out)) as image:
        assert image.info.get("icc_profile") == (SRGB if profile.startswith(SRGB) else None)
    assert SECRET not in out
