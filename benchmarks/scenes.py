"""Makes large pictures with faces in known places: people who do not exist, pasted into textures without faces.

Every face has a size from forehead to chin in pixels, a roll, and a condition: plain, blurred, dark, occluded, or cut
by the border. Grounds are scikit-image's pictures without people, and patterns made here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

SIZES = (12, 16, 20, 28, 40, 60, 100, 200, 400)  # px from forehead to chin
ROLLS = (0, 30, 45, 60, 90, 135, 180)  # degrees, to either side
CONDITIONS = ("plain", "blurred", "dark", "occluded", "cut")
PLAIN_SHARE = 0.6
FOREHEAD, CHIN = 10, 152  # of MediaPipe's mesh
GROUNDS = ("brick", "grass", "gravel", "coffee", "rocket", "chelsea", "hubble_deep_field", "immunohistochemistry",
           "retina", "page", "text", "moon")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody to paste.

    Attributes:
        image: (S, S, 3) uint8 RGB, an upright head in the middle.
        centre: (2,) x y in pixels, halfway between forehead and chin.
        height: from forehead to chin, in pixels.
        yaw_deg: to either side, without sign.
    """

    image: np.ndarray
    centre: np.ndarray
    height: float
    yaw_deg: float


@dataclass(frozen=True)
class Placed:
    """A face in a scene: centre in pixels, height in pixels, signed roll and yaw in degrees, condition."""

    x: float
    y: float
    size: int
    roll: int
    yaw: float
    condition: str
    radius: float  # px: what of the picture is no ground


def people_of(folder: Path, count: int) -> list[Person]:
    """The first people of a folder that `deid train synthesize` made, in 512 px, one picture of each.

    Args:
        folder: with synthetic512-0000.tar ... and synthetic-0000.npz ...
        count: how many.

    Raises:
        SystemExit: there are fewer.
    """
    people: list[Person] = []
    for path in sorted(folder.glob("synthetic512-*.tar")):
        labels = np.load(folder / path.name.replace("512", "").replace(".tar", ".npz"))
        keys = {str(key): row for row, key in enumerate(labels["key"]) if not labels["second"][row]}
        with tarfile.open(path) as tar:
            for member in tar:
                if len(people) == count:
                    return people
                if (row := keys.get(Path(member.name).stem)) is None:
                    continue
                with Image.open(io.BytesIO(tar.extractfile(member).read())) as image:
                    crop = np.asarray(image.convert("RGB"))
                top, chin = 2 * labels["landmarks"][row, [FOREHEAD, CHIN], :2].astype(float)
                yaw = abs(float(labels["attributes"][row, 0]))
                people.append(Person(crop, (top + chin) / 2, float(np.hypot(*(chin - top))), yaw))
    if len(people) < count:
        raise SystemExit(f"wanted {count} people in {folder}/synthetic512-*.tar, got {len(people)}; lower --people")
    return people


def ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: patches of pictures without people and of patterns, at scales of their own."""
    picture = np.zeros((height, width, 3), np.uint8)
    step = int(max(width, height) / 4) + 1
    for y in range(0, height, step):
        for x in range(0, width, step):
            patch = _pattern(rng, step) if rng.uniform() < 0.4 else _photo(rng, step)
            picture[y : y + step, x : x + step] = patch[: height - y, : width - x]
    return picture


def _photo(rng: np.random.Generator, side: int) -> np.ndarray:
    image = getattr(data, str(rng.choice(GROUNDS)))()
    image = np.dstack([image] * 3) if image.ndim == 2 else image[..., :3]
    part = min(image.shape[:2])
    part = int(part * rng.uniform(0.5, 1))
    y, x = (int(rng.integers(0, length - part + 1)) for length in image.shape[:2])
    return cv2.resize(image[y : y + part, x : x + part], (side, side), interpolation=cv2.INTER_LINEAR)


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    """Clouds of noise, or discs and bars in the colours of skin and cloth."""
    low, high = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
    image = np.zeros((side, side, 3), np.float32)
    for cells in (3, 12, 50, 200):
        noise = rng.uniform(0, 1, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    image = (image - image.min()) / (image.max() - image.min()) * (high - low) + low
    if rng.uniform() < 0.5:
        for _ in range(60):
            centre = rng.integers(0, side, 2).tolist()
            colour = (rng.uniform(60, 240) * np.array([1, rng.uniform(0.6, 1), rng.uniform(0.4, 1)])).tolist()
            axes = rng.integers(4, side // 12 + 5, 2).tolist()
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return np.clip(image, 0, 255).astype(np.uint8)


def scene(
    rng: np.random.Generator,
    people: Sequence[Person],
    megapixels: float,
    count: int = 10_000,
    sizes: Sequence[int] = SIZES,
    rolls: Sequence[int] = ROLLS,
    conditions: Sequence[str] = CONDITIONS,
) -> tuple[np.ndarray, list[Placed]]:
    """A picture of 4 : 3 with faces in free places.

    Args:
        rng: the same state gives the same scene.
        people: to choose from.
        megapixels: of the picture.
        count: of the faces; fewer where there is no place left.
        sizes: from forehead to chin in pixels; those that fit into a third of the height are drawn evenly.
        rolls: degrees, drawn evenly, to either side.
        conditions: "plain" for `PLAIN_SHARE` of the faces, where it is one of them, else evenly.

    Returns:
        (H, W, 3) uint8 RGB, and where the faces are.
    """
    width, height = (int(np.sqrt(megapixels * 1e6 * share)) for share in (4 / 3, 3 / 4))
    picture, placed, failed = ground(rng, width, height), [], 0
    sizes = [size for size in sizes if size <= height / 3]
    while len(placed) < count and failed < 40:
        size, roll = int(rng.choice(sizes)), int(rng.choice(rolls)) * int(rng.choice([-1, 1]))
        others = [condition for condition in conditions if condition != "plain"]
        plain = "plain" in conditions and (not others or rng.uniform() < PLAIN_SHARE)
        condition = "plain" if plain else str(rng.choice(others))
        radius = 0.74 * size
        spot = _spot(rng, width, height, radius, condition, placed)
        if spot is None:
            failed += 1
            continue
        person = people[int(rng.integers(len(people)))]
        _paste(rng, picture, person, spot, size, roll, condition)
        placed.append(Placed(*spot, size, roll, person.yaw_deg, condition, radius))
    return picture, placed


def _spot(rng, width, height, radius, condition, placed) -> tuple[float, float] | None:
    for _ in range(60):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if condition == "cut":  # a fifth to two fifths of the face are beyond the border
            beyond = radius / 0.74 * rng.uniform(0.1, 0.3)
            x, y = [(beyond, y), (width - beyond, y), (x, beyond), (x, height - beyond)][int(rng.integers(4))]
        if all(np.hypot(x - one.x, y - one.y) > radius + one.radius + 4 for one in placed):
            return float(x), float(y)
    return None


def _paste(rng, picture, person: Person, spot, size, roll, condition) -> None:
    scale = size / person.height
    image = person.image
    if condition == "occluded":
        image = _occluded(rng, person)
    half = int(np.ceil(0.74 * size)) + 2
    small = min(1.0, 1.3 * scale)
    image = cv2.resize(image, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    turn = np.radians(roll)
    linear = (
        scale
        / (len(image) / len(person.image))
        * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    )
    x0, y0 = int(spot[0]) - half, int(spot[1]) - half
    shift = np.array(spot) - [x0, y0] - linear @ (person.centre * len(image) / len(person.image))
    matrix = np.c_[linear, shift + linear @ [0.5, 0.5] - 0.5]
    cut = cv2.warpAffine(
        image, matrix, (2 * half, 2 * half), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    cut = cut.astype(np.float32)
    if condition == "blurred":
        cut = cv2.GaussianBlur(cut, (0, 0), 0.5 + 0.035 * size)
    if condition == "dark":
        cut = cut * rng.uniform(0.12, 0.3) + rng.normal(0, 3, cut.shape)
    rows, columns = np.mgrid[0 : 2 * half, 0 : 2 * half] + 0.5
    distance = np.hypot(columns + x0 - spot[0], rows + y0 - spot[1]) / size
    alpha = np.clip((0.74 - distance) / 0.08, 0, 1)[..., None].astype(np.float32)
    low = np.maximum([y0, x0], 0)
    high = np.minimum([y0 + 2 * half, x0 + 2 * half], picture.shape[:2])
    part = (slice(low[0], high[0]), slice(low[1], high[1]))
    inner = (slice(low[0] - y0, high[0] - y0), slice(low[1] - x0, high[1] - x0))
    mixed = cut[inner] * alpha[inner] + picture[part] * (1 - alpha[inner])
    picture[part] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _occluded(rng: np.random.Generator, person: Person) -> np.ndarray:
    """A mask over mouth and nose, a bar over the eyes, or something before one side of the face."""
    image, colour = person.image.copy(), rng.integers(0, 255, 3).tolist()
    (x, y), half = person.centre, person.height / 2
    low, high = [
        ((x - half, y + 0.15 * half), (x + half, y + 1.1 * half)),
        ((x - 0.8 * half, y - 0.45 * half), (x + 0.8 * half, y)),
        ((x - 1.2 * half, y - 1.2 * half), (x - 0.1 * half, y + 1.2 * half)),
    ][int(rng.integers(3))]
    cv2.rectangle(image, [int(v) for v in low], [int(v) for v in high], colour, -1, cv2.LINE_AA)
    return image
