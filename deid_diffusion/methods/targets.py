"""Target policies: who each face becomes, and whether a result may be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..faces.attributes import Attributes
from ..faces.task import FaceTask, Target
from ..seeds import derived_seed
from ..settings import Settings
from .identity_bank import MARGIN, REACH, IdentityBank
from .protocol import TargetPolicy, find_method
from .pseudonyms import PseudonymTargets

MARGIN_STEP = 0.1  # cosine by which each further round wants the target further from the source


class PersonTargets(Protocol):
    """Who a person becomes that was seen in several frames."""

    def for_person(self, wanted: Attributes, embedding: np.ndarray, seed: int, taken: Collection[int]) -> Target:
        """Somebody for this person to become.

        Args:
            wanted: age, male and skin count.
            embedding: (D,) unit norm, of the person.
            seed: of a draw.
            taken: bank numbers that other people of the clip have.
        """


def default_policy(bank: IdentityBank, threshold: float, settings: Settings, same: float) -> TargetPolicy:
    """Who becomes whom where the caller does not say: as the method wants it, else a new somebody for every face.

    Args:
        bank: identities to become.
        threshold: cosine to the source from which on a result is rejected.
        settings: of the run.
        same: cosine from which on photos of real people are taken for one person, for pseudonyms.
    """
    own = getattr(find_method(settings.method), "policy", None)
    if own is not None:
        return own(bank, threshold, settings)
    if settings.pseudonyms is not None:
        return PseudonymTargets(threshold, bank, settings.pseudonyms, same)
    return FreshTargets(threshold, bank, settings.level.reach, settings.looks)


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
        reach, looks: see `IdentityBank.choose`.
    """

    bank: IdentityBank
    reach: float = REACH
    looks: bool = True

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """Alike in age, gender and skin, and nobody whom the encoder takes for the least bit like the source."""
        seed = task.draw_seed(attempt, candidate, "target")
        margin = MARGIN - MARGIN_STEP * attempt
        return self.bank.choose(
            task.wanted, task.embedding, seed, margin, exclude=set(taken), reach=self.reach, looks=self.looks
        )

    def for_person(self, wanted: Attributes, embedding: np.ndarray, seed: int, taken: Collection[int]) -> Target:
        """Likewise, for a person of a clip."""
        return self.bank.choose(wanted, embedding, seed, exclude=set(taken), reach=self.reach, looks=self.looks)


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


@dataclass(frozen=True, eq=False)
class TrackTargets(_Verified):
    """One somebody for each person of a clip, in all of their frames, candidates and rounds.

    Attributes:
        bank: identities to become.
        seed: of the clip.
        reach: see `IdentityBank.choose`.
        of_person: who was chosen, by the person's number.
        of_track: likewise, by the track's number, which is that of the track's tasks.
        people: says who each person becomes; None draws somebody of the bank.
        looks: see `IdentityBank.choose`.
    """

    bank: IdentityBank
    seed: int = 0
    reach: float = REACH
    of_person: dict[int, Target] = field(default_factory=dict)
    of_track: dict[int, Target] = field(default_factory=dict)
    people: PersonTargets | None = None
    looks: bool = True

    def add(
        self,
        track: int,
        person: int,
        wanted: Attributes,
        embedding: np.ndarray,
        beside: Set[int] = frozenset(),
        audition: Callable[[Sequence[Target]], Target] | None = None,
    ) -> Target:
        """Chooses for a track, once.

        Args:
            track: its number.
            person: of whom it is; another track of theirs shares its target.
            wanted: age, male and skin of the track.
            embedding: (D,) unit norm, the mean of the track.
            beside: people who are seen at the same time, and so are somebody else whatever `people` takes them for.
            audition: takes one of two, where `people` draws them of the bank; without, the first is taken.
        """
        if track not in self.of_track:
            if person not in self.of_person:
                draw = derived_seed(self.seed, person, "target")
                known = self.of_person.keys() if self.people is None else beside & self.of_person.keys()
                taken = {self.of_person[one].number for one in known}
                fresh = FreshTargets(self.threshold, self.bank, self.reach, self.looks)
                people = fresh if self.people is None else self.people
                target = people.for_person(wanted, embedding, draw, taken)
                if audition is not None and isinstance(people, FreshTargets):
                    draw = derived_seed(self.seed, person, "target", 1)
                    other = people.for_person(wanted, embedding, draw, taken | {target.number})
                    target = audition((target, other))
                self.of_person[person] = target
            self.of_track[track] = self.of_person[person]
        return self.of_track[track]

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """The track's own: another one in one of its frames would be seen, and known by an attacker for one more."""
        return self.of_track[task.number]
