"""Parts and shuts the lips of a portrait: people who pose smile, and hardly ever speak."""

from __future__ import annotations

import cv2
import numpy as np

# The inner edges of the lips from corner to corner, by FaceMesh number.
UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
REACH = (0.5, 1.6)  # of the mouth's width: how far above and below the skin gives way
DROP = 0.85  # of the opening that the jaw does
EMPTY = 3.0  # px: a mouth that is no wider open shows nothing that could be stretched


def part_lips(image: np.ndarray, landmarks: np.ndarray, more: float, rng: np.random.Generator) -> np.ndarray:
    """Opens a mouth by so much, dark inside and with or without teeth; or shuts it.

    Args:
        image: (S, S, 3) uint8.
        landmarks: (478, 2 or 3) x y in crop pixels.
        more: pixels by which the lips part in the middle; negative to shut them, at most by what they are open.
        rng: what the mouth looks like inside.

    Returns:
        (S, S, 3) uint8.
    """
    upper, lower = (landmarks[list(rows), :2].astype(float) for rows in (UPPER, LOWER))
    corner, across = upper[0], upper[-1] - upper[0]
    width = max(float(np.linalg.norm(across)), 1.0)
    across = across / width
    down = np.array([-across[1], across[0]])
    middle = (upper[0] + upper[-1]) / 2
    first = np.clip(np.floor(middle - 2 * width).astype(int), 0, len(image) - 1)
    last = np.clip(np.ceil(middle + 2 * width).astype(int), first + 1, len(image))
    window = slice(first[1], last[1]), slice(first[0], last[0])
    y, x = np.mgrid[window]
    offset = np.stack([x, y], axis=-1) + 0.5 - corner
    along, depth = offset @ across, offset @ down
    top, bottom = (np.interp(along, (row - corner) @ across, (row - corner) @ down) for row in (upper, lower))
    bottom = np.maximum(bottom, top)
    gap = bottom - top
    share = np.clip(along / width, 0, 1)
    add = np.maximum(more * np.sin(np.pi * share) ** 0.8, -gap)
    new_top, new_bottom = top - (1 - DROP) * add, bottom + DROP * add
    high, low = REACH[0] * width, REACH[1] * width
    above = depth - (new_top - top) * np.clip((depth - (top - high)) / np.maximum(new_top - top + high, 1e-3), 0, 1)
    left = np.maximum(bottom + low - new_bottom, 1e-3)
    below = depth - (new_bottom - bottom) * np.clip((bottom + low - depth) / left, 0, 1)
    inside = top + (depth - new_top) / np.maximum(new_bottom - new_top, 1e-3) * gap
    within = (depth >= new_top) & (depth <= new_bottom)
    source = np.where(within, inside, np.where(depth < new_top, above, below))
    # Beside the corners the cheeks follow less and less.
    beside = np.clip(np.maximum(-along, along - width) / (0.4 * width), 0, 1)
    shift = ((source - depth) * (1 - beside))[..., None] * down
    at = (np.stack([x, y], axis=-1) + shift).astype(np.float32)
    moved = cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if more > 0 and float(gap.max()) < EMPTY:
        fill = np.array([60.0, 25.0, 22.0]) * rng.uniform(0.2, 1.4) + np.zeros_like(moved, float)
        if rng.random() < 0.5:
            teeth = (depth - new_top) < rng.uniform(0.1, 0.45) * (new_bottom - new_top)
            fill[teeth] = np.array([205.0, 195.0, 180.0]) * rng.uniform(0.5, 1.1)
        alpha = cv2.GaussianBlur(within.astype(np.float32), (0, 0), 0.8)[..., None]
        moved = np.clip(alpha * cv2.GaussianBlur(fill, (0, 0), 1.0) + (1 - alpha) * moved, 0, 255).astype(np.uint8)
    out = image.copy()
    out[window] = moved
    return out
