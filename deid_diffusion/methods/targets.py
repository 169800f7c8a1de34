"""Target policies: who each face becomes, and whether a result may be used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..faces.task import FaceTask, Target
from .identity_bank import IdentityBank

MARGIN_STEP = 0.1  # cosine by which each further round wants the target further from the source


@dataclass(frozen=True, eq=False)
class _Verified:
    """Accepts what the identity encoder no longer takes for the source.

    Attributes:
        threshold: cosine to the source from which on a result is rejected.
    """

    threshold: float

    def rejection(self, task: FaceTask, similarity: float) -> str:
        """Why a result with this cosine to its source may not be used; empty when it may."""
        if similarity < self.threshold:
            return ""
        return f"too similar to the source: {similarity:.2f}, threshold {self.threshold:.2f}"


@dataclass(frozen=True, eq=False)
class FreshTargets(_Verified):
    """A new somebody of the bank for every face of every picture: the default.

    Attributes:
        bank: identities to become.
    """

    bank: IdentityBank

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """Alike in age, gender and skin, and nobody whom the encoder takes for the least bit like the source."""
        seed = task.draw_seed(attempt, candidate)
        return self.bank.choose(task.wanted, task.embedding, seed, margin=-MARGIN_STEP * attempt, exclude=set(taken))


@dataclass(frozen=True, eq=False)
class FixedTarget(_Verified):
    """The same somebody for every face, candidate and round.

    Attributes:
        target: who.
    """

    target: Target

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """That somebody."""
        return self.target
