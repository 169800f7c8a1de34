"""Fits a generated face to its surroundings in colour, sharpness and grain, as measured beside the mask."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .steady import Steady
from .texture import Texture, add_texture

# px of a crop: what is finer is given back some contrast. Faces of the embedded model hold 0.85, 0.74, 0.6 and 0.47
# of what photos hold at 0.275, 0.325, 0.375 and 0.425 cycles a pixel (medians of 100 hold-out crops).
FINEST = 0.6
GRAIN_MOST = 5.0  # levels, standard deviation


def crispen(generated: np.ndarray, where: np.ndarray, enlarged: float = 1.0) -> np.ndarray:
    """Gives a generated crop the contrast of its finest detail, which the generator loses.

    What is lost is given back in part, for what is generated finest is least to be trusted: the gain is 1.02 at 0.15
    cycles a pixel, 1.12 at 0.25, 1.28 at 0.35 and 1.42 at 0.45.

    Args:
        generated: (S, S, 3) float32, 0 to 255.
        where: (S, S) bool, what may change.
        enlarged: how many times larger it is than it was generated.

    Returns:
        (S, S, 3) float32.
    """
    finest = FINEST * enlarged
    fine = generated - cv2.GaussianBlur(generated, (0, 0), finest)
    fine -= cv2.GaussianBlur(fine, (0, 0), finest)
    return np.where(where[..., None], generated + fine, generated)


def match_detail(
    patch: np.ndarray,
    target: np.ndarray,
    alpha: np.ndarray,
    rng: np.random.Generator,
    texture: np.ndarray | None = None,
    steady: Steady | None = None,
    drawn: Callable[[], Texture] | None = None,
) -> np.ndarray:
    """Blurs or sharpens the patch, then roughens it, until it looks taken by the same camera as what surrounds it.

    Args:
        patch: (h, w, 3) float32, the generated face in the picture's pixels.
        target: (h, w, 3) uint8, the picture there.
        alpha: (h, w) float32, weight of the patch; the surroundings are where it is 0.
        rng: draws the grain.
        texture: (3,) of the skin, as `faces.skin_texture` measures it; None = only the surroundings' grain.
        steady: of the face in a clip: what is measured is eased from frame to frame.
        drawn: its texture, see `add_texture`.
    """
    inside, outside = alpha == 1, alpha == 0
    if inside.sum() < 64 or outside.sum() < 64:
        return patch

    def eased(name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        return measure() if steady is None else steady.eased(name, measure)

    def grey() -> np.ndarray:
        # Measured on the blend, so that no source pixel of the face is read, not even by a filter's neighbourhood.
        return cv2.cvtColor(laid_on(target, patch, alpha), cv2.COLOR_RGB2GRAY)

    patch = _softened(patch, *eased("softness", lambda: _softness(grey(), inside, outside)))
    if texture is not None:
        patch = add_texture(patch, eased("texture", lambda: texture), inside, rng, drawn)
    (level,) = eased("grain", lambda: _lacking_grain(grey(), inside, outside))
    if level < 0.5:
        return patch
    noise = cv2.GaussianBlur(rng.standard_normal(alpha.shape, np.float32), (0, 0), 0.5)
    noise *= min(float(level), GRAIN_MOST) / 0.5  # 0.5: what `grain` says of it
    return patch + noise[..., None]


def _softness(grey: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(3,): the sigma by which what is inside is to be blurred, or the share and the sigma of its sharpening."""
    ours, theirs = edge_blur(grey, inside), edge_blur(grey, outside)
    if ours is not None and theirs is not None:
        if theirs > 1.15 * ours:
            most = max(0.02 * np.sqrt(inside.sum()), 0.8)
            return np.array([min(np.sqrt(theirs**2 - ours**2), most), 0.0, ours])
        if ours > 1.15 * theirs:
            # Sharpening cannot bring detail back, only contrast; beyond 0.3 eyes and jaw look drawn.
            return np.array([0.0, min(ours / theirs - 1, 0.3), ours])
    return np.array([0.0, 0.0, 1.0 if ours is None else ours])


def _softened(patch: np.ndarray, blur: float, share: float, width: float) -> np.ndarray:
    """The patch with what `_softness` says."""
    if share > 0.01:
        patch = patch + float(share) * (patch - cv2.GaussianBlur(patch, (0, 0), float(width)))
    return cv2.GaussianBlur(patch, (0, 0), float(blur)) if blur > 0.1 else patch


def _lacking_grain(grey: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(1,): standard deviation in levels of the grain that what is inside lacks."""
    have, want = grain(grey, inside), grain(grey, outside)
    return np.array([0.0 if have is None or want is None else np.sqrt(max(want**2 - have**2, 0.0))])


def laid_on(target: np.ndarray, patch: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32: the patch over the target; exactly the patch where alpha (h, w) is 1.

    Args:
        target: (h, w, 3), levels.
        patch: (h, w, 3), likewise.
        alpha: (h, w) in [0, 1].
    """
    # Not target + alpha (patch - target): that rounds, and the rounding depends on the target.
    return alpha[..., None] * patch + (1 - alpha[..., None]) * target


def grain(grey: np.ndarray, where: np.ndarray) -> float | None:
    """Standard deviation of the fine noise, in levels, among the pixels `where`; None where too few of them are flat.

    Flat: no slope under the noise, for leaves and hair are no grain; neither black nor white, where noise is clipped.

    Args:
        grey: (H, W) float, levels.
        where: (H, W) bool.
    """
    flat = where & (_slope(cv2.GaussianBlur(grey, (0, 0), 2.0)) < 0.8) & (grey > 25) & (grey < 235)
    if flat.sum() < max(100, 0.05 * where.sum()):
        return None
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.0)
    power = cv2.boxFilter(fine * fine, -1, (7, 7), borderType=cv2.BORDER_REFLECT)
    # A Gaussian of sigma 1 leaves 0.85 of white noise's standard deviation in the difference.
    return float(np.sqrt(max(np.percentile(power[flat], 10), 0))) / 0.85


def edge_blur(grey: np.ndarray, where: np.ndarray) -> float | None:
    """Blur of the sharper edges among the pixels `where`, as a Gaussian's sigma in pixels; None without clear edges.

    An edge of blur s keeps s / sqrt(s^2 + 1) of its gradient when blurred by 1 more (Zhuo and Sim 2011, eq. 5).

    Args:
        grey: (H, W) float, levels.
        where: (H, W) bool.
    """
    slope, softer = _slope(grey), _slope(cv2.GaussianBlur(grey, (0, 0), 1.0))
    values = slope[where]
    strong = where & (slope > max(np.percentile(values, 90), 6.0))
    if strong.sum() < 24:
        return None
    ratio = float(np.percentile(slope[strong] / np.maximum(softer[strong], 1e-3), 70))
    return float(np.clip(1 / np.sqrt(max(ratio**2 - 1, 1e-3)), 0.4, 12.0))


def _slope(grey: np.ndarray) -> np.ndarray:
    return cv2.magnitude(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1)) / 32
