"""Inpaints a new face: samples candidates, verifies them, takes the best, and tries again; the rest fails closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..faces.lids import move_lids, with_open_eyes
from ..faces.masks import blended
from ..faces.task import FaceTask, Target
from ..messages import brief_error, brief_repr
from ..pipelines.repulsion import Energy, Repulsion, as_repulsion
from ..types import Outcome
from .batches import in_batches
from .candidates import SOURCE_COST, candidate_score
from .protocol import Context, register
from .sampling import batch_size, candidate_count, sample, target_meshes

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One of the faces that were generated for a source.

    Attributes:
        image: (S, S, 3) uint8.
        seed: of its noise.
        target: who it was to become.
        similarity: cosine to the source by the identity encoder.
        score: what it costs to take this one, see `candidates.candidate_score`; 0 when nobody had to choose.
    """

    image: np.ndarray
    seed: int
    target: Target
    similarity: float
    score: float
    __repr__ = brief_repr


@dataclass(frozen=True, eq=False)
class _Draw:
    """A candidate that is to be generated."""

    task: FaceTask
    seed: int
    target: Target


@dataclass(frozen=True, eq=False)
class Guidance:
    """What the faces of a model call are moved by.

    Attributes:
        repulsion: off their sources.
        energies: beside it.
        wants_target: whether a candidate counts for more the more it is like its target.
    """

    repulsion: Repulsion
    energies: Sequence[Energy] = ()
    wants_target: bool = False


Guide = Callable[[Sequence[Target], Context, int], Guidance]  # targets of a model call, and the round, from 0


@register("inpaint")
@dataclass(frozen=True)
class Inpaint:
    """A new face for each one: somebody who does not exist."""

    name: str = "inpaint"
    reads_faces: bool = True
    uses_targets: bool = True

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """Runs at most `settings.tries` rounds, each with other targets and a stronger repulsion."""
        return generate_faces(tasks, context, off_the_source)


def off_the_source(targets: Sequence[Target], context: Context, attempt: int) -> Guidance:
    """The repulsion of the settings, twice as strong in each round.

    Args:
        targets: of a model call; they are a condition, and no guidance.
        context: settings count.
        attempt: the round, from 0.
    """
    base = as_repulsion(context.settings.repulsion)
    return Guidance(replace(base, scale=base.scale * context.settings.repulsion_factor * 2**attempt))


def generate_faces(tasks: Sequence[FaceTask], context: Context, guide: Guide) -> list[FaceTask]:
    """Decides every task, in order: REPLACED by the best candidate that passes, else REDACTED or FAILED.

    Args:
        tasks: pending ones, with targets.
        context: models and settings.
        guide: what the faces of each model call are moved by.
    """
    done: list[FaceTask] = list(tasks)
    taken = _taken(tasks)
    for attempt in range(context.settings.tries):
        waiting = [place for place, task in enumerate(done) if task.outcome is not Outcome.REPLACED]
        found, failure = _round([tasks[place] for place in waiting], context, attempt, taken, guide)
        for place, candidates in zip(waiting, found, strict=True):
            done[place] = _verdict(tasks[place], candidates, failure, context, attempt, taken)
    return done


def _taken(tasks: Sequence[FaceTask]) -> dict[int, set[int]]:
    """Bank numbers that are given away, by picture."""
    taken: dict[int, set[int]] = {task.picture: set() for task in tasks}
    for task in tasks:
        taken[task.picture] |= {target.number for target in task.targets}
    return taken


