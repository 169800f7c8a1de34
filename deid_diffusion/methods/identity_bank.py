"""Chooses who a face becomes: people who do not exist, alike in age, gender and skin tone, unlike the source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..faces.attributes import Attributes
from ..faces.task import Target
from ..messages import brief_repr
from .appearance import AppearanceGroups

# Distances that count as "one step away" when people are matched.
_STEP = {"age": 10.0, "male": 0.25, "skin_l": 8.0, "skin_a": 4.0, "skin_b": 5.0}
MATCHED = tuple(_STEP)
# Years: a step of age is that large for somebody just born, and grows to that of adults until they are this old.
YOUNGEST_STEP, GROWN_UP = 3.0, 20.0
# A target's cosine to the source stays below this. Two strangers are at 0.18 on average; one in eight people of the
# bank is above it to somebody real. A draw from the far half alone would give away on which side the source lies.
MARGIN = 0.15
OTHER_GROUP = 3.0  # squared steps, as much as the usual reach
_GROUPS = "appearance_"  # before the names of the arrays that tell it
REACH = 3.0  # the usual one, see `IdentityBank.choose`: squared steps in all


@dataclass(frozen=True, eq=False)
class IdentityBank:
    """People to become.

    Attributes:
        embedding: (N, D) float32 unit norm, in the identity encoder's space.
        shape_params: (N, P) float32, as of `Target`.
        attributes: (N, 5) float32: age, male, skin_l, skin_a, skin_b.
        appearance: (N,) number of each one's group of looks; None where nobody told.
        groups: what tells it; None without `appearance`.
    """

    embedding: np.ndarray
    shape_params: np.ndarray
    attributes: np.ndarray
    appearance: np.ndarray | None = None
    groups: AppearanceGroups | None = None
    __repr__ = brief_repr

    @classmethod
    def load(cls, path: Path) -> IdentityBank:
        """Reads `identities.safetensors`."""
        from safetensors.numpy import load_file

        arrays = {name: value.astype(np.float32) for name, value in load_file(path).items()}
        arrays["embedding"] /= np.linalg.norm(arrays["embedding"], axis=1, keepdims=True)
        told = {name.removeprefix(_GROUPS): arrays.pop(name) for name in list(arrays) if name.startswith(_GROUPS)}
        return cls(**arrays, groups=AppearanceGroups(**told) if told else None)

    def save(self, path: Path) -> None:
        """Writes half precision safetensors."""
        from safetensors.numpy import save_file

        arrays = {name: value for name, value in vars(self).items() if name != "groups" and value is not None}
        arrays |= {_GROUPS + name: value for name, value in vars(self.groups or object).items() if self.groups}
        save_file({name: np.ascontiguousarray(value, np.float16) for name, value in arrays.items()}, path)

    def only(self, numbers: Sequence[int] | np.ndarray) -> IdentityBank:
        """Some of them, in another order.

        Args:
            numbers: of those who stay.
        """
        rows: dict[str, Any] = {
            name: value[numbers] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **rows)

    def mismatch(self, wanted: Attributes, source: np.ndarray | None = None) -> np.ndarray:
        """(N,) squared steps between each of them and what is wanted.

        Args:
            wanted: age, gender and skin count, where set.
            source: (D,) unit norm, whose group of looks is wanted, too; None for any.
        """
        values = wanted.to_dict()
        distance = np.zeros(len(self.embedding))
        for column, name in enumerate(MATCHED):
            if name in values:
                step: Any = _STEP[name]
                if name == "age":  # of the younger one: no child stands in for an adult, nor the other way round
                    younger = np.minimum(self.attributes[:, column], values[name])
                    step = np.minimum(step, YOUNGEST_STEP + younger * (step - YOUNGEST_STEP) / GROWN_UP)
                steps = (self.attributes[:, column] - values[name]) / step
                if name == "skin_l":
                    # A face brought up from darker skin looks burnt, one brought down from lighter skin does not.
                    steps = np.where(steps < 0, 2 * steps, steps)
                distance += steps**2
        if source is not None and self.groups is not None:
            known = np.array([[values.get(name, np.nan) for name in MATCHED]])
            distance += OTHER_GROUP * (self.appearance != self.groups(source[None], known)[0])
        return distance

    def target(self, number: int) -> Target:
        """Whoever has this number."""
        return Target(self.embedding[number], self.shape_params[number], number)

    def choose(
        self,
        wanted: Attributes,
        source: np.ndarray,
        seed: int,
        margin: float = MARGIN,
        among: int = 32,
        reach: float = 0.0,
        exclude: Collection[int] = frozenset(),
        looks: bool = True,
    ) -> Target:
        """Draws one of the matching people who are far enough from the source, each as likely as any other.

        Args:
            wanted: age, male and skin are matched where set.
            source: (D,) embedding of the person to hide.
            seed: of the draw.
            margin: the target's cosine to the source is below this if anybody's is.
            among: the draw is from so many of the best matches at least.
            reach: and from everybody whose mismatch is at most this: squared steps in all, of `_STEP`.
            exclude: numbers that are taken, so that two faces of a picture do not become one person.
            looks: whether the source's group of looks counts, where the bank has groups.
        """
        group = self.group(wanted, source, margin, among, reach, exclude, looks)
        return self.target(int(np.random.default_rng(seed).choice(group)))

    def group(
        self,
        wanted: Attributes,
        source: np.ndarray,
        margin: float = MARGIN,
        among: int = 32,
        reach: float = 0.0,
        exclude: Collection[int] = frozenset(),
        looks: bool = True,
    ) -> list[int]:
        """Numbers of the best matching people who are far enough from the source, the best first.

        Args:
            wanted, source, margin, among, reach, exclude, looks: as of `choose`.
        """
        unit = source / max(float(np.linalg.norm(source)), 1e-12)
        distance = self.mismatch(wanted, unit if looks else None)
        similarity = self.embedding @ unit
        # Too close to the source ranks behind everybody who is not; among those, the least similar first.
        close = np.maximum(similarity - margin, 0)
        ranked = np.lexsort((distance, np.ceil(close * 20))).tolist()
        # A picture with more people than the bank shares its people: better twice the same stranger than a source.
        matched = max(among, int(((distance <= reach) & (close == 0)).sum()))
        return [n for n in ranked if n not in exclude][:matched] or ranked[:matched]
