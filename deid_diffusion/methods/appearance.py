"""Tells coarse groups of looks apart, so that a crowd keeps its composition and faces go with their hair.

Eight groups of the identity encoder's embeddings, of what age, gender and skin tone do not explain: three bits of a
face. They say nothing by name; who is alike to the encoder lies in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUPS = 8


@dataclass(frozen=True, eq=False)
class AppearanceGroups:
    """What a group is.

    Attributes:
        effects: (1 + 2K, D) float32: what an embedding is expected to be, from 1, K attributes and their squares.
        level, spread: (K,) float32, mean and standard deviation of the attributes.
        centres: (G, D) float32, of what is left of the embeddings of each group.
    """

    effects: np.ndarray
    level: np.ndarray
    spread: np.ndarray
    centres: np.ndarray

    @classmethod
    def fit(
        cls, embedding: np.ndarray, attributes: np.ndarray, groups: int = GROUPS, seed: int = 0
    ) -> AppearanceGroups:
        """Fits them to many people, by least squares and k-means (Lloyd 1982, from k-means++).

        Args:
            embedding: (N, D) unit norm.
            attributes: (N, K), all known.
            groups: G.
            seed: of the first centres.
        """
        from scipy.cluster.vq import kmeans2

        level, spread = attributes.mean(0), np.maximum(attributes.std(0), 1e-6)
        known = _terms((attributes - level) / spread)
        effects = np.linalg.lstsq(known, embedding, rcond=None)[0]
        centres = kmeans2(embedding - known @ effects, groups, minit="++", iter=50, seed=seed)[0]
        return cls(*(array.astype(np.float32) for array in (effects, level, spread, centres)))

    def __call__(self, embedding: np.ndarray, attributes: np.ndarray) -> np.ndarray:
        """(N,) int64: which group each belongs to.

        Args:
            embedding: (N, D) unit norm.
            attributes: (N, K); one that is not known, NaN, is taken for the average.
        """
        known = _terms(np.nan_to_num((attributes - self.level) / self.spread))
        rest = embedding - known @ self.effects
        return ((rest[:, None] - self.centres) ** 2).sum(-1).argmin(1)


def _terms(standard: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(standard), 1)), standard, standard**2], axis=1)