def _verdict(
    task: FaceTask,
    candidates: Sequence[Candidate],
    failure: Exception | None,
    context: Context,
    attempt: int,
    taken: dict[int, set[int]],
) -> FaceTask:
    """Takes the best candidate that passes; says why there is none."""
    passed = [one for one in candidates if not context.policy.rejection(task, one.similarity)]
    if passed:
        best = min(passed, key=lambda one: one.score)
        # Who was not taken may be somebody else in the next round.
        taken[task.picture] -= {one.target.number for one in candidates if one is not best}
        return task.decided(
            Outcome.REPLACED,
            generated=best.image,
            targets=(best.target,),
            similarity=best.similarity,
            result_seed=best.seed,
            tries=attempt + 1,
        )
    if candidates:
        closest = min(one.similarity for one in candidates)
        reason = context.policy.rejection(task, closest)
        return task.decided(Outcome.REDACTED, reason, similarity=closest, tries=attempt + 1)
    return task.decided(Outcome.FAILED, f"inpainting failed: {brief_error(failure or '')}", tries=attempt + 1)


def _round(
    tasks: Sequence[FaceTask], context: Context, attempt: int, taken: dict[int, set[int]], guide: Guide
) -> tuple[list[list[Candidate]], Exception | None]:
    """What was generated for each face, and the last failure."""
    at_once = batch_size(context.pipeline, context.settings)
    failure: Exception | None = None
    draws = list(_draws(tasks, context, attempt, taken))
    found: dict[int, list[Candidate]] = {id(task): [] for task in tasks}
    generate = partial(_generate, context=context, attempt=attempt, guide=guide)
    for batch, made in in_batches(context.pipeline, draws, at_once, generate):
        if isinstance(made, Exception):
            log.error("inpainting failed", exc_info=made)
            failure = made
            continue
        for draw, candidate in zip(batch, made, strict=True):
            found[id(draw.task)].append(candidate)
    return [found[id(task)] for task in tasks], failure


def _draws(tasks: Sequence[FaceTask], context: Context, attempt: int, taken: dict[int, set[int]]) -> Iterator[_Draw]:
    """The first round takes the targets that the tasks bring; later ones ask the policy for others."""
    for task in tasks:
        for candidate in range(candidate_count(context.pipeline, context.settings)):
            if attempt == 0 and candidate < len(task.targets):
                target = task.targets[candidate]
            else:
                target = context.policy.choose(task, attempt, candidate, taken[task.picture])
                taken[task.picture].add(target.number)
            yield _Draw(task, task.draw_seed(attempt, candidate), target)


def _generate(batch: Sequence[_Draw], context: Context, attempt: int, guide: Guide) -> list[Candidate]:
    """One pipeline call and what the identity encoder says of it."""
    tasks, seeds, targets = (list(column) for column in zip(*((d.task, d.seed, d.target) for d in batch), strict=True))
    settings, guidance = context.settings, guide(targets, context, attempt)
    asked = [with_open_eyes(task) for task in tasks]
    with context.timing("inpaint"):
        meshes = target_meshes(context.estimator, asked, targets)
        with context.turn:
            drawn = sample(
                context.pipeline, asked, targets, meshes, seeds, settings, guidance.repulsion,
                energies=guidance.energies,
            )  # fmt: skip
    with context.timing("verify"):
        # Lids of a clip's faces move after all of its frames are generated.
        images = [
            one if ask is task else move_lids(one, mesh, ask.opening)
            for task, ask, one, mesh in zip(tasks, asked, drawn, meshes, strict=True)
        ]
        blends = np.stack([blended(task.crop, image) for task, image in zip(tasks, images, strict=True)])
        embeddings = context.embed(blends)
        similarity = (embeddings * np.stack([task.embedding for task in tasks])).sum(1)
        scores = [0.0] * len(batch)
        if candidate_count(context.pipeline, settings) > 1:
            rows = zip(asked, drawn, meshes, context.estimator.analyze(drawn), similarity, strict=True)
            scores = [
                candidate_score(
                    image, task.crop.image, task.inpaint_mask, mesh, task.wanted.to_dict(), found, float(cosine)
                )
                for task, image, mesh, found, cosine in rows
            ]
            if guidance.wants_target:
                reached = (embeddings * np.stack([target.embedding for target in targets])).sum(1)
                scores = [score - SOURCE_COST * float(cosine) for score, cosine in zip(scores, reached, strict=True)]
    made = zip(images, seeds, targets, similarity.tolist(), scores, strict=True)
    return [Candidate(*row) for row in made]
