"""Tells reference people from strangers: whose faces `Settings.keep` and `Settings.only` leave as they are.

A face is compared with every reference photo, and its best similarity counts. How many strangers may reach a threshold
is fixed, so with R photos each gets 1 / R of that rate (Bonferroni). Rates come from photos of 75 real people, years
apart (`benchmarks/references.py`): how often two strangers reach a similarity s falls as (1 - s) ** power near 1 (Hill
1975, with the end of the tail at 1: nothing is safe for being beyond what was seen).

`keep` leaves a face that hardly any stranger comes close to; `only` leaves one that is less like every reference than
99 of 100 photos of the same person are. What lies between, or cannot be compared, is hidden. The shipped recogniser is
weak, so both hide far more than is asked. Measured on 76 other members of Congress (photos years apart) and 102
Londoners (one session, whose strangers look most alike), 20,000 trials each. The tails were fitted without them;
`FEWEST` was set after seeing London, so its figures for few photos are no test of it:

| | Congress | London |
|---|---|---|
| keep, 1, 20 and 50 photos: strangers kept of 1,000 | 0, 0, 0 | 0.05, 1.9, 2.3 |
| keep, 1, 20 and 50 photos: other photos of the person kept | 1, 1, 1 % | 25, 25, 20 % |
| only, 1 photo: other photos of the person left | 0 of 76 | 0 of 102 |
| only, 1 photo: strangers hidden (20 photos: all) | 80 % | 91 % |

Of pairs of dark-skinned strangers (skin L below 45, 11 Londoners) 2 of 220 reach the threshold for keeping, of pairs
of the others 0 of 16,380: for the dark-skinned the goal of 2 in 1,000 is missed. Keeping with several photos of a
person was measured on strangers only (20 people, 2 photos each: 0 and 1.7 of 1,000 kept), for want of a third photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ..types import Face

# Share of strangers who may be kept, however many photos there are. A tenth of the 2 in 1,000 that are wanted: people
# photographed in one session look more alike than those of the calibration.
KEPT_STRANGERS = 0.0002
# One photo is held to what 20 are: of dark-skinned strangers, whom the shipped recogniser mixes up, 8 % of the pairs
# (11 people) reach what 0.02 % of all do, and 0.9 % this.
FEWEST = 20
# Somebody whom so few strangers resemble as much may well be the person, and is named as borderline.
LIKELY_STRANGERS = 0.05
RATES = ("real_far_0.01", "real_far_power", "real_frr_0.01")
# A detection with a lower score is often no face, and one so much smaller than the largest is somebody in the back.
CLEAR_SCORE, BYSTANDER = 0.7, 0.25


class Decision(str, Enum):
    """What `keep` and `only` say of a face."""

    KEEP = "keep"
    HIDE = "hide"
    BORDERLINE = "borderline"  # hidden as well, and named


@dataclass(frozen=True, eq=False, repr=False)
class References:
    """People to recognise. `FaceAnonymizer.people` makes it from photos.

    Attributes:
        embedding: (R, D) float32 unit norm, one row a photo; several photos of a person are several rows.
        rates: of the recogniser, from its thresholds.json: "real_far_0.01", the similarity that 1 % of pairs of
            strangers reach, "real_far_power", how steeply that share falls towards 1, and "real_frr_0.01", the
            similarity that all but 1 % of pairs of photos of one person reach.
    """

    embedding: np.ndarray
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        shape = np.shape(self.embedding)
        if len(shape) != 2 or not shape[0] or not np.isfinite(self.embedding).all():
            raise ValueError(f"references must be (R, D) finite numbers with R >= 1, got shape {shape}")
        if missing := [name for name in RATES if name not in self.rates]:
            raise ValueError(
                f"the weights' thresholds.json must say {', '.join(missing)} to tell people apart, it does not; "
                "benchmarks/references.py measures and writes them"
            )

    def __str__(self) -> str:
        """What a report may say of them, and what changes with any photo; nothing of a face."""
        return f"photos: {len(self.embedding)}, {hashlib.sha256(self.embedding.tobytes()).hexdigest()[:16]}"

    @property
    def sure(self) -> float:
        """The similarity to the best of all photos that hardly a stranger reaches."""
        return self._reached_by(KEPT_STRANGERS / max(len(self.embedding), FEWEST))

    @property
    def likely(self) -> float:
        """The similarity to the best of all photos that few strangers reach."""
        return self._reached_by(LIKELY_STRANGERS / len(self.embedding))

    @property
    def missed(self) -> float:
        """The similarity that all but 1 in 100 photos of a reference person reach."""
        return self.rates["real_frr_0.01"]

    def _reached_by(self, share: float) -> float:
        """The similarity to one photo that a share of strangers, in (0, 0.05], reaches."""
        gap = 1 - self.rates["real_far_0.01"]
        return 1 - gap * (share / 0.01) ** (1 / self.rates["real_far_power"])


def decide(embedding: np.ndarray, keep: References | None, only: References | None) -> tuple[Decision, str]:
    """Whether a face is to be left as it is.

    Args:
        embedding: (D,) unit norm, of the face.
        keep: people to leave alone, or None.
        only: people besides whom everybody is to be left alone, or None.

    Returns:
        the decision, and why in words for the report; no words for HIDE.
    """
    people = keep if keep is not None else only
    if people is None:
        return Decision.HIDE, ""
    similarity = float((people.embedding @ embedding).max())
    likely = people.likely
    if keep is not None:
        limit = people.sure
        if similarity >= limit:
            return Decision.KEEP, f"matches a person to keep: similarity {similarity:.3f}, threshold {limit:.3f}"
        between = similarity >= likely
    else:
        limit = people.missed
        if similarity < limit:
            return Decision.KEEP, f"matches nobody to anonymize: similarity {similarity:.3f}, threshold {limit:.3f}"
        between = similarity < likely
    if between:
        words = "may be a person to keep" if keep is not None else "may be nobody to anonymize"
        return Decision.BORDERLINE, f"borderline: {words}: similarity {similarity:.3f}, threshold {limit:.3f}"
    return Decision.HIDE, ""


def reference_face(faces: Sequence[Face], name: str) -> Face:
    """The one face of a reference photo.

    Args:
        faces: all detections in it.
        name: of the photo, for the message.

    Raises:
        ValueError: nobody, or more than one person: who is meant cannot be told.
    """
    clear = [face for face in faces if face.score >= CLEAR_SCORE] or list(faces)
    sides = [float(max(face.box[2:] - face.box[:2])) for face in clear]
    clear = [face for face, side in zip(clear, sides, strict=True) if side >= BYSTANDER * max(sides)]
    if len(clear) != 1:
        raise ValueError(
            f"{name}: wanted a reference photo of one person, got {len(clear) or 'no'} faces; "
            f"{'crop it to the person' if clear else 'give one that shows the face'}"
        )
    return clear[0]
