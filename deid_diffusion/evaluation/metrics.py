"""Turns embeddings into re-identification metrics: CMC, TAR, EER, intervals. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MAX_IMPOSTORS = 2_000_000  # more pairs than that add memory and no digit; below, all pairs are used


@dataclass(frozen=True, eq=False)
class Scores:
    """How each probe fared against the gallery.

    Attributes:
        genuine: (n,) float32 cosine to the right person, the highest over that person's photos.
        greater: (n,) int, gallery people who score strictly higher than the right one.
        tied: (n,) int, other people who score exactly the same.
        impostor: (m,) float32 cosine to wrong people, all pairs or a seeded sample of them, sorted upwards.
        people: gallery size.
    """

    genuine: np.ndarray
    greater: np.ndarray
    tied: np.ndarray
    impostor: np.ndarray
    people: int


def score_probes(
    probes: np.ndarray,
    probe_ids: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    seed: int = 0,
    max_impostors: int = MAX_IMPOSTORS,
) -> Scores:
    """Compares probes with a gallery, in blocks: memory does not grow with n x g.

    Args:
        probes: (n, D) embeddings of any norm.
        probe_ids: (n,) the person of each.
        gallery: (g, D) embeddings of any norm.
        gallery_ids: (g,) the person of each.
        seed: of the impostor sample.
        max_impostors: more impostor pairs than that are sampled.

    Raises:
        ValueError: when a probe's person is not in the gallery (closed set), or nothing is there to compare.
    """
    people, owner = np.unique(np.asarray(gallery_ids), return_inverse=True)
    mine = np.searchsorted(people, probe_ids)
    if not len(probes) or not len(people) or (people[np.minimum(mine, len(people) - 1)] != probe_ids).any():
        raise ValueError(f"each probe needs its person in the gallery: {len(probes)} probes, {len(people)} people")
    order = np.argsort(owner, kind="stable")
    target = unit_norm(gallery)[order]
    starts = np.searchsorted(owner[order], np.arange(len(people)))
    source = unit_norm(probes)
    generator = np.random.default_rng(seed)
    per_probe = min(len(people) - 1, max(1, max_impostors // len(probes)))
    genuine, greater, tied, impostor = [], [], [], []
    block = int(np.clip(4_000_000 // len(target), 1, 256))
    for first in range(0, len(source), block):
        rows = slice(first, first + block)
        own = mine[rows, None]
        similarity = np.maximum.reduceat(source[rows] @ target.T, starts, axis=1)
        right = np.take_along_axis(similarity, own, axis=1)
        genuine.append(right[:, 0])
        greater.append((similarity > right).sum(axis=1))
        tied.append((similarity == right).sum(axis=1) - 1)
        # A wrong person's column: step over the own one.
        pick = np.tile(np.arange(len(people) - 1), (len(own), 1))
        if per_probe < len(people) - 1:
            pick = generator.integers(0, len(people) - 1, size=(len(own), per_probe))
        impostor.append(np.take_along_axis(similarity, pick + (pick >= own), axis=1).ravel())
    return Scores(
        np.concatenate(genuine),
        np.concatenate(greater),
        np.concatenate(tied),
        np.sort(np.concatenate(impostor)),
        len(people),
    )


def unit_norm(vectors: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, D) float32 of norm 1; a zero vector stays zero (similar to nobody)."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def expose(scores: Scores, exposed: np.ndarray) -> Scores:
    """Counts probes as found at rank 1 with similarity 1, as their source pixels are there.

    Args:
        scores: of n probes.
        exposed: (n,) bool.
    """
    return replace(
        scores,
        genuine=np.where(exposed, np.float32(1), scores.genuine),
        greater=np.where(exposed, 0, scores.greater),
        tied=np.where(exposed, 0, scores.tied),
    )


def hits(scores: Scores, k: int) -> np.ndarray:
    """(n,) probability in [0, 1] that the right person is among the first, ties broken at random.

    Args:
        scores: of n probes.
        k: how many count as the first.
    """
    return np.clip((k - scores.greater) / (scores.tied + 1), 0, 1)


def cmc(scores: Scores, max_rank: int = 50) -> np.ndarray:
    """Cumulative match characteristic: (K,) identification rate at rank 1..K, K = min(max_rank, people).

    Args:
        scores: of the probes.
        max_rank: the highest rank asked for.
    """
    return np.array([hits(scores, k).mean() for k in range(1, min(max_rank, scores.people) + 1)])


def threshold_at_far(impostor: np.ndarray, far: float) -> float | None:
    """The threshold at a false accept rate.

    Args:
        impostor: (m,) similarities, sorted upwards.
        far: false accept rate, 0..1.

    Returns:
        The similarity that at most `far` of the impostors exceed; None when m is too small to say.
    """
    allowed = int(far * len(impostor) + 1e-9)
    return float(impostor[len(impostor) - 1 - allowed]) if 1 <= allowed < len(impostor) else None


def det_curve(genuine: np.ndarray, impostor: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The detection error trade-off curve.

    Args:
        genuine: (n,) similarities.
        impostor: (m,) similarities, sorted upwards.
        points: P, how many thresholds.

    Returns:
        (P,) false accept rates, rising, and (P,) false reject rates at the same thresholds.
    """
    far = np.geomspace(1 / max(len(impostor), 2), 0.999, points)
    thresholds = np.array([np.inf if t is None else t for t in (threshold_at_far(impostor, f) for f in far)])
    return far, np.searchsorted(np.sort(genuine), thresholds, side="right") / len(genuine)


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """The rate at which false accepts equal false rejects: 0 = separated perfectly, 0.5 = chance.

    Args:
        genuine: (n,) similarities.
        impostor: (m,) similarities, sorted upwards.
    """
    genuine = np.sort(genuine)
    n, m = len(genuine), len(impostor)
    # Just at and just above each genuine score; rejects rise from 0 to 1, accepts fall.
    far_at = (m - np.searchsorted(impostor, genuine, side="left")) / m
    far_above = (m - np.searchsorted(impostor, genuine, side="right")) / m
    frr_at = np.searchsorted(genuine, genuine, side="left") / n
    frr_above = np.searchsorted(genuine, genuine, side="right") / n
    far = np.concatenate([[1.0], np.stack([far_at, far_above], axis=1).ravel()])
    frr = np.concatenate([[0.0], np.stack([frr_at, frr_above], axis=1).ravel()])
    after = int(np.argmax(frr >= far)) if (frr >= far).any() else len(far) - 1
    before = max(after - 1, 0)
    gap_before, gap_after = far[before] - frr[before], frr[after] - far[after]
    weight = gap_before / (gap_before + gap_after) if gap_before + gap_after > 0 else 0.0
    return float(frr[before] + weight * (frr[after] - frr[before]))


