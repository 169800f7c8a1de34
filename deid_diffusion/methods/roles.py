"""Says once for each track of a clip who it becomes, and frame by frame how that somebody is to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..faces.motion import Motion
from ..faces.scan import Scan
from ..faces.task import Target
from ..seeds import derived_seed
from ..settings import Settings
from .audition import Audition
from .sampling import as_set
from .targets import TrackTargets


@dataclass(frozen=True, eq=False)
class Role:
    """What is settled for a track.

    Attributes:
        person: of whom it is.
        target: who it becomes; None for a person to be left alone.
        motion: what of the track's attributes passes.
        embedding: (D,) float32 unit norm, of the source: the mean of the track.
        reason: for the report.
    """

    person: int
    target: Target | None
    motion: Motion
    embedding: np.ndarray
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether it is a person to be left alone."""
        return self.target is None


class Roles:
    """The roles of all tracks; each is settled when it is first asked for, from what is known by then.

    Attributes:
        settled: those so far, by the track's number.
    """

    def __init__(
        self, scan: Scan, policy: TrackTargets, settings: Settings, parts: int, audition: Audition | None = None
    ) -> None:
        """Nothing is settled yet.

        Args:
            scan: what is known of the tracks.
            policy: chooses who they become.
            settings: attributes that are set or dropped count.
            parts: of a step in which deviations pass, see `faces.motion.Motion`.
            audition: takes one of two strangers; None takes the first.
        """
        self.audition = audition
        self.scan, self.policy, self.settings, self.parts = scan, policy, settings, parts
        self.settled: dict[int, Role] = {}

    def __call__(self, track: int, people: Mapping[int, int]) -> Role | None:
        """The role of a track; None for one of which nothing could be read.

        Args:
            track: its number.
            people: the person of each track, as from `Scan.people`.
        """
        if track not in self.settled:
            embedding = self.scan.mean_embedding(track)
            if embedding is None:
                return None
            person, level = people[track], self.settings.level
            shift = level.jitter(derived_seed(self.policy.seed, person, "skin"))
            median = self.scan.median(track).shifted(shift)
            kept, reason = self.scan.verdict(track)
            wanted = as_set(median.quantize(level.coarser), self.settings)
            beside = self.scan.beside(person, people)
            pick = None if self.audition is None else partial(self.audition, person, people, wanted, embedding)
            target = None if kept else self.policy.add(track, person, wanted, embedding, beside, pick)
            self.settled[track] = Role(person, target, Motion(median, self.parts, level.coarser), embedding, reason)
        return self.settled[track]
