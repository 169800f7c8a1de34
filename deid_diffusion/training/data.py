"""Holds face crops and their labels in memory, and cuts augmented batches from them on the device."""

from __future__ import annotations

import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from deid_diffusion.faces.estimator import HAPPY
from deid_diffusion.faces.face_shape import (
    FaceShape,
    angles_from_rotation,
    fit_face_shape,
    mirror_numbers,
    read_expression,
)
from deid_diffusion.faces.skin import LIGHT_NAMES, read_light
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS

log = logging.getLogger(__name__)
# Rare sources are diverse and count more; plain studio portraits would drown them.
SOURCE_WEIGHT = {"hmdghoul": 1.0, "hatatori": 1.0, "basemax": 2.5, "leafac": 3.0, "sfhq": 4.0, "faker": 4.0}

# One crop in fifteen or fewer: drawn three times as often, or the model hardly meets them.
RARE = ("glasses", "facial_hair", "sunglasses")

# Bounds of groups that are drawn more evenly than they are frequent: children, gaping mouths and side views are rare.
BALANCED = {"age": (4, 9, 16, 30, 50, 65), "mouth_open": (0.15, 0.4), "yaw_deg": (-30, -12, 12, 30)}


@dataclass(eq=False)
class FaceSet:
    """All crops of a folder, on one device.

    Attributes:
        images: (N, 3, 256, 256) uint8.
        landmarks: (N, 478, 3) float32 crop pixels.
        attributes: (N, A) float32 in real units, columns as ATTRIBUTE_NAMES, NaN where nobody labelled it (light
            columns are read from the augmented pixels instead).
        embedding: (N, 256) float32 unit norm, the teacher's.
        expression: (N, 7) float32 probabilities.
        weight: (N,) float32, how often to draw each.
        train: (N,) bool.
        mirror: (478,) int64.
        keys: N names.
    """

    images: torch.Tensor
    landmarks: torch.Tensor
    attributes: torch.Tensor
    embedding: torch.Tensor
    expression: torch.Tensor
    weight: torch.Tensor
    train: torch.Tensor
    mirror: torch.Tensor
    shape: FaceShape
    keys: list[str]

    def draw(self, count: int, generator: torch.Generator, train: bool = True) -> torch.Tensor:
        """(B,) int64 numbers of faces, drawn by weight, with replacement.

        Args:
            count: B.
            generator: on the CPU.
            train: from the training split; False for the hold-out.
        """
        weight = self.weight.cpu() * (self.train.cpu() == train)
        return torch.multinomial(weight, count, replacement=True, generator=generator)


def load_faces(
    folder: str | Path,
    name: str = "synthetic",
    device: str | torch.device = "cpu",
    limit: int = 0,
    labels: str | Path = "",
) -> FaceSet:
    """Reads `NAME-*.tar` (crops KEY.webp) and `NAME.npz` (labels) from a folder.

    Args:
        folder: where the files are.
        name: which set of the folder.
        device: where to hold it.
        limit: keep only this many, the first; 0 for all.
        labels: npz with `key` and columns named as attributes, for those that `NAME.npz` lacks (see `label.py`).

    Raises:
        FileNotFoundError: when the folder holds no such files.
        ValueError: the tars lack a crop that the labels name, or `labels` has a column that is no attribute.
    """
    folder = Path(folder)
    tars = sorted(folder.glob(f"{name}-*.tar"))
    table = folder / f"{name}.npz"
    if not tars or not table.exists():
        raise FileNotFoundError(f"{folder} must hold {name}-00.tar ... and {name}.npz; got {len(tars)} tars")
    more = _read_more_labels(Path(labels)) if labels else {}
    columns = np.load(table)
    keys = [str(k) for k in columns["key"]]
    images = _read_crops(tars, keys[: limit or None])
    count = len(images)
    landmarks = columns["landmarks"][:count].astype(np.float32)
    split = columns["split"][:count] if "split" in columns else np.full(count, "holdout")
    train = split == "train"
    smile = columns["expression"][:count, HAPPY].astype(np.float32)
    chosen = train if train.sum() > 500 else np.ones(count, bool)
    mirror = mirror_numbers(landmarks[chosen])
    shape = fit_face_shape(landmarks[chosen].astype(np.float64), smile[chosen], mirror)
    source = columns["source"][:count]
    weight = np.array([SOURCE_WEIGHT.get(str(s), 1.0) for s in source], dtype=np.float32)
    attributes = _attributes(shape, landmarks, smile, columns["age"][:count], columns["male"][:count])
    for attribute, values in more.items():
        row = np.array([values.get(key, np.nan) for key in keys[:count]], np.float32)
        attributes[:, ATTRIBUTE_NAMES.index(attribute)] = row
        if attribute in RARE:
            weight *= 1 + 2 * np.nan_to_num(row)
    weight *= rarity(attributes)

    def put(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=device)

    return FaceSet(
        images=put(images), landmarks=put(landmarks), attributes=put(attributes),
        embedding=F.normalize(put(columns["embedding"][:count].astype(np.float32)), dim=-1),
        expression=put(columns["expression"][:count].astype(np.float32)), weight=put(weight), train=put(train),
        mirror=put(mirror), shape=shape, keys=keys[:count],
    )  # fmt: skip