def bootstrap_mean(
    values: np.ndarray, ids: np.ndarray, seed: int = 0, proportion: bool = True, resamples: int = 1000
) -> tuple[float, float] | tuple[None, None]:
    """95 % bootstrap interval of a mean, resampling people and not faces; None below two people.

    Where a `proportion` is 0 or 1 for everybody, resampling sees no spread at all; then the exact binomial bound over
    people (Clopper and Pearson 1934) is given, so that 0 of 102 reads [0, 0.036] and not [0, 0].

    Args:
        values: (n,) one per face.
        ids: (n,) the person of each.
        seed: of the resampling.
        proportion: whether the values are probabilities, 0..1.
        resamples: how many.

    Returns:
        Lower and upper bound.
    """
    people, owner = np.unique(ids, return_inverse=True)
    if len(people) < 2:
        return None, None
    if proportion and (values == values[0]).all() and values[0] in (0, 1):
        bound = 1 - 0.025 ** (1 / len(people))
        return (0.0, bound) if values[0] == 0 else (1 - bound, 1.0)
    sums = np.bincount(owner, weights=values)
    counts = np.bincount(owner).astype(float)
    generator = np.random.default_rng(seed)
    means, block = [], max(1, 1_000_000 // len(people))
    for first in range(0, resamples, block):
        drawn = generator.integers(0, len(people), (min(block, resamples - first), len(people)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def bootstrap_eer(
    genuine: np.ndarray, impostor: np.ndarray, ids: np.ndarray, seed: int = 0, resamples: int = 200
) -> tuple[float, float] | tuple[None, None]:
    """95 % bootstrap interval of the EER over people. The impostors are held fixed: n people have n² such pairs.

    Args:
        genuine: (n,) similarities.
        impostor: (m,) similarities, sorted upwards.
        ids: (n,) the person of each genuine pair.
        seed: of the resampling.
        resamples: how many.
    """
    people, owner = np.unique(ids, return_inverse=True)
    if len(people) < 2:
        return None, None
    if equal_error_rate(genuine, impostor) == 0:
        return 0.0, 1 - 0.025 ** (1 / len(people))  # no error seen: the exact bound, as in `bootstrap_mean`
    order = np.argsort(owner, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    generator = np.random.default_rng(seed)
    rates = np.empty(resamples)
    for i in range(resamples):
        drawn = generator.integers(0, len(people), len(people))
        rates[i] = equal_error_rate(genuine[np.concatenate([groups[j] for j in drawn])], impostor)
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def histogram(similarity: np.ndarray, low: float, high: float, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A histogram of similarities.

    Args:
        similarity: (n,) cosines.
        low, high: its range.
        bins: how many.

    Returns:
        (bins,) bin centres, and (bins,) fraction of the similarities in each.
    """
    counts, edges = np.histogram(similarity, bins=bins, range=(low, max(high, low + 1e-6)))
    return (edges[1:] + edges[:-1]) / 2, counts / max(len(similarity), 1)
