"""Attackers who learn: a linear map from outputs back to people, fit on some and tried on others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deid_diffusion.evaluation.metrics import hits, score_probes

MIN_PEOPLE = 20  # a map fit on fewer than ten people says nothing about the attack


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Rank-1 hits of the same probes with and without the learned map, in the smaller galleries of the folds.

    Attributes:
        adaptive, plain: (n,) probability of a hit in [0, 1].
        people: mean gallery size of a fold: chance is 1 / people.
    """

    adaptive: np.ndarray
    plain: np.ndarray
    people: float


@dataclass(frozen=True, eq=False)
class LinearMap:
    """`target = (source - source_mean) @ weight + target_mean`, ridge regression."""

    weight: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray

    def __call__(self, source: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, E)."""
        return (source - self.source_mean) @ self.weight + self.target_mean


def fit_linear_map(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """Ridge map from (n, D) to (n, E); its strength is the one with the least leave-one-out error."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    x, y = (source - source_mean).astype(np.float64), (target - target_mean).astype(np.float64)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    uy = u.T @ y
    best = (np.inf, np.zeros_like(s))
    for strength in np.geomspace(1e-4, 1e2, 13) * max(float((s**2).mean()), 1e-12):
        shrink = s**2 / (s**2 + strength)
        leverage = np.minimum((u**2) @ shrink + 1 / len(x), 1 - 1e-6)
        error = float((((y - u @ (shrink[:, None] * uy)) / (1 - leverage)[:, None]) ** 2).sum())
        if error < best[0]:
            best = (error, s / (s**2 + strength))
    return LinearMap((vt.T * best[1]) @ uy, source_mean, target_mean)


def linear_attack(
    outputs: np.ndarray,
    originals: np.ndarray,
    ids: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    seed: int = 0,
) -> AttackResult:
    """Fits on pairs of half of the people, tries on the other half against that half's gallery, then swaps.

    Args:
        outputs, originals: (n, D) what the judge says of each output and of the same face before.
        ids, gallery: (n,) the person of each; (g, D) other photos of the same people, named by `gallery_ids` (g,).

    Raises:
        ValueError: below `MIN_PEOPLE` people.
    """
    people = np.unique(ids)
    if len(people) < MIN_PEOPLE:
        raise ValueError(f"needs at least {MIN_PEOPLE} people, got {len(people)}")
    shuffled = np.random.default_rng(seed).permutation(people)
    halves = (shuffled[: len(people) // 2], shuffled[len(people) // 2 :])
    adaptive, plain = np.zeros(len(ids)), np.zeros(len(ids))
    for train, test in (halves, halves[::-1]):
        fit, tried, known = np.isin(ids, train), np.isin(ids, test), np.isin(gallery_ids, test)
        undo = fit_linear_map(outputs[fit], originals[fit])
        # Centred on the training half: what all outputs share tells nobody apart.
        target = gallery[known] - originals[fit].mean(axis=0)
        undone = undo(outputs[tried]) - undo.target_mean
        adaptive[tried] = hits(score_probes(undone, ids[tried], target, gallery_ids[known]), 1)
        plain[tried] = hits(score_probes(outputs[tried], ids[tried], gallery[known], gallery_ids[known]), 1)
    return AttackResult(adaptive, plain, len(people) / 2)


def standardise(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, F) features in units of the (m, F) reference's spread; what never varies, or is NaN, becomes 0."""
    known = np.isfinite(reference).any(axis=0)
    spread, middle = np.zeros(reference.shape[1]), np.zeros(reference.shape[1])
    spread[known], middle[known] = np.nanstd(reference[:, known], axis=0), np.nanmean(reference[:, known], axis=0)
    scaled = (features - middle) / np.maximum(spread, 1e-9)
    return np.where((spread > 1e-9) & np.isfinite(scaled), scaled, 0.0)
