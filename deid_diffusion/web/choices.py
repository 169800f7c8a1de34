"""What a visitor can choose about photos and their faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..faces.attributes import Attributes
from ..faces.task import FaceTask
from ..pipelines.conditioning import FIELDS
from ..seeds import checked_seed
from ..settings import Settings
from ..types import Redaction
from .sessions import VisitError

CANDIDATES = 4
REPLACE, KEEP = "replace", "keep"
DECISIONS = (REPLACE, KEEP, *(how.value for how in Redaction))
# The privacy dial: the factor on the repulsion, and what is not taken over from the source.
PRIVACY: tuple[tuple[float, tuple[str, ...]], ...] = (
    (1.0, ()),
    (1.5, ("age", "glasses", "facial_hair")),
    (2.0, ("age", "glasses", "facial_hair", "male", "skin_l", "skin_a", "skin_b")),
)


@dataclass(frozen=True)
class Options:
    """What is chosen for all photos of a visitor.

    Attributes:
        seed: the same seed gives the same faces; None for one that is drawn, and told to nobody.
        draw: counts how often other people were asked for.
        method: what becomes of a face about which nothing else was decided: a value of DECISIONS.
        privacy: a place in PRIVACY.
    """

    seed: int | None = None
    draw: int = 0
    method: str = REPLACE
    privacy: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Options:
        """Reads what the page sends.

        Args:
            values: fields by name.

        Raises:
            ValueError: one is out of range.
        """
        seed, draw = values.get("seed"), values.get("draw", 0)
        method, privacy = values.get("method", REPLACE), values.get("privacy", 0)
        if seed is not None:
            checked_seed(seed)
        if method not in DECISIONS or privacy not in range(len(PRIVACY)):
            raise VisitError(f"method must be one of {', '.join(DECISIONS)}, privacy one of 0 to {len(PRIVACY) - 1}")
        return cls(seed, int(draw), method, privacy)

    def settings(self, attributes: Mapping[str, float] | None = None, **changes: Any) -> Settings:
        """What the anonymizer is asked for.

        Args:
            attributes: that were set for a face.
            changes: other fields.
        """
        factor, dropped = PRIVACY[self.privacy]
        return Settings(repulsion_factor=factor, drop_attributes=dropped, attributes=attributes or {}, **changes)


@dataclass(eq=False)
class Choice:
    """What was decided about a face.

    Attributes:
        decision: one of DECISIONS.
        attributes: that were set, by name.
        made: generated faces to choose from, each with the attributes it was made with.
        taken: which of them.
        drawn: whether a visitor said where it is.
    """

    decision: str
    attributes: dict[str, float] = field(default_factory=dict)
    made: list[tuple[FaceTask, dict[str, float]]] = field(default_factory=list)
    taken: int = 0
    drawn: bool = False


def ranges() -> dict[str, list[float]]:
    """Lowest and highest value of each attribute, by name, in the order of `Attributes`."""
    return {name: [FIELDS[name].low, FIELDS[name].high] for name in vars(Attributes())}
