"""What is kept of the metadata is what was asked for; location, camera and thumbnails go whatever is asked."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.result import AnonymizedImage
from deid_diffusion.settings import Settings
from tests.imaging.test_pictures import scene, write_deep
from tests.imaging.test_strip import SECRET, encoded

DATE = "2020:01:02 03:04:05"


def full_exif(orientation=1):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298], exif[0x013B] = orientation, SECRET.decode(), "(c) Somebody", "An artist"
    exif.get_ifd(0x8769).update({0x9003: DATE, 0xA431: SECRET.decode(), 0x927C: SECRET})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif


def photo(path, orientation=1):
    exif = full_exif(orientation)
    options = {"exif": exif.tobytes() + encoded("JPEG")} if path.suffix in (".jpg", ".webp") else {"exif": exif}
    if path.suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274], tags[271], tags[33432], tags[315] = orientation, SECRET.decode(), "(c) Somebody", "An artist"
        tags[34665], tags[34853] = {36867: DATE, 42033: SECRET.decode()}, {1: "N"}
        options = {"tiffinfo": tags}
    Image.fromarray(scene()).save(path, dpi=(300, 240), **options)
    return load_picture(path)


def saved(picture, path, keep, change):
    image, changed = picture.image.copy(), np.zeros(picture.image.shape[:2], bool)
    if change:
        image[:8, :8], changed[:8, :8] = 0, True
    AnonymizedImage(image, (), changed_mask=changed, source=picture, keep_metadata=keep).save(path)
    return path.read_bytes()


def values(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        exif = image.getexif()
        assert not exif.get_ifd(0x8825)
        return exif.get(0x8298), exif.get(0x013B), exif.get_ifd(0x8769).get(0x9003), image.info.get("dpi")


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("keep", [(), ("copyright",), ("date",), ("dpi",), ("copyright", "date", "dpi")])
def test_only_what_is_asked_for_is_kept(tmp_path, suffix, keep, change):
    data = saved(photo(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}", keep, change)
    copyright, artist, date, dpi = values(data)
    assert (copyright, artist) == (("(c) Somebody", "An artist") if "copyright" in keep else (None, None))
    assert date == (DATE if "date" in keep else None)
    if suffix in (".jpg", ".png", ".tif"):
        # What Pillow says of a file that says nothing.
        assert dpi == pytest.approx((300, 240), abs=0.1) if "dpi" in keep else dpi in (None, (1, 1), (72, 72))
    assert SECRET not in data
    assert data.count(b"\xff\xd8\xff") == (suffix == ".jpg")  # no thumbnail


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_deep_picture_keeps_them_too(tmp_path, suffix):
    from dataclasses import replace

    write_deep(tmp_path / f"a{suffix}", scene(dtype=np.uint16))
    picture = replace(load_picture(tmp_path / f"a{suffix}"), metadata=photo(tmp_path / "c.jpg").metadata)
    data = saved(picture, tmp_path / f"b{suffix}", ("copyright", "date", "dpi"), True)
    assert values(data)[:3] == ("(c) Somebody", "An artist", DATE)
    assert values(data)[3] == pytest.approx((300, 240), abs=0.1)
    again = load_picture(tmp_path / f"b{suffix}").deep
    assert np.array_equal(again[8:], scene(dtype=np.uint16)[8:])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_kept_exif_does_not_turn_the_picture_again(tmp_path, suffix):
    picture = photo(tmp_path / "a.jpg", 6)
    saved(picture, tmp_path / f"b{suffix}", ("copyright", "date", "dpi"), False)
    assert load_picture(tmp_path / f"b{suffix}").image.shape == (64, 48, 3)


@pytest.mark.parametrize("text", ["x" * 10_000, "a\nb"])
def test_what_is_no_short_text_is_not_kept(tmp_path, text):
    exif = Image.Exif()
    exif[0x8298] = text
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    assert load_picture(tmp_path / "a.jpg").metadata.copyright == ""


@pytest.mark.parametrize("names", ["dpi", ("gps",), ("copyright", 3), 5])
def test_settings_take_only_what_can_be_kept(names):
    with pytest.raises(ValueError, match="copyright, date, dpi"):
        Settings(keep_metadata=names)
