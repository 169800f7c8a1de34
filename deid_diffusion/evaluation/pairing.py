"""Pairs the files of two folders and reads them, one at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SUFFIXES = ("_anon", "-anon", "_anonymized", "_deid")  # what tools add to a name: photo.jpg -> photo_anon.jpg


@dataclass(frozen=True, eq=False)
class HashedPicture:
    """One picture and the hash by which the cache knows it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB as a viewer shows it (EXIF orientation applied).
        digest: sha256 of the file.
    """

    pixels: np.ndarray
    digest: str


def read_picture(path: Path) -> HashedPicture:
    """Reads one file.

    Raises:
        EvaluationError: not readable as a picture; the message names the file.
    """
    from PIL import Image, ImageOps

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                # Pillow clips 16 bit grey to white when it converts; scale it instead.
                upright = Image.fromarray((np.asarray(upright).astype(np.float32) / 257).astype(np.uint8))
            pixels = np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path.name} is not a readable picture: {error}") from error
    return HashedPicture(np.ascontiguousarray(pixels), hashlib.sha256(data).hexdigest())


def list_pictures(folder: Path) -> dict[str, Path]:
    """Every picture below `folder`, in order, by its key: the relative path without ending ("trip/001").

    Raises:
        EvaluationError: no such folder, no picture in it, or two files with one key (a.jpg and a.png).
    """
    found = list_files(folder, ENDINGS)
    if not found:
        raise EvaluationError(f"no picture in {folder}: need files ending in {' '.join(sorted(ENDINGS))}")
    return found


def list_files(folder: Path, endings: Collection[str]) -> dict[str, Path]:
    """Every file below `folder` that ends in one of `endings`, in order, by its key; empty where there is none.

    Args:
        folder: to be searched.
        endings: in small letters, with their dots.

    Raises:
        EvaluationError: no such folder, or two files with one key (a.jpg and a.png).
    """
    if not folder.is_dir():
        raise EvaluationError(f"need a folder of pictures or clips, got {folder}: it is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file()):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise EvaluationError(f"{found[key].name} and {path.name} have one name in {folder}: rename one of them")
        found[key] = path
    return found


def output_of(key: str, outputs: dict[str, Path]) -> Path | None:
    """The output of an original: the same name, or the name with a tool's suffix. None when missing.

    Args:
        key: of the original.
        outputs: files by their keys, see `list_pictures`.
    """
    return next((outputs[key + s] for s in ("", *SUFFIXES) if key + s in outputs), None)


def extra_outputs(originals: dict[str, Path], outputs: dict[str, Path]) -> Iterator[str]:
    """Names of outputs that belong to no original: a sign of mismatched folders.

    Args:
        originals, outputs: files by their keys, see `list_pictures`.
    """
    used = {output_of(key, outputs) for key in originals}
    return (path.name for path in outputs.values() if path not in used)


def person_of(key: str, by: str) -> str:
    """Who a picture shows.

    Args:
        key: of the picture, see `list_pictures`.
        by: "stem" for the file's name ("001"), "folder" for the folder it lies in ("ann/2": "ann").

    Raises:
        EvaluationError: by "folder" and the picture lies in none.
    """
    folder, _, stem = key.rpartition("/")
    if by == "stem":
        return stem
    if not folder:
        raise EvaluationError(f'identity by "folder" needs PERSON/PICTURE, got {key} with no folder; use "stem"')
    return folder.rpartition("/")[2]
