import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from deid_diffusion.imaging.pictures import FORMATS, Picture, PictureError, load_picture, save_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SECRET = b"SECRET-of-the-source"


def scene(height=48, width=64, channels=3, dtype=np.uint8) -> np.ndarray:
    """Noise on a ramp: no two pixels alike, so that a swap, flip or cut shows."""
    rng = np.random.default_rng(height * width)
    top = np.iinfo(dtype).max
    ramp = np.linspace(0, 0.7 * top, height * width).reshape(height, width, 1)
    return (ramp + rng.uniform(0, 0.3 * top, (height, width, channels))).astype(dtype)


def write_deep(path: Path, pixels: np.ndarray) -> None:
    order = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    assert cv2.imwrite(str(path), order)


def tiny_jpeg(path: Path) -> Path:
    Image.fromarray(scene()).save(path, quality=60)
    return path


def animated(path: Path) -> Path:
    frames = [Image.fromarray(scene()), Image.fromarray(scene()[::-1].copy())]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def cut(path: Path, keep: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def deep_png(path: Path) -> Path:
    write_deep(path, scene(dtype=np.uint16))
    return path


def bomb(path: Path) -> Path:
    """100 bytes that say they are 40,000 x 40,000."""
    buffer = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    buffer.seek(0, io.SEEK_END)
    PngImagePlugin.putchunk(buffer, b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    PngImagePlugin.putchunk(buffer, b"IDAT", zlib.compress(bytes(100)))
    PngImagePlugin.putchunk(buffer, b"IEND")
    return written(path, buffer.getvalue())


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "no.jpg", "found none"),
        (lambda d: d, "got a folder"),
        (lambda d: written(d / "a.jpg", b""), "0 bytes"),
        (lambda d: written(d / "a.jpg", b"Dear diary, this is not a picture"), "got none of these"),
        (lambda d: written(d / "a.jpg", b"\xff\xd8\xff"), "damaged|got none"),
        (lambda d: cut(tiny_jpeg(d / "a.jpg"), 0.5), "damaged|got none"),
        (lambda d: cut(deep_png(d / "a.png"), 0.5), "damaged"),
        (lambda d: cut(deep_png(d / "a.tif"), 0.5), "damaged|got none"),
        (lambda d: bomb(d / "a.png"), "max_pixels"),
        (lambda d: animated(d / "a.gif"), "2 frames"),
        (lambda d: animated(d / "a.webp"), "2 frames"),
        (lambda d: animated(d / "a.png"), "2 frames"),
        (lambda d: animated(d / "a.avif"), "2 frames"),
        (lambda d: animated(d / "a.tif"), "2 frames"),
    ],
)
def test_bad_files_are_named_with_what_to_do(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(PictureError, match=message) as caught:
        load_picture(path)
    assert str(path) in str(caught.value)


def test_a_heic_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"deid-diffusion\[heic\]"):
        load_picture(written(tmp_path / "a.heic", HEIC_HEAD))
    with pytest.raises(PictureError, match=r"deid-diffusion\[heic\]"):
        save_picture(Picture(scene()), scene(), tmp_path / "b.heic")
    assert not (tmp_path / "b.heic").exists()


def test_a_heic_comes_and_goes_with_the_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(cv2.GaussianBlur(scene(64, 96), (0, 0), 5))
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    picture = load_picture(tmp_path / "a.heic")
    assert picture.format == "HEIF"
    save_picture(picture, picture.image, tmp_path / "b.heic")
    again = load_picture(tmp_path / "b.heic").image
    assert again.shape == picture.image.shape
    assert np.abs(again.astype(int) - picture.image).mean() < 4


def test_the_pixel_limit_can_be_raised_and_pillows_own_is_left_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    path = tiny_jpeg(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match="3,071"):
        load_picture(path, max_pixels=3071)
    assert load_picture(path, max_pixels=3072).image.shape == (48, 64, 3)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_of_other_kinds_are_refused(array):
    with pytest.raises(PictureError, match="wanted"):
        load_picture(array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "deep"), [(".png", False), (".tif", False), (".webp", False), (".png", True), (".tif", True)]
)
def test_pixels_stand_upright_whatever_the_exif_says(tmp_path, suffix, orientation, deep):
    upright = scene(dtype=np.uint16 if deep else np.uint8)
    # What the camera stores so that `orientation` brings it back.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation].copy()
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if not deep:
        Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    elif suffix == ".png":
        data = cv2.imencode(suffix, stored[..., ::-1])[1].tobytes()
        path.write_bytes(with_png_chunk(data, b"eXIf", exif.tobytes()[6:]))
    else:
        path.write_bytes(plain_tiff(stored, orientation))
    picture = load_picture(path)
    assert np.array_equal(picture.deep if deep else picture.image, upright)
    assert picture.image.shape == upright.shape


