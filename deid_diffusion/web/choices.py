"""What a visitor can choose about photos and their faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..faces.attributes import Attributes
from ..faces.task import FaceTask
from ..methods.pseudonyms import Pseudonyms
from ..pipelines.conditioning import FIELDS
from ..privacy import LEVELS
from ..seeds import checked_seed
from ..settings import Settings
from ..types import Redaction
from .sessions import VisitError

CANDIDATES = 4
REPLACE, KEEP = "replace", "keep"
REDACTIONS = tuple(how.value for how in Redaction)
DECISIONS = (REPLACE, KEEP, *REDACTIONS)
# What faces become unless something else was decided about one: by the page's word, the method's name.
METHODS = {REPLACE: "inpaint", "swap": "swap", "k-same": "k-same", "perturb": "perturb"} | {h: h for h in REDACTIONS}


@dataclass(frozen=True)
class Options:
    """What is chosen for all photos of a visitor.

    Attributes:
        seed: the same seed gives the same faces; None for one that is drawn, and told to nobody.
        draw: counts how often other people were asked for.
        method: what becomes of a face about which nothing else was decided: a key of METHODS.
        privacy: a stop of the dial, of `privacy.LEVELS`.
        k: people whom an averaged face is made of.
        target: whom swap makes of everybody; the desk says.
        pseudonyms: the key of this page; None without one.
    """

    seed: int | None = None
    draw: int = 0
    method: str = REPLACE
    privacy: str = "standard"
    k: int = 5
    target: int = 0
    pseudonyms: Pseudonyms | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any], pseudonyms: Pseudonyms | None = None) -> Options:
        """Reads what the page sends.

        Args:
            values: fields by name.
            pseudonyms: the key of this page.

        Raises:
            ValueError: one is out of range.
        """
        seed, draw, k = values.get("seed"), values.get("draw", 0), values.get("k", 5)
        method, privacy = values.get("method", REPLACE), values.get("privacy", "standard")
        if seed is not None:
            checked_seed(seed)
        if method not in METHODS or privacy not in LEVELS or not isinstance(k, int):
            raise VisitError(
                f"method must be one of {', '.join(METHODS)}, privacy one of {', '.join(LEVELS)}, k a whole number"
            )
        return cls(seed, int(draw), method, privacy, k, pseudonyms=pseudonyms if method == REPLACE else None)

    @property
    def decision(self) -> str:
        """What was decided about a face about which nobody decided anything."""
        return self.method if self.method in DECISIONS else REPLACE

    @property
    def is_choice(self) -> bool:
        """Whether a face may become one of several people."""
        return self.making == REPLACE and self.pseudonyms is None

    @property
    def making(self) -> str:
        """What "replace" means: a key of METHODS that generates."""
        return REPLACE if self.method in REDACTIONS else self.method

    def settings(self, attributes: Mapping[str, float] | None = None, **changes: Any) -> Settings:
        """What the anonymizer is asked for.

        Args:
            attributes: that were set for a face.
            changes: other fields.
        """
        return Settings(
            method=METHODS[self.making], privacy=self.privacy, k=self.k, target=self.target,
            attributes=attributes or {}, pseudonyms=self.pseudonyms, **changes,
        )  # fmt: skip


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
