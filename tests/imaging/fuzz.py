"""Loads mutated files of every format, each twice: `python -m tests.imaging.fuzz SEED SECONDS`.

Says what it found on stdout, a line each, and ends with `N files`. It runs in a process of its own, which a crash or
a load of over 5 s ends.
"""

import faulthandler
import io
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import tifffile
from PIL import Image

from deid_diffusion.imaging.pictures import Picture, PictureError, load_picture, save_picture
from deid_diffusion.imaging.strip import stripped

SIDE = 24
MESSAGE = 400  # characters, without the path
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
LIMIT = 2_000_000  # pixels: a header that says more is refused


def samples() -> dict[str, bytes]:
    """Small whole files of all that the decoder takes, by suffix and kind."""
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE + 8, 3), np.uint8), (0, 0), 2)
    deep, alpha = pixels.astype(np.uint16) * 257, pixels[..., :1]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    files = {}

    def add(name: str, image: Image.Image, kind: str, **options) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    colour, clear = Image.fromarray(pixels), Image.fromarray(np.concatenate([pixels, alpha], axis=2))
    palette = colour.quantize(16)
    add("base.jpg", colour, "JPEG", exif=exif)
    add("progressive.jpg", colour, "JPEG", progressive=True, comment=b"x" * 40)
    add("grey.jpg", colour.convert("L"), "JPEG")
    add("inks.jpg", colour.convert("CMYK"), "JPEG")
    add("stereo.jpg", colour, "MPO", save_all=True, append_images=[colour])
    add("colour.png", colour, "PNG", exif=exif, dpi=(72, 72))
    add("clear.png", clear, "PNG")
    add("palette.png", palette, "PNG", transparency=bytes(range(0, 256, 16)))
    add("lossy.webp", clear, "WEBP", exif=exif)
    add("lossless.webp", colour, "WEBP", lossless=True)
    add("a.avif", colour, "AVIF", exif=exif)
    add("a.bmp", colour, "BMP")
    add("palette.bmp", palette, "BMP")
    add("a.gif", palette, "GIF", transparency=3)
    for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"):
        add(f"{compression}.tif", colour, "TIFF", compression=compression)
    add("fax.tif", colour.convert("1"), "TIFF", compression="group4")
    add("palette.tif", palette, "TIFF")
    for name, array, options in (
        ("deep", deep, {"photometric": "rgb"}),
        ("deflated", deep, {"photometric": "rgb", "compression": "zlib", "predictor": True, "byteorder": ">"}),
        ("planar", deep.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        ("tiled", deep, {"photometric": "rgb", "tile": (16, 16)}),
        ("big", pixels, {"photometric": "rgb", "bigtiff": True}),
        ("planar8", pixels.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        ("clear16", np.concatenate([deep, deep[..., :1]], 2), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **options)
        files[f"{name}.tif"] = buffer.getvalue()
    files["deep.png"] = cv2.imencode(".png", deep)[1].tobytes()
    return files


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut, spliced with another file's, repeated, or numbers of the header changed."""
    out = bytearray(data)
    how = rng.integers(7)
    if how == 0:
        for at in rng.integers(0, len(out), rng.integers(1, 20)):
            out[at] ^= 1 << int(rng.integers(8))
    elif how == 1:
        del out[rng.integers(len(out)) :]
    elif how == 2:
        other = others[rng.integers(len(others))]
        out[rng.integers(len(out)) :] = other[rng.integers(len(other)) :]
    elif how == 3:
        at, size = rng.integers(0, len(out)), rng.integers(1, 64)
        del out[at : at + size]
    elif how == 4:
        at, size = rng.integers(0, len(out)), rng.integers(1, 64)
        out[at:at] = out[at : at + size] * int(rng.integers(1, 5))
    else:
        # The first bytes, where sizes, depths and counts stand; TIFFs keep theirs after the pixels, too.
        for _ in range(rng.integers(1, 4)):
            near_end = rng.random() < 0.3
            at = int(rng.integers(max(len(out) - 200, 0), len(out)) if near_end else rng.integers(min(len(out), 200)))
            value = [0, 1, 2, 3, 4, 5, 8, 16, 32, 127, 128, 255][rng.integers(12)]
            size = int(rng.choice([1, 2, 4]))
            out[at : at + size] = value.to_bytes(size, "big" if rng.random() < 0.5 else "little")
    return bytes(out)


def load(path: Path) -> Picture | str:
    """The picture, or the message."""
    faulthandler.dump_traceback_later(5, exit=True)
    try:
        return load_picture(path, LIMIT)
    except PictureError as error:
        return str(error).replace(str(path), "")
    finally:
        faulthandler.cancel_dump_traceback_later()


def same(one: Picture, other: Picture) -> bool:
    """Whether all pixels are equal."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("image", "alpha", "deep")]
    return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)


def complaint(path: Path, rng: np.random.Generator) -> str:
    """What is wrong with how a file is loaded; empty when nothing is."""
    first = load(path)
    # What a decoder leaves as it finds it shall not be the same the second time.
    dirt = [np.full(int(size), rng.integers(1, 255), np.uint8) for size in rng.integers(100, 10_000, 50)]
    del dirt
    second = load(path)
    if isinstance(first, str) or isinstance(second, str):
        if type(first) is not type(second):
            return "is loaded once and refused once"
        return "" if len(first) < MESSAGE and "\n" not in first else f"long message: {first!r}"
    if not same(first, second):
        return "gives other pixels the second time"
    if not first.encoded:
        return ""
    # Without a face it keeps its coded pixels.
    out = path.with_stem(f"{path.stem}_out").with_suffix(SUFFIXES[first.format])
    save_picture(first, first.image, out, first.deep, unchanged=True)
    again = load(out)
    lossy = isinstance(again, Picture) and first.format != "PNG" and stripped(first.encoded, first.format) is None
    return "" if isinstance(again, Picture) and (lossy or same(first, again)) else "is another picture when stripped"


def main(seed: int, seconds: float) -> None:
    """Works through all samples in turn until time is up."""
    warnings.simplefilter("ignore")
    files, start, count = samples(), time.monotonic(), 0
    everything = list(files.values())
    with TemporaryDirectory() as folder:
        while time.monotonic() - start < seconds:
            name = list(files)[count % len(files)]
            rng = np.random.default_rng([seed, count])
            path = Path(folder) / name
            path.write_bytes(mutated(files[name], everything, rng))
            print(f"{name} {seed} {count}", file=sys.stderr, flush=True)  # the last line names what crashed
            try:
                said = complaint(path, rng)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            if said:
                print(f"{name}, seed {seed}, file {count}: {said}", flush=True)
            count += 1
    print(f"{count} files")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