def with_png_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    buffer = io.BytesIO()
    PngImagePlugin.putchunk(buffer, kind, body)
    return data[:33] + buffer.getvalue() + data[33:]


def plain_tiff(pixels: np.ndarray, orientation: int) -> bytes:
    """(H, W, 3) uint16 as an uncompressed little-endian TIFF, written by hand."""
    height, width, _ = pixels.shape
    start = 8 + 2 + 12 * 10 + 4
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 2), (273, 4, start + 6)]
    tags += [(274, 3, orientation), (277, 3, 3), (278, 4, height), (279, 4, pixels.nbytes)]
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    entries[2] = struct.pack("<HHII", 258, 3, 3, start)  # three values do not fit, so they lie after the directory
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head + struct.pack("<3H", 16, 16, 16) + pixels.astype("<u2").tobytes()


MODES = {
    "grey": lambda: Image.fromarray(scene()[..., 0]),
    "bilevel": lambda: Image.fromarray(scene()[..., 0]).convert("1"),
    "grey-alpha": lambda: Image.fromarray(scene(channels=2)),
    "rgba": lambda: Image.fromarray(scene(channels=4)),
    "palette": lambda: Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE),
    "grey16": lambda: Image.fromarray(scene(dtype=np.uint16)[..., 0]),
    "one-pixel": lambda: Image.fromarray(scene(1, 1)),
    "oblong": lambda: Image.fromarray(scene(20, 30_000)),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_survives_a_round_trip_bit_for_bit(tmp_path, mode, suffix):
    image = MODES[mode]()
    image.save(tmp_path / f"a{suffix}")
    picture = load_picture(tmp_path / f"a{suffix}")
    save_picture(picture, picture.image, tmp_path / f"b{suffix}", picture.deep)
    again = load_picture(tmp_path / f"b{suffix}")
    for name in ("image", "alpha", "deep"):
        old, new = getattr(picture, name), getattr(again, name)
        assert (old is None) == (new is None), name
        assert old is None or np.array_equal(old, new), name
    assert again.grey == picture.grey == (mode in ("grey", "bilevel", "grey-alpha", "grey16"))
    assert picture.image.dtype == np.uint8
    assert picture.image.shape == (image.height, image.width, 3)
    if mode != "grey16":
        assert np.array_equal(picture.image, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix, channels):
    pixels = scene(channels=channels, dtype=np.uint16)
    pixels = pixels[..., 0] if channels == 1 else pixels
    write_deep(tmp_path / f"a{suffix}", pixels)
    picture = load_picture(tmp_path / f"a{suffix}")
    assert np.array_equal(picture.deep, np.dstack([pixels] * 3) if channels == 1 else pixels[..., :3])
    assert np.abs(picture.image - picture.deep / 257).max() <= 0.5
    for target in (".png", ".tif"):
        save_picture(picture, picture.image, tmp_path / f"b{target}", picture.deep)
        again = cv2.imread(str(tmp_path / f"b{target}"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(again if channels == 1 else again[..., [2, 1, 0, 3][:channels]], pixels)
        Image.open(tmp_path / f"b{target}").load()


def test_eight_bits_widened_to_sixteen_come_back_the_same():
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(load_picture(image * 257).image[..., 0], image)


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255] + [255] * 253)], ids=["index", "table"])
def test_palette_transparency_becomes_alpha(tmp_path, transparency):
    image = Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "a.png", transparency=transparency)
    picture = load_picture(tmp_path / "a.png")
    assert np.array_equal(picture.alpha, np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))[..., 3])
    assert picture.alpha.min() == 0