def rarity(attributes: np.ndarray) -> np.ndarray:
    """How much more often each face is drawn because there are few like it.

    Args:
        attributes: (N, A) float32 in real units, NaN where nobody labelled it.

    Returns:
        (N,) float32: what would even the groups of each of `BALANCED` out, together within a quarter and 4.
    """
    weight = np.ones(len(attributes), np.float32)
    for name, bounds in BALANCED.items():
        values = attributes[:, ATTRIBUTE_NAMES.index(name)]
        group = np.where(np.isfinite(values), np.searchsorted(bounds, values), 0)
        weight *= len(values) / (len(bounds) + 1) / np.bincount(group, minlength=len(bounds) + 1).clip(1)[group]
    return np.clip(weight, 0.25, 4)


def _read_more_labels(path: Path) -> dict[str, dict[str, float]]:
    table = np.load(path)
    names = [name for name in table.files if name != "key"]
    unknown = set(names) - set(ATTRIBUTE_NAMES)
    if "key" not in table.files or unknown:
        raise ValueError(f"{path} must hold `key` and columns of {', '.join(ATTRIBUTE_NAMES)}; got {table.files}")
    return {name: dict(zip(table["key"].tolist(), table[name].tolist(), strict=True)) for name in names}


def _read_crops(tars: list[Path], keys: list[str]) -> np.ndarray:
    """(N, 3, 256, 256) uint8 in the order of the keys."""
    wanted = {key: number for number, key in enumerate(keys)}
    images = np.zeros((len(wanted), 3, 256, 256), np.uint8)
    found = 0
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                number, file = wanted.get(Path(member.name).stem), tar.extractfile(member)
                if number is None or file is None:
                    continue
                picture = Image.open(file).convert("RGB")
                images[number] = np.asarray(picture).transpose(2, 0, 1)
                found += 1
    if found != len(wanted):
        raise ValueError(f"labels name {len(wanted)} crops, the tars hold {found} of them")
    log.info("read %d crops", found)
    return images


def _attributes(
    shape: FaceShape, landmarks: np.ndarray, smile: np.ndarray, age: np.ndarray, male: np.ndarray
) -> np.ndarray:
    """(N, 478, 3) and labels (N,) -> (N, A) float32, NaN where neither says anything."""
    table = np.full((len(landmarks), len(FIELDS)), np.nan, np.float32)
    for row, face in zip(table, landmarks, strict=True):
        place = shape.locate(face)
        read = read_expression(place.unplace(face))
        read |= dict(zip(("yaw_deg", "pitch_deg", "roll_deg"), angles_from_rotation(place.rotation), strict=True))
        for name, value in read.items():
            row[ATTRIBUTE_NAMES.index(name)] = value
    table[:, ATTRIBUTE_NAMES.index("smile")] = smile
    table[:, ATTRIBUTE_NAMES.index("age")] = age
    table[:, ATTRIBUTE_NAMES.index("male")] = male
    return table


@dataclass(eq=False)
class Batch:
    """Augmented crops with their moved labels.

    Attributes:
        image: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 478, 3) pixels of the augmented crop.
        attributes: (B, A) float32 in real units.
        embedding, expression: as in FaceSet.
    """

    image: torch.Tensor
    landmarks: torch.Tensor
    attributes: torch.Tensor
    embedding: torch.Tensor
    expression: torch.Tensor


@dataclass(frozen=True)
class Jitter:
    """How far an augmented crop strays from its original; every figure is the bound of a uniform draw."""

    size: int = 256  # side of what comes out, px
    zoom: float = 0.08
    turn_deg: float = 6.0
    shift: float = 6.0  # px of the 256 px crop
    colour: float = 0.12
    degrade: float = 0.3  # share of crops that are blurred, noised or shrunk


