"""Says for each face of a clip's frame what is to be done with it: generated, left alone, or hidden and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .anonymizer import FaceAnonymizer
from .clip_reading import ClipReading
from .faces.scan import Scan
from .faces.sightings import Origin, Sighting
from .faces.task import FaceTask
from .methods.protocol import Method
from .methods.roles import Role, Roles, as_set
from .settings import Settings
from .types import Outcome, Redaction

# How a face is hidden that may not be there: no new face is cut by such a block.
BLURRED: dict[str, Any] = {"redaction": Redaction.BLUR, "doubtful": True}


class ClipTasks:
    """The tasks of one frame after the other."""

    def __init__(
        self,
        anonymizer: FaceAnonymizer,
        method: Method,
        settings: Settings,
        scan: Scan,
        roles: Roles,
        read: ClipReading,
        threshold: float,
        redact_with: Mapping[int, Redaction],
    ) -> None:
        """Nothing is read yet.

        Args:
            anonymizer: its thresholds are used.
            method: that will generate.
            settings: attributes count.
            scan: what is known of the tracks.
            roles: who they become.
            read: reads faces; those that were found need only be followed.
            threshold: cosine from which two faces are one person.
            redact_with: by track, how it is hidden whatever the method.
        """
        self.method, self.settings, self.scan, self.roles = method, settings, scan, roles
        self.redact_with = redact_with
        self._read = read
        self.likely = anonymizer.thresholds.get("far_0.05", threshold)

    def __call__(
        self,
        image: np.ndarray,
        sightings: Sequence[Sighting],
        people: dict[int, int],
        hidden: Collection[int],
        seed: int,
    ) -> tuple[list[FaceTask], set[int]]:
        """The faces of a frame, ready for the method or decided.

        Args:
            image: (H, W, 3) uint8 RGB.
            sightings: of all its faces.
            people: of each track, as from `Scan.people`.
            hidden: tracks that are to be redacted throughout.
            seed: of the clip.

        Returns:
            the tasks in order, and the tracks whose face could not be seen here: they are redacted unless it can be
            carried here from a frame that shows it.
        """
        tasks = [self._as_named(FaceTask(one.face, one.face.track_id or 0, seed=seed)) for one in sightings]
        if self.scan.read is None:
            return tasks, set()
        roles = [self.roles(task.number, people) if task.pending else None for task in tasks]
        kept = [role is not None and role.kept for role in roles]
        tasks = [
            task.decided(Outcome.KEPT, role.reason) if keep and role is not None else task
            for task, role, keep in zip(tasks, roles, kept, strict=True)
        ]
        if not self.method.reads_faces:
            return tasks, set()
        tasks = [self._hidden(*three, hidden) for three in zip(tasks, roles, sightings, strict=True)]
        unseen = {task.number for task, one in zip(tasks, sightings, strict=True) if task.pending and _is_empty(one)}
        tasks = [
            task.decided(Outcome.REDACTED, "no face was found in this box") if task.number in unseen else task
            for task in tasks
        ]
        places = [place for place, task in enumerate(tasks) if task.pending]
        faces, reading = [task.face for task in tasks], dict[int, FaceTask]()
        for read, is_found in ((self._read.follow, True), (self._read, False)):
            rows = [place for place in places if (sightings[place].origin is Origin.FOUND) == is_found]
            reading |= read(image, faces, rows) if rows else {}
        for place, found in reading.items():
            role = roles[place]
            assert role is not None  # or it had been hidden
            tasks[place] = self._ready(tasks[place], found, role, sightings[place])
            unseen |= {tasks[place].number} if tasks[place].outcome is Outcome.REDACTED else set()
        return tasks, unseen

    def _as_named(self, task: FaceTask) -> FaceTask:
        """Redacted where somebody said how its track is hidden."""
        how = self.redact_with.get(task.number)
        return task if how is None else task.decided(Outcome.REDACTED, f"{how.value}, as named", redaction=how)

    def _hidden(self, task: FaceTask, role: Role | None, sighting: Sighting, hidden: Collection[int]) -> FaceTask:
        """Redacted where the track says that nothing can be generated."""
        if not task.pending:
            return task
        if sighting.origin is Origin.HELD:
            return task.decided(Outcome.REDACTED, "lost; it could still be there", **BLURRED)
        if role is None:
            why = "landmarks do not fit the detection in any frame"
            return task.decided(Outcome.REDACTED, why, **BLURRED)
        if task.number in hidden:
            return task.decided(Outcome.REDACTED, "the mean of all its frames was too similar to the source")
        if doubt := self.scan.doubt(task.number):
            return task.decided(Outcome.REDACTED, doubt, **BLURRED)
        return task

    def _ready(self, task: FaceTask, found: FaceTask, role: Role, sighting: Sighting) -> FaceTask:
        """With what was read in this frame, less what may not pass."""
        if found.outcome is Outcome.FAILED:
            return task.decided(Outcome.FAILED, found.reason)
        blurred = {} if sighting.origin is Origin.FOUND else BLURRED
        if found.outcome is Outcome.REDACTED:
            return task.decided(Outcome.REDACTED, found.reason, **blurred)
        if blurred and float(found.embedding @ role.embedding) < self.likely:
            return task.decided(Outcome.REDACTED, f"{sighting.origin.value}, and not seen there", **blurred)
        assert found.analysis is not None  # or it had failed
        assert role.target is not None  # or it had been kept
        wanted = as_set(role.motion(found.analysis.attributes.to_dict()), self.settings)
        return replace(
            found, number=task.number, seed=task.seed, outcome=None, reason="", embedding=role.embedding,
            wanted=wanted, targets=(role.target,),
        )  # fmt: skip


def _is_empty(sighting: Sighting) -> bool:
    """Whether somebody named this box, and no face was found in it."""
    return sighting.origin is Origin.FOUND and not sighting.face.score