def test_cmyk_becomes_rgb_and_leaves_its_profile_behind(tmp_path):
    colour = cv2.GaussianBlur(scene(), (0, 0), 4)
    # The header of a CMYK press profile is all that decides; its tables are beside the point here.
    press = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "a.jpg", quality=95, icc_profile=press)
    picture = load_picture(tmp_path / "a.jpg")
    assert np.abs(picture.image.astype(int) - colour).mean() < 6
    for target in ("b.jpg", "b.png", "b.tif"):
        save_picture(picture, picture.image, tmp_path / target)
        assert Image.open(tmp_path / target).info.get("icc_profile") is None
        assert Image.open(tmp_path / target).mode == "RGB"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_the_colour_profile_is_kept_and_cut_to_its_length(tmp_path, suffix):
    Image.fromarray(scene()).save(tmp_path / "a.png", icc_profile=SRGB + SECRET)
    picture = load_picture(tmp_path / "a.png")
    save_picture(picture, picture.image, tmp_path / f"b{suffix}")
    assert Image.open(tmp_path / f"b{suffix}").info["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_colour_profile_is_kept_with_16_bits(tmp_path, suffix):
    picture = Picture(scene(), deep=scene(dtype=np.uint16), icc=SRGB)
    save_picture(picture, picture.image, tmp_path / f"b{suffix}", picture.deep)
    assert Image.open(tmp_path / f"b{suffix}").info["icc_profile"] == SRGB
    assert np.array_equal(load_picture(tmp_path / f"b{suffix}").deep, picture.deep)


def test_a_grey_picture_painted_in_colour_is_written_in_colour(tmp_path):
    Image.fromarray(scene()[..., 0]).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    save_picture(picture, scene(), tmp_path / "b.png")
    assert np.array_equal(load_picture(tmp_path / "b.png").image, scene())


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey"])
@pytest.mark.parametrize("quality", [35, 88, 100])
def test_jpegs_are_written_at_the_sources_quality(tmp_path, quality, subsampling):
    image = scene()[..., 0] if subsampling == "grey" else scene()
    options = {} if subsampling == "grey" else {"subsampling": subsampling}
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=quality, **options)
    picture = load_picture(tmp_path / "a.jpg")
    save_picture(picture, picture.image, tmp_path / "b.jpg")
    old, new = Image.open(tmp_path / "a.jpg"), Image.open(tmp_path / "b.jpg")
    assert old.mode == new.mode
    assert old.quantization == new.quantization
    assert old.layer == new.layer


def test_where_the_format_has_no_alpha_the_picture_lies_on_white(tmp_path):
    image = np.zeros((16, 32, 3), np.uint8)
    alpha = np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 16, 0), 16, 1)
    for suffix in (".jpg", ".bmp"):
        save_picture(Picture(image, alpha), image, tmp_path / f"a{suffix}")
        again = load_picture(tmp_path / f"a{suffix}").image
        assert again[:, :16].min() > 250
        assert again[:, 16:].max() < 5


def thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene(24, 32)).save(buffer, "JPEG", comment=SECRET)
    return buffer.getvalue()


def planted_exif() -> bytes:
    """EXIF with a maker, a MakerNote, a GPS position and, in its second directory, a thumbnail of the face."""
    exif = Image.Exif()
    exif[0x010F] = SECRET.decode() + "-maker"
    exif[0x9C9B] = SECRET
    exif.get_ifd(0x8769)[0x927C] = SECRET + b"-makernote"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (52.0, 31.0, 12.5)
    gps[29] = SECRET.decode() + "-gps"
    return exif.tobytes() + thumbnail()


def planted(path: Path) -> Path:
    image = Image.fromarray(scene())
    xmp = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    kind = FORMATS[path.suffix]
    if kind == "JPEG":
        image.save(path, exif=planted_exif(), comment=SECRET, xmp=xmp)
        head, body = path.read_bytes()[:2], path.read_bytes()[2:]
        iptc = b"Photoshop 3.0\0" + SECRET
        path.write_bytes(head + b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc + body)
    elif kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", SECRET.decode())
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        info.add(b"prVt", SECRET)
        image.save(path, pnginfo=info, exif=planted_exif())
    elif kind == "TIFF":
        image.save(path, tiffinfo={270: SECRET.decode(), 315: SECRET.decode(), 700: xmp, 34377: SECRET})
    else:
        image.save(path, exif=planted_exif(), xmp=xmp)
    path.write_bytes(path.read_bytes() + thumbnail())  # a motion photo's trailer, in small
    assert SECRET in path.read_bytes()
    return path


def mpo(path: Path) -> Path:
    """A JPEG with a second JPEG behind it, as phones store previews and depth."""
    Image.fromarray(scene()).save(path, "MPO", save_all=True, append_images=[Image.fromarray(scene()[::-1].copy())])
    path.write_bytes(path.read_bytes() + SECRET)
    assert Image.open(path).n_frames == 2
    return path


