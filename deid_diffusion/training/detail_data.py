"""Cuts batches of patches from the pairs of `deid train detail_pairs`, spoiled as cameras spoil pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

BLUR, GRAIN, JPEG = 1.5, 8.0, (40, 95)  # most: px; levels; quality
SPOILED = 0.35  # share of patches that get each
EDGE = 8  # px: JPEG's blocks must not lie where the patch's own cells do
LEAST_MASK = 0.15  # share of a patch that is generated


@dataclass(frozen=True, eq=False)
class Patches:
    """A batch of the detail stage.

    Attributes:
        target: (B, 3, W, W) in [-1, 1], sharp.
        laid: (B, 3, W, W) the same with the base's face in it.
        mask: (B, 1, W, W) of 0 and 1, where that is.
    """

    target: torch.Tensor
    laid: torch.Tensor
    mask: torch.Tensor


class Pairs:
    """Pairs of a folder; pixels stay on disk until they are drawn."""

    def __init__(self, folder: str | Path, aligned: float = 1.0) -> None:
        """Opens them.

        Args:
            folder: as `deid train detail_pairs` writes it.
            aligned: share of the pairs that are drawn, those in which the base strayed least from the crop: values
                of detail that lies elsewhere teach nothing but to leave it out.

        Raises:
            FileNotFoundError: there are none.
        """
        tables = sorted(Path(folder).glob("pairs-????.npz"))
        if not tables:
            raise FileNotFoundError(f"{folder} must hold pairs-0000.npz ...; run `deid train detail_pairs` first")
        self.crops, self.base, self.masks = (
            [np.load(f"{path.with_suffix('')}-{name}.npy", mmap_mode="r") for path in tables]
            for name in ("crops", "base", "masks")
        )
        splits = [np.load(path)["split"] for path in tables]
        self.rows = {
            train: np.array(
                [
                    (shard, row, variant)
                    for shard, names in enumerate(splits)
                    for row in np.flatnonzero((names == "train") == train)
                    for variant in range(self.base[shard].shape[1])
                ]
            ).reshape(-1, 3)
            for train in (True, False)
        }
        if aligned < 1:
            for train, rows in self.rows.items():
                strayed = [self._strayed(*row) for row in rows]
                self.rows[train] = rows[np.argsort(strayed)[: max(round(aligned * len(rows)), min(len(rows), 1))]]

    def draw(self, count: int, window: int, generator: torch.Generator, train: bool = True) -> Patches:
        """A batch of patches, somewhere on the faces.

        Args:
            count: B.
            window: W, px, at most the crops' side.
            generator: on the CPU.
            train: from the training people, mirrored, coloured and spoiled at random; False: the hold-out as it is.

        Raises:
            ValueError: a window that is too large, or nobody in the hold-out.
        """
        rows = self.rows[train]
        side = self.crops[0].shape[1]
        if window > side or not len(rows):
            raise ValueError(
                f"wanted a window of at most {side} px and somebody to draw, got {window} and {len(rows)}"
            )
        dice = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        chosen = rows[dice.integers(0, len(rows), count)].tolist()
        drawn = [self._patch((shard, row, variant), window, dice, train) for shard, row, variant in chosen]
        target, laid, mask = (np.stack(part) for part in zip(*drawn, strict=True))

        def signed(pictures: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1

        return Patches(signed(target), signed(laid), torch.from_numpy(mask)[:, None].float())

    def _strayed(self, shard: int, row: int, variant: int) -> float:
        """Mean difference of base and crop inside the mask, in levels."""
        base = np.ascontiguousarray(self.base[shard][row, variant])
        mask = np.unpackbits(self.masks[shard][row, variant], axis=-1)
        crop = cv2.resize(
            np.ascontiguousarray(self.crops[shard][row]), base.shape[1::-1], interpolation=cv2.INTER_AREA
        )
        return float(cv2.absdiff(base, crop).mean(2)[mask > 0].mean())

    def _patch(
        self, pair: tuple[int, int, int], window: int, dice: np.random.Generator, train: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, row and variant -> (W, W, 3) target and laid, levels, and (W, W) mask."""
        shard, row, variant = pair
        side = self.crops[shard].shape[1]
        crop, base = self.crops[shard][row], self.base[shard][row, variant]
        small = np.unpackbits(self.masks[shard][row, variant], axis=-1)
        mask = cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)
        size = min(window + EDGE, side)
        for _ in range(10):
            x, y = dice.integers(0, side - size + 1, 2)
            if mask[y : y + size, x : x + size].mean() >= LEAST_MASK:
                break
        where = slice(y, y + size), slice(x, x + size)
        # The same cubic as torch's, on bytes.
        soft = cv2.resize(np.ascontiguousarray(base), (side, side), interpolation=cv2.INTER_CUBIC)[where]
        target, soft, mask = crop[where].astype(np.float32), soft.astype(np.float32), mask[where]
        if train:
            if dice.random() < 0.5:
                target, soft, mask = target[:, ::-1], soft[:, ::-1], mask[:, ::-1]
            gamma, gain = np.exp(dice.uniform(-0.25, 0.25)), np.exp(dice.uniform(-0.06, 0.06, 3))
            target, soft = (255 * (one / 255) ** gamma * gain for one in (target, soft))
            target = spoiled(np.clip(target, 0, 255), dice)
        laid = np.where(mask[..., None] > 0, np.clip(soft, 0, 255), target)
        left, top = dice.integers(0, size - window + 1, 2)
        kept = slice(top, top + window), slice(left, left + window)
        return target[kept].astype(np.float32), laid[kept].astype(np.float32), np.ascontiguousarray(mask[kept])


def spoiled(picture: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """What lenses, sensors and files do to pictures, each to some.

    Args:
        picture: (H, W, 3) levels.
        dice: says how much of it.

    Returns:
        (H, W, 3) float32, 0 to 255.
    """
    picture = np.ascontiguousarray(picture, np.float32)
    blur, grain, jpeg = dice.random(3) < SPOILED
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), dice.uniform(0.3, BLUR))
    if grain:
        noise = dice.standard_normal(picture.shape, np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), dice.uniform(0.3, 0.8))
        picture = picture + noise * dice.uniform(1, GRAIN)
    picture = np.clip(picture, 0, 255)
    if jpeg:
        how = [cv2.IMWRITE_JPEG_QUALITY, int(dice.integers(*JPEG))]
        file = cv2.imencode(".jpg", np.rint(picture).astype(np.uint8), how)[1]
        picture = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.float32)
    return picture
