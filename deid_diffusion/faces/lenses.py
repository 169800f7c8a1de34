"""Tells sunglasses from eyes that are seen, by how dark what lies before the eyes is."""

from __future__ import annotations

import numpy as np
import torch

from .skin import lab_from_rgb

# Lenses: the lighter quarter of the eye region is darker than this share of the skin (L*). Mirrors are not told so.
DARK_LENS = 0.62
# Eyes in the shade of a brow or a cap can be as dark, but not as dark as DEEP unless TRACE of glasses is read. Among
# those kept of 1,200 attempts it tells all 17 with dark lenses, as an eye sees them, from 6 with eyes in the shade.
TRACE, DEEP = 0.4, 0.55


def lens_shade(small: np.ndarray, landmarks: np.ndarray, skin_l: float) -> float:
    """How dark what lies before the eyes is: about 0.1 for bare eyes and clear glasses, above 0.38 for sunglasses.

    Args:
        small: (S, S, 3) uint8 RGB, an upright crop.
        landmarks: (478, 3) px of it.
        skin_l: CIELab L* of the skin.

    Returns:
        1 less the upper quartile of L* there, as a share of the skin's; 0 if it is lighter than the skin.
    """
    eyes = []
    for corners in ((33, 133), (362, 263)):
        outer, inner = landmarks[list(corners), :2]
        wide = max(float(np.linalg.norm(outer - inner)), 4.0)  # in profile the far eye has no width left
        eyes.append(((outer + inner) / 2 + [0, 0.1 * wide], np.array([0.75, 0.5]) * wide))
    low = np.clip(np.floor(np.min([at - reach for at, reach in eyes], axis=0)).astype(int), 0, len(small))
    high = np.clip(np.ceil(np.max([at + reach for at, reach in eyes], axis=0)).astype(int), 0, len(small))
    if (high <= low).any():
        return 0.0
    window = torch.from_numpy(np.ascontiguousarray(small[low[1] : high[1], low[0] : high[0]]))
    light = lab_from_rgb(window.permute(2, 0, 1)[None].float() / 255)[0, 0].numpy()
    pixels = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), axis=-1) + 0.5
    inside = np.any([(((pixels - at) / reach) ** 2).sum(-1) < 1 for at, reach in eyes], axis=0)
    if not inside.any():
        return 0.0
    return float(np.clip(1 - np.percentile(light[inside], 75) / max(skin_l, 1.0), 0, 1))


def has_dark_lenses(shade: float, glasses: float) -> bool:
    """Whether somebody wears sunglasses.

    Args:
        shade: of `lens_shade`.
        glasses: probability of glasses of any kind.
    """
    return shade > 1 - DARK_LENS and (glasses > TRACE or shade > DEEP)
