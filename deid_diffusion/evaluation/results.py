"""Names what an evaluation says: one measure, one judge's verdict, one method's report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

Curve = tuple[tuple[float, ...], tuple[float, ...]]


class EvaluationError(ValueError):
    """The evaluation cannot give a right number; says what was wanted, what was got, what to do."""


@dataclass(frozen=True)
class Measure:
    """One number with what it takes to believe it, or the reason why there is none.

    Attributes:
        name: plain words, the same in the table, the JSON and the page.
        value: None when it was not measured.
        low, high: 95 % bootstrap interval over people, not over faces; None where an interval has no meaning.
        n: how many faces (or pairs) it rests on.
        unit: "share" for 0..1, otherwise "cosine", "deg", "years", "% of eye distance", "levels", ...
        ceiling: the same number on the untouched originals, where that has a meaning; of what a new face kept, on
            their mirror images: no output can be asked to agree better than a photo does with its own mirror image.
        chance: what guessing gives, where that has a meaning.
        reason: why it was not measured; empty otherwise.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "share"
    ceiling: float | None = None
    chance: float | None = None
    reason: str = ""

    def __post_init__(self):
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.name}: need a value or a reason, got value={self.value}, reason={self.reason!r}")
        if self.value is not None and math.isnan(self.value):
            raise ValueError(f"{self.name}: NaN is not a number to report; give value=None and a reason")

    @classmethod
    def missing(cls, name: str, reason: str, unit: str = "share") -> Measure:
        return cls(name=name, value=None, unit=unit, reason=reason)

    def text(self) -> str:
        """`0.12 [0.06, 0.19]`, or why it is not there."""
        if self.value is None:
            return f"not measured: {self.reason}"
        digits = 2 if self.unit in ("share", "cosine") or abs(self.value) < 10 else 1
        digits = 3 if self.unit == "share" and 0 < self.value < 0.01 else digits
        span = "" if self.low is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{span}"


@dataclass(frozen=True)
class JudgeResult:
    """What one recogniser still recognises.

    Attributes:
        judge: its name; `weight_hash`: sha256 of its weight file.
        people: gallery size N of the closed set.
        measures: rank-1, rank-5, TAR at FAR, EER, similarities, attackers.
        cmc, cmc_ceiling: (ranks, share found at that rank or better).
        det, det_ceiling: (false accept share, false reject share).
        genuine, impostor: (bin centre, share of pairs) of the similarities of outputs to the gallery.
    """

    judge: str
    weight_hash: str
    people: int
    measures: tuple[Measure, ...]
    cmc: Curve = ((), ())
    cmc_ceiling: Curve = ((), ())
    det: Curve = ((), ())
    det_ceiling: Curve = ((), ())
    genuine: Curve = ((), ())
    impostor: Curve = ((), ())


@dataclass(frozen=True)
class GroupResult:
    """The measures of one group of people: `attribute` = "gender", `group` = "female"."""

    attribute: str
    group: str
    people: int
    measures: tuple[Measure, ...]


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
        general: privacy that no recogniser is needed for: faces left as they were, the conditioning attacker.
        judges, utility, quality, groups: the numbers.
        problems: counted lines, capped at `MAX_PROBLEMS`; `problem_counts` is complete.
        notes: how to read it, in plain words.
        setup: (key, value) pairs: seed, versions, hashes, finder.
    """

    method: str
    test: str
    pictures: int
    faces: int
    people: int
    judges: tuple[JudgeResult, ...]
    general: tuple[Measure, ...]
    utility: tuple[Measure, ...]
    quality: tuple[Measure, ...]
    groups: tuple[GroupResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    problem_counts: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    setup: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists. Infinity (a perfect PSNR) becomes the string "inf"."""
        return _plain(asdict(self))


def find(measures: tuple[Measure, ...], name: str) -> Measure:
    """The measure of that name; one that says so when there is none."""
    return next((m for m in measures if m.name == name), Measure.missing(name, "not part of this run"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        # JSON has no infinity; rounding keeps the file readable, six digits are more than the data hold.
        return "inf" if math.isinf(value) else round(value, 6)
    return value
