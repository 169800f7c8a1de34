"""Says what of a face may pass through a whole track, and how its motion passes.

Steps that are right for a photo stop speech and blinks, and the mean of many quantised values gives the raw one back
where it straddles a step. So one quantised level passes for the whole track, and deviations from the track's own
median in eighths of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..pipelines.conditioning import FIELDS
from .attributes import QUANTIZATION_STEP, Attributes

STATIC = ("age", "male", "skin_l", "skin_a", "skin_b", "glasses", "facial_hair", "sunglasses")
DYNAMIC = tuple(name for name in FIELDS if name not in STATIC)
FINE, COARSE = 8, 1  # parts of a step in which deviations pass
HYSTERESIS = 0.75  # of such a part, before the next one is taken
LOW_PASS = (0.25, 0.5, 0.25)
QUICK = ("mouth_open", "eyes_open")  # a blink lasts three frames: a low-pass would halve it
# A mouth that talks is shut again and again, whoever it is of: it is what one comes back to, and not the middle,
# from which deviations count. From the middle, half of all speech would lie below shut.
REST = {"mouth_open": 0.1, "smile": 0.1}
# Somebody whose eyes are shut all along does not laugh: the estimator, which never saw one weep, calls that a smile.
SHUT_EYES = 0.2
# Lips part by 0.6 of what is asked of a face that goes on from the frame before; of a nod the estimator reads half.
GAIN = {"mouth_open": 1.5, "pitch_deg": 1.6}


def weighted_median(values: Sequence[float], weights: Sequence[float], share: float = 0.5) -> float:
    """The value below which half of the weight lies, or another share.

    Args:
        values: N >= 1 of them, in any order.
        weights: of each, above 0.
        share: in (0, 1).
    """
    order = np.argsort(values)
    total = np.cumsum(np.asarray(weights, float)[order])
    return float(np.asarray(values, float)[order][int(np.searchsorted(total, total[-1] * share))])


def summarize(readings: Sequence[Mapping[str, float]], weights: Sequence[float]) -> Attributes:
    """What a whole track is like: the weighted median of each value; of glasses and the like that is a vote.

    Of those in `REST`, what the face comes back to.

    Args:
        readings: attributes by name, all set, N >= 1 of them.
        weights: how much each counts, above 0.
    """
    return Attributes(**{n: weighted_median([r[n] for r in readings], weights, REST.get(n, 0.5)) for n in FIELDS})


@dataclass(eq=False)
class Motion:
    """The attributes of one track, to be called frame by frame.

    Attributes:
        median: of the track, see `summarize`.
        parts: of a step in which deviations pass: `FINE` or `COARSE`.
        coarser: factors on the steps, see `Attributes.quantize`.
    """

    median: Attributes
    parts: int = FINE
    coarser: Mapping[str, float] = field(default_factory=dict)
    _levels: dict[str, int] = field(default_factory=dict)

    @property
    def rest(self) -> Attributes:
        """What passes of a face that does not move."""
        level = self.median.quantize(self.coarser)
        return level.with_changes({"smile": 0.0}) if self._weeps else level

    @property
    def _weeps(self) -> bool:
        """Whether what is read of a smile is none."""
        return self.median.eyes_open is not None and self.median.eyes_open < SHUT_EYES

    def __call__(self, now: Mapping[str, float]) -> Attributes:
        """What may pass in the next frame, not yet smoothed.

        Args:
            now: the frame's attributes by name.

        Returns:
            all attributes: Q(median, step) + H(value - median, step / parts), the latter with hysteresis and in
            what `GAIN` makes of it; of what does not move only the first.
        """
        base, middle = self.rest.to_dict(), self.median.to_dict()
        for name in DYNAMIC:
            if name == "smile" and self._weeps:
                continue
            part = QUANTIZATION_STEP[name] / self.parts
            if name == "eyes_open":  # lids close from wherever they are
                part *= max(middle[name], part) / max(base[name], part)
            deviation, level = (now[name] - middle[name]) / part, self._levels.get(name)
            if level is None or abs(deviation - level) > HYSTERESIS:
                level = self._levels[name] = round(deviation)
            passed = base[name] + level * GAIN.get(name, 1.0) * QUANTIZATION_STEP[name] / self.parts
            base[name] = float(np.clip(passed, FIELDS[name].low, FIELDS[name].high))
        return Attributes(**base)


def smooth(before: Attributes | None, now: Attributes, after: Attributes | None) -> Attributes:
    """The mean of three frames, in the weights of `LOW_PASS`; where one is missing, that in the middle counts for it.

    After quantisation, so that it adds no information. What is `QUICK` stays as it is.

    Args:
        before, now, after: attributes in three frames that follow each other; None where the face was not read.
    """
    values = now.to_dict()
    near = [values if one is None else values | one.to_dict() for one in (before, now, after)]
    mean = {n: sum(w * one[n] for w, one in zip(LOW_PASS, near, strict=True)) for n in values if n not in QUICK}
    return Attributes(**values | mean)
