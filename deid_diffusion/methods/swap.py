"""Makes everybody one and the same person, of the bank of people who do not exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..faces.attributes import Attributes
from ..faces.masks import blended
from ..faces.task import FaceTask, Target
from ..messages import brief
from ..pipelines.id_encoder import in_float32
from ..pipelines.repulsion import attract
from ..settings import Settings
from ..types import Outcome
from .identity_bank import IdentityBank
from .inpaint import Guidance, generate_faces, off_the_source
from .protocol import Context, TargetPolicy, register
from .sampling import reads_words
from .targets import FixedTarget


@register("swap")
@dataclass(frozen=True)
class Swap:
    """Everybody becomes the same synthetic person, with their own pose, expression and light."""

    name: str = "swap"
    reads_faces: bool = True
    uses_targets: bool = True

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """Attracts the faces to their target; off the source only those that a first round left too like it."""
        done = generate_faces(tasks, context, _towards_the_target)
        new = [task for task in done if task.outcome is Outcome.REPLACED]
        if not new:
            return done
        with context.timing("verify"):
            embeddings = iter(context.embed(np.stack([blended(task.crop, task.generated) for task in new])))
        return [_named(task, next(embeddings)) if task.outcome is Outcome.REPLACED else task for task in done]

    @staticmethod
    def policy(bank: IdentityBank, threshold: float, settings: Settings) -> TargetPolicy:
        """Who everybody becomes, see `methods.protocol.Method`."""
        return SwapTarget(threshold, bank, settings.target)

    @staticmethod
    def check(settings: Settings, bank: IdentityBank) -> None:
        """Refuses a target that the bank has not.

        Args:
            settings: of the run.
            bank: identities to become.

        Raises:
            ValueError: out of range.
        """
        people = len(bank.embedding)
        if isinstance(settings.target, int) and settings.target >= people:
            raise ValueError(
                f"target must be random or a number from 0 to {people - 1}, of the {people} people of the bank; got "
                f"{brief(settings.target)}"
            )


@dataclass(frozen=True, eq=False)
class SwapTarget:
    """One person of the bank for every face.

    Attributes:
        threshold: cosine to the source from which on a result is rejected.
        bank: identities to become.
        number: of the person; "random" draws one from the seed of the picture or clip.
    """

    threshold: float
    bank: IdentityBank
    number: int | str = "random"

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """That person, in every round."""
        return self._fixed(task.seed).target

    def for_person(self, wanted: Attributes, embedding: np.ndarray, seed: int, taken: Collection[int]) -> Target:
        """That person."""
        return self._fixed(seed).target

    def rejection(self, task: FaceTask, similarity: float) -> str:
        """Why a result with this cosine to its source may not be used; empty when it may."""
        return self._fixed(task.seed).rejection(task, similarity)

    def _fixed(self, seed: int) -> FixedTarget:
        return FixedTarget(self.threshold, self.bank.target(_number(self.number, self.bank, seed)))


def same_target(settings: Settings, bank: IdentityBank, seed: int) -> Settings:
    """The settings with the random target drawn: one for all pictures and clips that follow, whose seeds differ.

    Args:
        settings: of the run.
        bank: identities to become.
        seed: of the run.
    """
    return replace(settings, target=_number(settings.target, bank, seed))


def _number(target: int | str, bank: IdentityBank, seed: int) -> int:
    drawn = np.random.default_rng(np.random.SeedSequence([seed, 0x5A])).integers(len(bank.embedding))
    return int(drawn) if isinstance(target, str) else int(target)


def _towards_the_target(targets: Sequence[Target], context: Context, attempt: int) -> Guidance:
    none = off_the_source(targets, context, attempt - 1)
    if not attempt:
        none = replace(none, repulsion=replace(none.repulsion, scale=0.0))
    # Stable Diffusion takes an identity for nothing but this attraction; once is enough.
    if reads_words(context.pipeline) or not context.settings.attraction:
        return replace(none, wants_target=True)
    id_encoder = in_float32(context.pipeline.id_encoder)
    embedding = torch.from_numpy(np.stack([target.embedding for target in targets])).to(id_encoder.device)
    pull = attract(id_encoder, embedding, context.settings.attraction)
    return replace(none, energies=(pull,), wants_target=True)


def _named(task: FaceTask, embedding: np.ndarray) -> FaceTask:
    target = task.targets[0]
    return replace(task, reason=f"person {target.number} of the bank, similarity {embedding @ target.embedding:.2f}")
