"""Image quality: distance between feature distributions, background fidelity, seams, sharpness. Pure functions."""

from __future__ import annotations

import cv2
import numpy as np

CHANGED = 8  # levels of 255; below, codecs move pixels too


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """(n, D), (m, D) -> squared Frechet distance of the two Gaussians (Dowson and Landau 1982).

    Biased up when n is not much larger than D.
    """
    gap = first.mean(axis=0) - second.mean(axis=0)
    a, b = np.cov(first, rowvar=False).reshape(2 * [first.shape[1]]), np.cov(second, rowvar=False)
    b = b.reshape(a.shape)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # tr sqrt(AB) = tr sqrt(A^1/2 B A^1/2), which is symmetric and needs no complex square root.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    return max(0.0, float(gap @ gap + np.trace(a) + np.trace(b) - 2 * cross))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """(n, D), (m, D) -> unbiased squared MMD with the kernel (x y / D + 1)³ (Binkowski et al. 2018).

    0 = alike, also slightly below 0; fair at small n.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    dim = x.shape[1]
    xx, yy, xy = (x @ x.T / dim + 1) ** 3, (y @ y.T / dim + 1) ** 3, (x @ y.T / dim + 1) ** 3
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def mean_abs_difference(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> float:
    """Mean absolute difference inside a box, in 8-bit levels.

    Args:
        before, after: (H, W, 3) uint8.
        box: (4,) x0 y0 x1 y1 in pixels.

    Returns:
        Infinity when the box lies outside the picture.
    """
    rows, columns = _box_slices(box, before.shape)
    a, b = before[rows, columns], after[rows, columns]
    return float(np.abs(a.astype(np.int16) - b).mean()) if a.size else float("inf")


def squared_error(before: np.ndarray, after: np.ndarray, where: np.ndarray) -> float:
    """Mean squared difference in 8-bit levels².

    Args:
        before, after: (H, W, 3) uint8.
        where: (H, W) bool, the pixels that count.

    Returns:
        NaN when none counts.
    """
    if not where.any():
        return float("nan")
    return float(((before[where].astype(np.float32) - after[where]) ** 2).mean())


def psnr(error: float) -> float:
    """dB of a mean squared error of 8-bit levels; infinity when there is none."""
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(before: np.ndarray, after: np.ndarray, where: np.ndarray) -> float:
    """Mean structural similarity of grey levels over `where` (Wang et al. 2004, 11 px Gaussian); NaN when none.

    Windows that touch a pixel outside `where` are left out, so that a changed face does not leak into the number.

    Args:
        before, after: (H, W, 3) uint8 RGB.
        where: (H, W) bool, the pixels that count.
    """
    inside = cv2.erode(where.astype(np.uint8), np.ones((11, 11), np.uint8), borderValue=1) > 0
    if not inside.any():
        return float("nan")
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (before, after))

    def blur(p: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(p, (11, 11), 1.5)

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(score[inside].mean())


def outside(shape: tuple[int, ...], boxes: list[np.ndarray]) -> np.ndarray:
    """(H, W) bool, True where no box covers the pixel.

    Args:
        shape: (H, W, ...) of the picture.
        boxes: (4,) each, x0 y0 x1 y1 in pixels.
    """
    free = np.ones(shape[:2], dtype=bool)
    for box in boxes:
        free[_box_slices(box, shape)] = False
    return free


def seam_step(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> float:
    """Levels by which neighbours differ more than they used to, along the rim of what changed inside the (4,) box.

    0 = the rim is no rougher than the same pixels were; NaN when nothing, or everything, in the box changed.

    Args:
        before, after: (H, W, 3) uint8 RGB.
        box: (4,) x0 y0 x1 y1 in pixels.
    """
    rows, columns = _box_slices(box, before.shape)
    a, b = before[rows, columns], after[rows, columns]
    if min(a.shape[:2]) < 8:
        return float("nan")
    changed = (np.abs(a.astype(np.int16) - b).max(axis=2) > CHANGED).astype(np.uint8)
    # Fill pinholes where the new face happens to match the old one.
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    rim = cv2.morphologyEx(changed, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    if not rim.any():
        return float("nan")
    return float(_steps(b)[rim].mean() - _steps(a)[rim].mean())


def sharpness_gap(before: np.ndarray, after: np.ndarray, face_box: np.ndarray, square: np.ndarray) -> float:
    """log2 of how much detail the face lost against its surroundings: 0 as before, -1 half, +1 twice; NaN: unknown.

    Detail = mean absolute Laplacian of grey levels; the surroundings are the square without the face box.

    Args:
        before, after: (H, W, 3) uint8 RGB.
        face_box, square: (4,) x0 y0 x1 y1 in pixels.
    """
    inner = ~outside(before.shape, [face_box])
    ring = ~outside(before.shape, [square]) & ~inner
    if not inner.any() or not ring.any():
        return float("nan")
    gaps = []
    for picture in (before, after):
        detail = np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
        # Half a level: what rounding to 8 bit leaves on a flat field; keeps a blank face from minus infinity.
        gaps.append(np.log2((detail[inner].mean() + 0.5) / (detail[ring].mean() + 0.5)))
    return float(gaps[1] - gaps[0])


def _steps(picture: np.ndarray) -> np.ndarray:
    p = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    x = np.abs(np.diff(p, axis=1, prepend=p[:, :1]))
    return np.maximum(x, np.abs(np.diff(p, axis=0, prepend=p[:1])))


def _box_slices(box: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    height, width = shape[:2]
    rows = slice(int(np.clip(np.floor(y0), 0, height)), int(np.clip(np.ceil(y1), 0, height)))
    return rows, slice(int(np.clip(np.floor(x0), 0, width)), int(np.clip(np.ceil(x1), 0, width)))
