"""The adaptive attacker: a linear map from outputs back to originals, trained on pairs of other people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deid_diffusion.evaluation.metrics import hits, score_probes

MIN_PEOPLE = 20  # a map trained on fewer than ten people says nothing about the attack


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Rank-1 hits of the same probes with and without the trained map, in the smaller galleries of the folds.

    Attributes:
        adaptive: (n,) probability of a hit in [0, 1] with the map.
        plain: the same without it.
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


def fit_ridge(source: np.ndarray, target: np.ndarray) -> LinearMap:
    """Ridge regression with the penalty of least leave-one-out error.

    Args:
        source: (n, D) what is known of each pair.
        target: (n, E) what is to be predicted.
    """
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
    """Twofold cross-validation by people: trained on pairs of one half, tested on the other half and its gallery.

    Args:
        outputs: (n, D) embeddings of outputs.
        originals: (n, D) embeddings of the same faces before.
        ids: (n,) the person of each.
        gallery: (g, D) other photos of the same people.
        gallery_ids: (g,) the person of each.
        seed: of the split.

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
        undo = fit_ridge(outputs[fit], originals[fit])
        # Centred on the training half: what all outputs have in common distinguishes nobody.
        target = gallery[known] - originals[fit].mean(axis=0)
        undone = undo(outputs[tried]) - undo.target_mean
        adaptive[tried] = hits(score_probes(undone, ids[tried], target, gallery_ids[known]), 1)
        plain[tried] = hits(score_probes(outputs[tried], ids[tried], gallery[known], gallery_ids[known]), 1)
    return AttackResult(adaptive, plain, len(people) / 2)


def standardise(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Z-scores by a reference; a feature that never varies there, or is NaN, becomes 0.

    Args:
        features: (n, F).
        reference: (m, F), gives mean and standard deviation of each feature.

    Returns:
        (n, F).
    """
    known = np.isfinite(reference).any(axis=0)
    spread, middle = np.zeros(reference.shape[1]), np.zeros(reference.shape[1])
    spread[known], middle[known] = np.nanstd(reference[:, known], axis=0), np.nanmean(reference[:, known], axis=0)
    scaled = (features - middle) / np.maximum(spread, 1e-9)
    return np.where((spread > 1e-9) & np.isfinite(scaled), scaled, 0.0)
