"""Paints faces until the guide no longer knows the source, and takes the one that fits best; the rest fails closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .attributes import FaceReader
from .brief import brief, brief_error, brief_repr
from .crops import blended
from .fit import misfit
from .identities import IdentityBank, Target
from .painting import batch_size, candidates, paint_people
from .preparing import ReadyFace, redacted
from .settings import Settings
from .types import FaceReport, Outcome
from .watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Shot:
    """One of the faces that were painted for a source.

    Attributes:
        image: (S, S, 3) uint8.
        seed: of its noise and its target.
        target: who it was to become.
        similarity: cosine to the source, by the guide.
        misfit: what it costs to take this one, see `fit.misfit`; 0 when nobody had to choose.
    """

    image: np.ndarray
    seed: int
    target: Target
    similarity: float
    misfit: float
    __repr__ = brief_repr


@dataclass(frozen=True, eq=False)
class VerifiedPainter:
    """Paints and checks.

    Attributes:
        pipeline: of any family.
        reader: landmarks and attributes.
        bank: identities to become.
        embed: the guide, (B, S, S, 3) uint8 -> (B, D) unit norm.
    """

    pipeline: Any
    reader: FaceReader
    bank: IdentityBank
    embed: Callable[[np.ndarray], np.ndarray]

    def __call__(
        self, ready: Sequence[ReadyFace], settings: Settings, threshold: float, seed: int, watch: Watch
    ) -> tuple[dict[int, np.ndarray], dict[int, FaceReport]]:
        """Runs at most `settings.tries` rounds.

        Args:
            ready: faces of one picture.
            settings: of the picture.
            threshold: a similarity to the source that is no longer accepted.
            seed: of the picture.
            watch: adds up the time.

        Returns:
            by face number, (S, S, 3) uint8 for those that passed; the reports of all.
        """
        painted: dict[int, np.ndarray] = {}
        reports: dict[int, FaceReport] = {}
        waiting, taken = list(ready), set()
        for attempt in range(settings.tries):
            shots, failed = self._round(waiting, settings, attempt, seed, taken, watch)
            for r in waiting:
                passed = [shot for shot in shots[r.number] if shot.similarity < threshold]
                if passed:
                    best = min(passed, key=lambda shot: shot.misfit)
                    painted[r.number] = best.image
                    reports[r.number] = FaceReport(
                        r.face, Outcome.REPLACED, best.seed, best.similarity, "", r.wanted.to_dict(), attempt + 1
                    )
                    # Who was not taken may be somebody else in the next round.
                    taken -= {shot.target.number for shot in shots[r.number] if shot is not best}
                elif shots[r.number]:
                    score = min(shot.similarity for shot in shots[r.number])
                    reason = f"too similar to the source: {score:.2f}, threshold {threshold:.2f}"
                    reports[r.number] = replace(redacted(r.face, reason, attempt + 1), similarity=score)
                else:
                    reports[r.number] = redacted(r.face, f"inpainting failed: {failed}", attempt + 1)
            waiting = [r for r in waiting if r.number not in painted]
        return painted, reports

    def _round(
        self, faces: list[ReadyFace], settings: Settings, attempt: int, seed: int, taken: set[int], watch: Watch
    ) -> tuple[dict[int, list[Shot]], str]:
        """What was painted for each face, by its number, and what the last failure said. Adds to `taken`."""
        count, at_once = candidates(self.pipeline, settings), batch_size(self.pipeline, settings)
        wishes = [(r, face_seed(seed, r.number, attempt, n)) for r in faces for n in range(count)]
        shots: dict[int, list[Shot]] = {r.number: [] for r in faces}
        failed = ""
        for batch in [wishes[first : first + at_once] for first in range(0, len(wishes), at_once)]:
            try:
                for (r, _), shot in zip(batch, self._shoot(batch, settings, attempt, taken, watch), strict=True):
                    shots[r.number].append(shot)
            except Exception as error:
                log.exception("inpainting failed")
                failed = brief_error(error)
        return shots, failed

    def _shoot(
        self, batch: list[tuple[ReadyFace, int]], settings: Settings, attempt: int, taken: set[int], watch: Watch
    ) -> list[Shot]:
        """One pipeline call and what the guide says of it."""
        faces, seeds = [r for r, _ in batch], [own for _, own in batch]
        with watch("inpaint"):
            targets = []
            for r, own in batch:
                # Nobody whom the guide takes for the least bit alike, if others match: what is alike is painted alike.
                targets.append(self.bank.choose(r.wanted, r.embedding, own, margin=-0.1 * attempt, exclude=taken))
                taken.add(targets[-1].number)
            push = settings.strength * 2**attempt
            images, meshes = paint_people(self.pipeline, self.reader, faces, targets, seeds, settings, push)
        with watch("verify"):
            looks = np.stack([blended(r.crop, image) for r, image in zip(faces, images, strict=True)])
            similarity = (self.embed(looks) * np.stack([r.embedding for r in faces])).sum(1)
            one = candidates(self.pipeline, settings) == 1
            costs = [0.0] * len(batch) if one else self._misfits(faces, images, meshes, similarity)
        rows = zip(images, seeds, targets, similarity, costs, strict=True)
        return [Shot(image, own, target, float(score), cost) for image, own, target, score, cost in rows]

    def _misfits(
        self, faces: list[ReadyFace], images: np.ndarray, meshes: list[np.ndarray], similarity: np.ndarray
    ) -> list[float]:
        rows = zip(faces, images, meshes, self.reader.read(images), similarity, strict=True)
        return [
            misfit(image, r.crop.image, r.erased, mesh, r.wanted.to_dict(), seen, float(score))
            for r, image, mesh, seen, score in rows
        ]


def check_seed(seed: int) -> None:
    """Raises ValueError for what is no seed: NumPy's own error would print it."""
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, got {brief(seed)}")


def face_seed(seed: int, number: int, attempt: int, candidate: int = 0) -> int:
    """A seed for each face, round and candidate, from the user's seed and the face's place: never from its pixels."""
    entropy = [seed, number, attempt] + [candidate] * (candidate > 0)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
