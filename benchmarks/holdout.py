"""Unpacks held-out crops into a folder of originals, and makes other views of them for a gallery.

    python benchmarks/holdout.py faces/ --out holdout/ --people 100
    deid compare holdout/originals --gallery holdout/views --gallery-kind views -o cmp/

Where the labels are those of `deid train synthesize`, `groups.csv` says who belongs to which group, for
`deid eval --groups`, and the originals are the crops of 512 px.

A synthetic person has one picture. Its views are that picture mirrored, turned, rescaled, relit and saved anew: not
other photos. They make it easier for an attacker, so what re-identification they show is an upper bound.
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from deid_diffusion.training.quotas import TRAITS, Quotas

LARGE = "512"  # of the names of the files with crops of 512 px


def held_out(folder: Path, name: str, people: int, large: bool = False) -> dict[str, np.ndarray]:
    """The first crops that no network was trained on: key -> (S, S, 3) uint8 RGB, of 256 px or of 512."""
    labels = np.load(folder / f"{name}.npz")
    keys = [str(key) for key, split in zip(labels["key"], labels["split"], strict=True) if split == "holdout"]
    if len(keys) < people:
        raise SystemExit(f"wanted {people} held-out crops in {folder / name}.npz, got {len(keys)}; lower --people")
    wanted, crops = set(keys[:people]), {}
    name += LARGE if large else ""
    for path in sorted(folder.glob(f"{name}-*.tar")):
        if len(crops) == people:
            break
        with tarfile.open(path) as tar:
            for member in tar:
                key = Path(member.name).stem
                if key in wanted:
                    with Image.open(io.BytesIO(tar.extractfile(member).read())) as image:
                        crops[key] = np.asarray(image.convert("RGB"))
    if missing := sorted(wanted - crops.keys()):
        raise SystemExit(f"wanted {missing[0]}.webp in {folder / name}-*.tar, found none; are all files there?")
    return crops


def write_groups(folder: Path, name: str, keys: Sequence[str], path: Path) -> bool:
    """Says who of them belongs to which group, by the labels; False where those do not say it."""
    labels = np.load(folder / f"{name}.npz")
    if "measured" not in labels:
        return False
    groups = Quotas(TRAITS).groups(labels["measured"])
    row_of = {str(key): row for row, key in enumerate(labels["key"])}
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["person", *(trait.name for trait in TRAITS)])
        for key in keys:
            table.writerow([key, *(t.groups[n] for t, n in zip(TRAITS, groups[row_of[key]], strict=True))])
    return True


def view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8: the mirror image, turned by 3 to 8 degrees, up to 8 % larger or smaller, shifted by up to 3 %
    of the side, under light of another strength, colour and direction."""
    size = len(crop)
    turn = rng.uniform(3, 8) * rng.choice([-1, 1])
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), turn, rng.uniform(0.92, 1.08))
    matrix[:, 2] += rng.uniform(-0.03, 0.03, 2) * size
    seen = cv2.warpAffine(
        crop[:, ::-1], matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    linear = (seen / 255.0) ** (2.2 * rng.uniform(0.85, 1.15))
    across = np.linspace(-1, 1, size)
    slope = 1 + rng.uniform(-0.3, 0.3) * across[None, :, None] + rng.uniform(-0.3, 0.3) * across[:, None, None]
    linear = linear * slope * rng.uniform(0.8, 1.2) * rng.uniform(0.94, 1.06, 3)
    return np.rint(np.clip(linear, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path, help="folder with NAME-00.tar ... and NAME.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for originals/ and views/")
    parser.add_argument("--name", default="synthetic", help="which set of the folder (synthetic)")
    parser.add_argument("--people", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the views (0)")
    options = parser.parse_args()
    large = any(options.faces.glob(f"{options.name}{LARGE}-*.tar"))
    crops = held_out(options.faces, options.name, options.people, large)
    for kind in ("originals", "views"):
        (options.out / kind).mkdir(parents=True, exist_ok=True)
    for number, (key, crop) in enumerate(crops.items()):
        Image.fromarray(crop).save(options.out / "originals" / f"{key}.png")
        seen = Image.fromarray(view(crop, np.random.default_rng([options.seed, number])))
        seen.save(options.out / "views" / f"{key}.jpg", quality=75)
    if write_groups(options.faces, options.name, list(crops), options.out / "groups.csv"):
        print(f"their groups in {options.out / 'groups.csv'}")
    print(f"{len(crops)} people in {options.out / 'originals'} and {options.out / 'views'}")


if __name__ == "__main__":
    main()
