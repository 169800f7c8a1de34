"""The result types of an evaluation: one metric, one judge's metrics, one method's report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from deid_diffusion.errors import DeidError

Curve = tuple[tuple[float, ...], tuple[float, ...]]


class EvaluationError(DeidError, ValueError):
    """The evaluation cannot give a valid figure; says what was wanted, what was got, what to do."""


@dataclass(frozen=True)
class Metric:
    """One metric with interval, sample size and baselines, or the reason why there is none.

    Attributes:
        name: plain words, the same in the table, the JSON and the page.
        value: None when it was not measured.
        low, high: 95 % bootstrap interval over people, not over faces; None where an interval has no meaning.
        n: how many faces (or pairs) it rests on.
        unit: "proportion" for 0..1, otherwise "cosine", "deg", "years", "% of inter-pupil distance", "dB", ...
        on_originals: the same metric on the originals, where that has a meaning; for utility, on their mirror images:
            no output can be asked to agree better than a photo does with its own mirror image.
        chance: the chance level, where that has a meaning.
        floor: the same metric on pictures that all have one and the same face: what the surroundings tell alone.
        excess: value minus floor, and its 95 % bootstrap interval over people.
        reason: why it was not measured; empty otherwise.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "proportion"
    on_originals: float | None = None
    chance: float | None = None
    reason: str = ""
    floor: float | None = None
    excess: tuple[float, float | None, float | None] | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.name}: need a value or a reason, got value={self.value}, reason={self.reason!r}")
        if self.value is not None and math.isnan(self.value):
            raise ValueError(f"{self.name}: NaN is not a number to report; give value=None and a reason")

    @classmethod
    def missing(cls, name: str, reason: str, unit: str = "proportion") -> Metric:
        """A metric without a value, and why.

        Args:
            name: of the metric.
            reason: why there is no value.
            unit: what the value would be in.
        """
        return cls(name=name, value=None, unit=unit, reason=reason)

    def text(self) -> str:
        """`0.12 [0.06, 0.19]`, or why it is not there."""
        if self.value is None:
            return f"not measured: {self.reason}"
        digits = 2 if self.unit in ("proportion", "cosine") or abs(self.value) < 10 else 1
        digits = 3 if self.unit == "proportion" and 0 < self.value < 0.01 else digits
        span = "" if self.low is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{span}"


@dataclass(frozen=True)
class JudgeResult:
    """What one recogniser still recognises.

    Attributes:
        judge: its name; `weight_hash`: sha256 of its weight file.
        people: gallery size N of the closed set.
        metrics: rank-1, rank-5, TAR at FAR, EER, similarities, attackers.
        cmc, cmc_originals: (ranks, identification rate at that rank or better).
        det, det_originals: (false accept rate, false reject rate).
        genuine, impostor: (bin centre, fraction of pairs) of the similarities of outputs to the gallery.
    """

    judge: str
    weight_hash: str
    people: int
    metrics: tuple[Metric, ...]
    cmc: Curve = ((), ())
    cmc_originals: Curve = ((), ())
    det: Curve = ((), ())
    det_originals: Curve = ((), ())
    genuine: Curve = ((), ())
    impostor: Curve = ((), ())


@dataclass(frozen=True)
class GroupResult:
    """The metrics of one group of people: `attribute` = "gender", `group` = "female"."""

    attribute: str
    group: str
    people: int
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Problem:
    """One file that could not be judged as wanted, and why. Never silently left out."""

    kind: str
    file: str
    detail: str = ""


@dataclass(frozen=True)
class EvalReport:
    """Everything about one folder of outputs.

    Attributes:
        method: its label, by default the folder's name.
        test: "other photos" when a gallery was given (or that it holds edited views), else the harsher "same photo".
        pictures, faces, people: how many were judged.
        recogniser_free: privacy without a recogniser: unchanged faces, the attacker by landmarks and attributes.
        judges, utility, quality, groups: the metrics.
        problems: counted lines, capped at `MAX_PROBLEMS`; `problem_counts` is complete.
        notes: how it was measured, in plain words.
        setup: (key, value) pairs: seed, versions, hashes, detector.
    """

    method: str
    test: str
    pictures: int
    faces: int
    people: int
    judges: tuple[JudgeResult, ...]
    recogniser_free: tuple[Metric, ...]
    utility: tuple[Metric, ...]
    quality: tuple[Metric, ...]
    groups: tuple[GroupResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    problem_counts: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    setup: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists. Infinity (a perfect PSNR) becomes the string "inf"."""
        return json_ready(asdict(self))


def find_metric(metrics: tuple[Metric, ...], name: str) -> Metric:
    """A metric by its name; one with a reason instead of a value where there is none.

    Args:
        metrics: to search.
        name: of the one wanted.
    """
    return next((m for m in metrics if m.name == name), Metric.missing(name, "not part of this run"))


def json_ready(value: Any) -> Any:
    """Plain values for JSON: lists for tuples, numbers of six digits, "inf" for infinity."""
    if isinstance(value, dict):
        return {k: json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, float):
        # JSON has no infinity; rounding keeps the file readable, six digits are more than the data hold.
        return "inf" if math.isinf(value) else round(value, 6)
    return value