def augmented_batch(faces: FaceSet, numbers: torch.Tensor, jitter: Jitter, generator: torch.Generator) -> Batch:
    """(B,) int64 numbers -> one augmented batch: mirrored half the time, moved, coloured, degraded."""
    device = faces.images.device
    numbers = numbers.to(device)
    count = len(numbers)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return ((torch.rand(count, *shape, generator=generator) * 2 - 1) * bound).to(device)

    image = faces.images[numbers].float() / 127.5 - 1
    landmarks = faces.landmarks[numbers].clone()
    attributes = faces.attributes[numbers].clone()
    flip = (torch.rand(count, generator=generator) < 0.5).to(device)
    image = torch.where(flip[:, None, None, None], image.flip(-1), image)
    mirrored = landmarks[:, faces.mirror] * landmarks.new_tensor([-1, 1, 1]) + landmarks.new_tensor([256, 0, 0])
    landmarks = torch.where(flip[:, None, None], mirrored, landmarks)
    sign = torch.where(flip, -1.0, 1.0)
    for name in ("yaw_deg", "roll_deg", "gaze_x"):
        attributes[:, ATTRIBUTE_NAMES.index(name)] *= sign
    angle = torch.deg2rad(uniform(jitter.turn_deg))
    zoom = torch.exp(uniform(jitter.zoom))
    image, landmarks = _move(image, landmarks, zoom, angle, uniform(jitter.shift, 2), jitter.size)
    attributes[:, ATTRIBUTE_NAMES.index("roll_deg")] += torch.rad2deg(angle)
    image = _recolour(image, uniform(jitter.colour, 3), uniform(jitter.colour, 1), uniform(jitter.colour, 1))
    light = read_light(image, landmarks[..., :2])
    for column, name in enumerate(LIGHT_NAMES):
        attributes[:, ATTRIBUTE_NAMES.index(name)] = light[:, column]
    if jitter.degrade:
        image = _degrade(image, jitter.degrade, generator)
    return Batch(image, landmarks, attributes, faces.embedding[numbers], faces.expression[numbers])


def _move(
    image: torch.Tensor,
    landmarks: torch.Tensor,
    zoom: torch.Tensor,
    angle: torch.Tensor,
    shift: torch.Tensor,
    size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity about the centre; (B, 3, 256, 256) -> (B, 3, size, size), landmarks (B, L, 3) with it.

    Args:
        image: in [-1, 1].
        landmarks: px of the 256 px crop.
        zoom: (B,) factor.
        angle: (B,) radians.
        shift: (B, 2) px of what comes out.
        size: its side, px.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    scale = zoom * size / 256
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # out from in
    moved_xy = (scale[:, None, None] * (landmarks[..., :2] - 128) @ linear.transpose(1, 2)) + size / 2 + shift[:, None]
    landmarks = torch.cat([moved_xy, landmarks[..., 2:] * scale[:, None, None]], -1)
    # affine_grid wants in-from-out, in units of half sides.
    inverse = linear.transpose(1, 2) / zoom[:, None, None]
    offset = -(inverse @ (shift / (size / 2))[..., None])
    grid = F.affine_grid(torch.cat([inverse, offset], -1), [len(image), 3, size, size], align_corners=False)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False), landmarks


def _recolour(image: torch.Tensor, gain: torch.Tensor, exposure: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1] -> the same; gain (B, 3), exposure and contrast (B, 1), in display space, 0 = none."""
    unit = (image / 2 + 0.5).clamp(0, 1)
    unit = unit ** torch.exp(exposure * 2)[..., None, None]
    unit = unit * (1 + 0.4 * gain[..., None, None])
    mean = unit.mean((1, 2, 3), keepdim=True)
    return (((unit - mean) * torch.exp(contrast)[..., None, None] + mean).clamp(0, 1)) * 2 - 1


def _degrade(image: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, S, S): a share of the crops comes from a smaller or noisier picture, or a grey one."""
    dice = torch.rand(len(image), 3, generator=generator)
    image = image.clamp(-1, 1)
    for row, (small, noise, grey) in enumerate(dice.tolist()):
        if min(small, noise, grey * 6) >= share:
            continue
        picture = image[row]
        if small < share:
            factor = 1 + 4 * (small / share) ** 2
            side = max(16, int(picture.shape[-1] / factor))
            low = F.interpolate(picture[None], size=side, mode="bilinear", antialias=True, align_corners=False)
            picture = F.interpolate(low, size=picture.shape[-1], mode="bicubic", align_corners=False)[0]
        if noise < share:
            grain = noise_like(picture, generator)
            picture = picture + grain * 0.08 * (noise / share)
        if grey < share / 6:
            picture = picture.mean(0, keepdim=True).expand(3, -1, -1)
        image[row] = picture.clamp(-1, 1)
    return image


def noise_like(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Unit normal noise of the images' shape, drawn where they are: a CPU draws it slower than a GPU trains on it.

    Args:
        images: any shape, on any device.
        generator: on the CPU; on another device it seeds one there.
    """
    if images.device != generator.device:
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator(images.device).manual_seed(seed)
    return torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
