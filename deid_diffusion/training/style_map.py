"""Reads a style without painting it: linear maps between styles and what portraits of them were measured to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGES = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # in people: how many average ones a regression is held back by
# Standard deviations of natural styles, along what is measured. Portraits from further out are broken.
NATURAL = 2.2


@dataclass(frozen=True, eq=False)
class StyleMap:
    """Regression of measures on styles, and the moves that change one measure and no other.

    Attributes:
        mean: (D,) style of the average person.
        slope: (D, M), of measures on styles.
        level: (M,), the measures at `mean`.
        deviation: (M,), of what the styles do not say.
        natural: (M,), deviation of what they say, among natural styles.
        moves: (M, D), the most likely change of a style with one more unit of a measure, all others staying.
    """

    mean: np.ndarray
    slope: np.ndarray
    level: np.ndarray
    deviation: np.ndarray
    natural: np.ndarray
    moves: np.ndarray

    @classmethod
    def fit(cls, styles: np.ndarray, measured: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> StyleMap:
        """Ridge regression in whitened styles; how stiff, is chosen for each measure by leaving people out.

        Args:
            styles: (N, D) of people who were painted.
            measured: (N, M) what they turned out to be.
            mean, spread: (D,) and (D, D) covariance of natural styles.
        """
        variance, axes = np.linalg.eigh(spread.astype(np.float64))
        whiten = axes / np.sqrt(np.maximum(variance, 1e-3 * variance.mean()))
        x = (styles - mean) @ whiten
        centre, scale, shift = measured.mean(0), measured.std(0) + 1e-6, x.mean(0)
        slope, error = _ridge(x - shift, (measured - centre) / scale)
        # Least norm in whitened styles is most likely; a little is added lest like measures cancel each other.
        moves = np.linalg.solve(slope.T @ slope + 1e-3 * np.eye(len(scale)), slope.T) / scale[:, None]
        return cls(
            mean, whiten @ slope * scale, centre - shift @ slope * scale, error * scale,
            np.linalg.norm(slope, axis=0) * scale + 1e-6, moves @ np.linalg.pinv(whiten),
        )  # fmt: skip

    def read(self, styles: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, M) expected measures."""
        return self.level + (styles - self.mean) @ self.slope

    def excess(self, styles: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,): 0 within `NATURAL` deviations of the average person, then the sum of squares beyond."""
        far = np.abs(self.read(styles) - self.level) / self.natural
        return (np.maximum(far - NATURAL, 0) ** 2).sum(1)

    def move(self, styles: np.ndarray, changes: np.ndarray) -> np.ndarray:
        """(N, D), (N, M) changes in units of the measures -> (N, D)."""
        return styles + changes @ self.moves


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D), (N, M), all of mean 0 -> (D, M) slopes, (M,) root of the mean square error on people left out."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    aligned = u.T @ y
    best, least = np.zeros((x.shape[1], y.shape[1])), np.full(y.shape[1], np.inf)
    for ridge in RIDGES:
        kept = s**2 / (s**2 + ridge)
        # Leverages make errors those of people who were not fitted (Allen 1974, PRESS); the mean is fitted, too.
        leverage = u**2 @ kept + 1 / len(x)
        error = (y - u @ (kept[:, None] * aligned)) / np.maximum(1 - leverage, 0.05)[:, None]
        error = np.sqrt((error**2).mean(0))
        slope = vt.T @ ((s / (s**2 + ridge))[:, None] * aligned)
        best, least = np.where(error < least, slope, best), np.minimum(error, least)
    return best, least
