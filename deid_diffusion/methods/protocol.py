"""What a method and a target policy are, and where methods are found by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from threading import RLock
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from ..faces.estimator import FaceEstimator
from ..faces.task import FaceTask, Target
from ..messages import brief
from ..settings import Settings
from ..timing import Timing


class TargetPolicy(Protocol):
    """Who each face becomes, and which results may be used."""

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """Somebody for this face to become.

        Args:
            task: analyzed, with `wanted` set.
            attempt: the round, from 0; each one should go further from the source.
            candidate: which of the round's candidates, from 0.
            taken: bank numbers that other faces of the picture have.
        """

    def rejection(self, task: FaceTask, similarity: float) -> str:
        """Why a result with this cosine to its source may not be used; empty when it may.

        Args:
            task: the face.
            similarity: cosine in [-1, 1] by the identity encoder.
        """


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may use.

    Attributes:
        pipeline: the crop-level pipeline, of any family of `models.registry.FAMILIES`.
        estimator: landmarks and attributes.
        embed: the identity encoder, (B, S, S, 3) uint8 -> (B, D) float32 unit norm.
        settings: of the run.
        policy: who becomes whom.
        threshold: cosine at which the identity encoder takes two faces for one person.
        timing: adds up seconds by stage.
        turn: held while the pipeline runs, whose scheduler is one for all threads.
    """

    pipeline: Any
    estimator: FaceEstimator
    embed: Callable[[np.ndarray], np.ndarray]
    settings: Settings
    policy: TargetPolicy
    threshold: float
    timing: Timing = field(default_factory=Timing)
    turn: Any = field(default_factory=RLock)


@runtime_checkable
class Method(Protocol):
    """Decides what becomes of faces. Any object of this shape can be `Settings.method`.

    It may also have `policy(bank, threshold, settings)`, the TargetPolicy that is used where none is given, and
    `check(settings, bank)`, which refuses settings by a ValueError before anything is done.

    Attributes:
        name: as on the command line and in reports.
        reads_faces: whether it needs crops and analyses, or only where the faces are.
        uses_targets: whether `choose_targets` is to say who each face becomes.
    """

    name: str
    reads_faces: bool
    uses_targets: bool

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """Decides every task, in order. One that comes back undecided is redacted.

        Args:
            tasks: pending ones, of one picture or several.
            context: models and settings.
        """


_METHODS: dict[str, Method] = {}
_Made = TypeVar("_Made", bound=type)


def register(*names: str) -> Callable[[_Made], _Made]:
    """Makes a method known by name: a class decorator; the class is built with each name."""

    def known(made: _Made) -> _Made:
        for name in names:
            _METHODS[name] = made(name)
        return made

    return known


def method_names() -> tuple[str, ...]:
    """Names of every method in this folder, and of those registered from elsewhere."""
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}")
    return tuple(sorted(_METHODS))


def find_method(method: str | Method) -> Method:
    """A method by its name; one that is given whole comes back.

    Raises:
        ValueError: nobody has this name, or it is not of a method's shape.
    """
    if isinstance(method, str):
        # The folder is looked through for an unknown name only: this is asked several times a face.
        if method not in _METHODS and method not in method_names():
            raise ValueError(f"method must be one of {', '.join(sorted(_METHODS))}, got {brief(method)}")
        return _METHODS[method]
    if not isinstance(method, Method):
        raise ValueError(
            f"method must be a name or have name, reads_faces, uses_targets and __call__, got {type(method).__name__}"
        )
    return method
