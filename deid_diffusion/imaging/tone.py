"""Shows PQ (SMPTE ST 2084) as a standard picture, and brings what was painted there back to its brightness.

One curve for each of red, green and blue, which can be undone: what is not painted keeps its samples. HLG needs none,
as its signal is made to be looked at on a standard display.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PQ = 16  # H.273 code of the transfer
WHITE = 203.0  # cd/m2: white of ITU-R BT.2408
PEAK = 1000.0  # cd/m2: what is brighter looks like this
LEVELS = 1024  # in which the signal is told
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


@lru_cache(maxsize=1)
def standard_from_pq() -> np.ndarray:
    """(LEVELS,) uint8: the standard level of each PQ level.

    Extended Reinhard (Reinhard et al. 2002, eq. 4) of the luminance over white, then a gamma of 2.2.
    """
    signal = np.arange(LEVELS) / (LEVELS - 1)
    root = signal ** (1 / _M2)
    luminance = 10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)
    light, peak = np.minimum(luminance, PEAK) / WHITE, PEAK / WHITE
    seen = light * (1 + light / peak**2) / (1 + light)
    return np.rint(255 * np.clip(seen, 0, 1) ** (1 / 2.2)).astype(np.uint8)


@lru_cache(maxsize=1)
def pq_from_standard() -> np.ndarray:
    """(256,) float32: the PQ signal, 0 to 255, of each standard level; the middle of those that look like it."""
    seen = standard_from_pq()
    levels, counts = np.unique(seen, return_counts=True)
    last = np.cumsum(counts) - 1
    middle = last - (counts - 1) / 2
    # Everything beyond the peak looks like white; what is painted white has the least of it.
    middle[-1] = last[-1] - counts[-1] + 1
    return (np.interp(np.arange(256), levels, middle) * 255 / (LEVELS - 1)).astype(np.float32)
