"""Says who is needed: shares that a training set is to have, and how far off it still is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

# A group counts as this many people from the start, so that the first few do not decide alone.
PRIOR = 20.0
# Natural logarithm: no group is missed, or too full, by more than this factor. The rarest would be all that is sought.
MOST = np.log(6.0)


@dataclass(frozen=True)
class Trait:
    """One measure, cut into groups, and the share that each is to have.

    Attributes:
        name: of the measure (`face_labels.MEASURED`).
        edges: E increasing values that part the groups.
        groups: E + 1 names.
        shares: E + 1 positive numbers, 1 together.
    """

    name: str
    edges: tuple[float, ...]
    groups: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.edges))
        if not rising or not len(self.groups) == len(self.shares) == len(self.edges) + 1:
            raise ValueError(f"{self.name}: wanted E rising edges, E + 1 groups and shares, got {self}")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"{self.name}: shares must be above 0 and 1 together, got {self.shares}")


def _years(*ages: float) -> tuple[float, ...]:
    return tuple(float(np.log(age + 5)) for age in ages)


# Skin tones by the individual typology angle, as lit (Chardon et al. 1991).
TRAITS = (
    Trait(
        "log_age", _years(4, 13, 20, 35, 50, 65), ("0-3", "4-12", "13-19", "20-34", "35-49", "50-64", "65+"),
        (0.05, 0.12, 0.11, 0.24, 0.2, 0.14, 0.14),
    ),
    Trait("male", (0.5,), ("feminine", "masculine"), (0.5, 0.5)),
    Trait(
        "ita_deg", (-30.0, 10.0, 28.0, 41.0, 55.0), ("dark", "brown", "tan", "intermediate", "light", "very light"),
        (0.16, 0.18, 0.18, 0.17, 0.16, 0.15),
    ),
    Trait("glasses", (0.5,), ("bare", "glasses"), (0.76, 0.24)),
    Trait("lens_shade", (0.38,), ("eyes seen", "sunglasses"), (0.93, 0.07)),
    Trait("facial_hair", (0.5,), ("shaven", "beard"), (0.82, 0.18)),
    Trait(
        "yaw_deg", (-30.0, -12.0, 12.0, 30.0), ("far left", "left", "ahead", "right", "far right"),
        (0.13, 0.21, 0.32, 0.21, 0.13),
    ),
    Trait("mouth_open", (0.3,), ("closed", "open"), (0.8, 0.2)),
)  # fmt: skip


@dataclass(eq=False)
class Quotas:
    """How many of each group there are, and what that asks for.

    Attributes:
        traits: what is counted.
        counts: for each trait (G,) float64.
    """

    traits: Sequence[Trait] = TRAITS
    counts: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [np.zeros(len(trait.groups)) for trait in self.traits]

    def copy(self) -> Quotas:
        """One of its own counts: what is counted there does not count here."""
        return Quotas(self.traits, [count.copy() for count in self.counts])

    def groups(self, measured: np.ndarray) -> np.ndarray:
        """(N, T) measures, a column for each trait -> (N, T) int64 groups."""
        columns = [np.searchsorted(trait.edges, measured[:, n], "right") for n, trait in enumerate(self.traits)]
        return np.stack(columns, 1)

    def chances(self, mean: np.ndarray, deviation: np.ndarray) -> list[np.ndarray]:
        """(N, T) expected measures, (T,) their normal errors -> for each trait (N, G) chances of its groups."""
        out = []
        for n, trait in enumerate(self.traits):
            below = ndtr((np.array(trait.edges) - mean[:, n, None]) / max(float(deviation[n]), 1e-6))
            out.append(np.diff(below, axis=1, prepend=0.0, append=1.0))
        return out

    def need(self, chances: Sequence[np.ndarray]) -> np.ndarray:
        """For each trait (N, G) chances -> (N,): above 0 for people of whom there are too few, below for the rest."""
        return sum(chance @ wanted for chance, wanted in zip(chances, self._wanted(), strict=True))

    def need_of(self, group: np.ndarray) -> float:
        """(T,) groups of somebody -> as `need`."""
        return float(sum(wanted[number] for wanted, number in zip(self._wanted(), group, strict=True)))

    def count(self, group: np.ndarray) -> None:
        """One more with these (T,) groups."""
        for counts, number in zip(self.counts, group, strict=True):
            counts[number] += 1

    def expect(self, chances: Sequence[np.ndarray], row: int) -> None:
        """One more who is only expected: of each group, as much as its chance.

        Args:
            chances: for each trait (N, G), as from `chances`.
            row: of the person, 0 to N - 1.
        """
        for counts, chance in zip(self.counts, chances, strict=True):
            counts += chance[row]

    def _wanted(self) -> list[np.ndarray]:
        """For each trait (G,): log of the share that is wanted over the share that is there."""
        out = []
        for trait, counts in zip(self.traits, self.counts, strict=True):
            shares = np.array(trait.shares)
            there = (counts + PRIOR * shares) / (counts.sum() + PRIOR)
            out.append(np.clip(np.log(shares / there), -MOST, MOST))
        return out