@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif", ".avif", ".bmp", ".gif"])
@pytest.mark.parametrize("source", ["a.jpg", "a.png", "a.tif", "a.webp", "a.avif", "mpo.jpg"])
def test_nothing_but_pixels_reaches_the_output(tmp_path, source, target):
    path = (mpo if source == "mpo.jpg" else planted)(tmp_path / source)
    picture = load_picture(path)
    save_picture(picture, picture.image, tmp_path / f"out{target}")
    data = (tmp_path / f"out{target}").read_bytes()
    assert b"SECRET" not in data
    assert data.count(b"\xff\xd8\xff") == (target == ".jpg")
    for mark in (b"Exif", b"eXIf", b"EXIF", b"xmp", b"XMP", b"MPF", b"tEXt", b"iTXt", b"zTXt", b"Photoshop"):
        assert mark not in data, mark
    with Image.open(tmp_path / f"out{target}") as out:
        assert getattr(out, "n_frames", 1) == 1
        assert not set(out.info) & {"exif", "xmp", "comment", "photoshop", "mp", "mpoffset"}
        assert {k for k in dict(out.getexif()) if k > 0x0200 and k not in (0x0212,)} == set() or target == ".tif"
        assert out.size == (64, 48)


def test_16_bit_outputs_carry_nothing_either(tmp_path):
    data = cv2.imencode(".png", scene(dtype=np.uint16))[1].tobytes()
    path = written(tmp_path / "a.png", with_png_chunk(data, b"tEXt", b"Comment\0" + SECRET) + thumbnail())
    picture = load_picture(path)
    assert picture.deep is not None
    for suffix in (".png", ".tif"):
        save_picture(picture, picture.image, tmp_path / f"b{suffix}", picture.deep)
        assert b"SECRET" not in (tmp_path / f"b{suffix}").read_bytes()
        assert b"tEXt" not in (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xyz", "wanted a suffix"),
        ("a", "wanted a suffix"),
        ("no/such/a.png", "existing folder"),
        ("file.txt/a.png", "existing folder"),
        ("folder.png", "nothing was written"),
        ("n" * 300 + ".png", "nothing was written"),
    ],
)
def test_places_that_cannot_be_written_are_named(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(PictureError, match=message):
        save_picture(Picture(scene()), scene(), tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "folder.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")
def test_neither_links_nor_pipes_nor_devices_are_written(tmp_path):
    other = written(tmp_path / "other.png", b"somebody else's")
    (tmp_path / "link.png").symlink_to(other)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "new.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(tmp_path.iterdir())
    for name in ("link.png", "nowhere.png", "device.png", "pipe.png"):
        with pytest.raises(PictureError, match=r"got a (link|pipe); nothing was written"):
            save_picture(Picture(scene()), scene(), tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before
    assert other.read_bytes() == b"somebody else's"
    assert (tmp_path / "link.png").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes")
def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match="got a device or a pipe"):
        load_picture(tmp_path / "pipe.png")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_a_folder_that_takes_no_files_is_named():
    with pytest.raises(PictureError, match="nothing was written"):
        save_picture(Picture(scene()), scene(), "/proc/self/a.png")


def test_a_picture_too_wide_for_its_format_leaves_nothing(tmp_path):
    image = scene(20, 30_000)
    with pytest.raises(PictureError, match=r"choose \.png"):
        save_picture(Picture(image), image, tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path):
    target = written(tmp_path / "a.bmp", b"the old one")
    # A limit on file size, 4 kB, fails in write() as a full disk does.
    code = (
        "import resource, sys, numpy as np\n"
        "from deid_diffusion.imaging.pictures import Picture, PictureError, save_picture\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "image = np.zeros((200, 200, 3), np.uint8)\n"
        "try:\n    save_picture(Picture(image), image, sys.argv[1])\n"
        "except PictureError as error:\n    sys.exit(7 if 'nothing was written' in str(error) else 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert target.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bmp"]


def test_an_interruption_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    target = written(tmp_path / "a.png", b"the old one")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_picture(Picture(scene()), scene(), target)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"the old one"


def test_lossless_webp_stays_lossless(tmp_path):
    Image.fromarray(scene(channels=4)).save(tmp_path / "a.webp", lossless=True, exact=True)
    picture = load_picture(tmp_path / "a.webp")
    save_picture(picture, picture.image, tmp_path / "b.webp")
    again = load_picture(tmp_path / "b.webp")
    assert np.array_equal(again.image, picture.image)
    assert np.array_equal(again.alpha, picture.alpha)


def test_a_pil_image_keeps_its_orientation_and_quality(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=40, exif=exif)
    from_path, from_pil = load_picture(tmp_path / "a.jpg"), load_picture(Image.open(tmp_path / "a.jpg"))
    assert from_path.image.shape == (64, 48, 3)
    assert np.array_equal(from_path.image, from_pil.image)
    assert from_path.jpeg == from_pil.jpeg
