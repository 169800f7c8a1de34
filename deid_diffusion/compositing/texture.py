"""Gives a generated face the roughness of its source's skin, which the generator makes smoother than life.

A generator of 256 pixels leaves the finest octaves of a large photo empty, and the smooth skin that a squared error
teaches looks like wax. What is carried over are three coarse amplitudes (`faces.skin_texture`), plain as a skin tone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..faces.skin_texture import BLURS, octaves

MOST = 4.0  # levels: rougher than this is stubble, or a scene seen through a fence
# Levels, of grey. Darker skin is roughened in proportion: as many levels show more on it, and what is rough on it in
# photos are few bright pores, not the grain that noise makes of the same amplitude.
BRIGHT = 130.0
# How much lighter, and how much less saturated, than most of the face something is when it hardly passes for skin, in
# CIELab: beside a face a patch shows backdrop, where roughness is a white speckle along jaw and ears.
LIGHTER, GREYER = 15.0, 8.0


@dataclass(frozen=True, eq=False)
class Texture:
    """Noise in octaves.

    Attributes:
        octaves: (h, w, 3) float32, the finest first.
        shares: (3, 3): what power of each is to be drawn so that the octaves, which overlap, have the power wanted.
    """

    octaves: np.ndarray
    shares: np.ndarray


def draw_texture(shape: tuple[int, int], rng: np.random.Generator) -> Texture:
    """New noise.

    Args:
        shape: (h, w).
        rng: draws it.
    """
    noise = [octaves(rng.standard_normal(shape, np.float32))[n] for n in range(len(BLURS))]
    # Octaves overlap: each noise shows in the others' too, and its share of the power is taken out of theirs.
    shows = np.array([[one.var() for one in octaves(new)] for new in noise]).T
    return Texture(np.stack(noise, -1), np.linalg.inv(shows))


def add_texture(
    patch: np.ndarray,
    wanted: np.ndarray,
    inside: np.ndarray,
    rng: np.random.Generator,
    drawn: Callable[[], Texture] | None = None,
) -> np.ndarray:
    """Roughens a patch where it is smoother than its skin is to be.

    Args:
        patch: (h, w, 3) float32, 0 to 255.
        wanted: (3,) as `skin_texture` reads it.
        inside: (h, w) bool, where the patch is a face: what is darker than that gets less, and so does what is lighter
            and greyer, which is no skin.
        rng: draws the texture.
        drawn: gives the patch's texture where there is one already, as in a clip.

    Returns:
        (h, w, 3) float32.
    """
    if not wanted.any() or not inside.any():
        return patch
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    median = max(float(np.median(grey[inside])), 1.0)
    wanted = np.minimum(wanted, MOST) * min(median / BRIGHT, 1)
    have = [cv2.GaussianBlur(one * one, (0, 0), 4 * blur) for one, blur in zip(octaves(grey), BLURS, strict=True)]
    lack = [np.maximum(rough**2 - power, 0) for rough, power in zip(wanted, have, strict=True)]
    noise = draw_texture(grey.shape, rng) if drawn is None else drawn()
    power = np.tensordot(noise.shares, np.stack(lack), axes=1)
    added = sum(
        np.sqrt(np.maximum(p, 0)).astype(np.float32) * new
        for p, new in zip(power, np.moveaxis(noise.octaves, -1, 0), strict=True)
    )
    shade = cv2.GaussianBlur(grey, (0, 0), 4 * BLURS[-1]) / median
    return patch + (added * np.clip(shade, 0.2, 1) * _like_skin(patch, inside))[..., None]


def _like_skin(patch: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(h, w) in [0, 1]: 0 for what is much lighter or greyer than most of the face, as backdrop is."""
    smooth = np.clip(cv2.GaussianBlur(patch, (0, 0), 2 * BLURS[-1]) / 255, 0, 1)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)
    light, *tint = np.median(lab[inside], axis=0)
    chroma = max(float(np.hypot(*tint)), 1e-3)
    greyer = chroma - lab[..., 1:] @ (np.array(tint, np.float32) / chroma)
    far = np.maximum((lab[..., 0] - light) / LIGHTER, 0) ** 2 + np.maximum(greyer / GREYER, 0) ** 2
    return np.exp(-far / 2)
