"""Tries two strangers on some key frames of a person, before either is seen in a clip, and takes the better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..faces.attributes import Attributes
from ..faces.lids import DRAWN
from ..faces.masks import blended
from ..faces.motion import DYNAMIC
from ..faces.scan import Scan
from ..faces.task import FaceTask, Target
from ..types import Outcome
from .candidates import candidate_score
from .protocol import Context, Method
from .sampling import as_set, target_meshes

KEYS, KEY_S = 3, 4.0  # of a person, on which they are tried: one, and one more for so many seconds
APART_DEG = 10.0  # by which the poses of two key frames differ
CLEAR = 0.5  # score of a detection from which on a frame can be a key frame
FAILS = 50.0  # cost of a key frame whose new face is rejected; accepted ones cost 5 to 15
MOST = 60  # key frames that are kept of all people: some .7 MB each


class KeyFrames:
    """Some frames of each track, in poses as different as there are.

    Attributes:
        of_track: at most `KEYS` analyzed tasks, by the track's number, that of the first clear frame first.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.of_track = dict[int, list[FaceTask]]()

    def add(self, scan: Scan, tasks: Sequence[FaceTask]) -> None:
        """Takes what is new of the frame that was looked at last.

        Args:
            scan: that looked at it.
            tasks: what was read in it.
        """
        frame = len(scan.linker.times_s) - 1
        for task in tasks:
            if task.embedding is None or task.face.score < CLEAR:
                continue
            for number, track in scan.linker.tracks.items():
                if frame in track.found and np.array_equal(track.found[frame].box, task.face.box):
                    self._keep(scan, number, task)

    def _keep(self, scan: Scan, number: int, task: FaceTask) -> None:
        kept = self.of_track.setdefault(number, [])
        if len(kept) < KEYS and all(_apart_deg(task, other) >= APART_DEG for other in kept):
            kept.append(task)
        if sum(map(len, self.of_track.values())) > MOST:
            known = scan.linker.tracks
            del self.of_track[min(self.of_track, key=lambda one: known[one].seen_s if one in known else 0.0)]


class Audition:
    """Says which of some strangers a person becomes."""

    def __init__(self, method: Method, context: Context, keys: KeyFrames, scan: Scan, seed: int) -> None:
        """Nobody is generated yet.

        Args:
            method: that generates the clip's key frames.
            context: of the clip.
            keys: known by then.
            scan: says how long people are there.
            seed: of the clip.
        """
        self.method, self.keys, self.scan, self.seed = method, keys, scan, seed
        # As the clip will generate them, but that who fails is not tried again.
        self.context = replace(context, settings=replace(context.settings, tries=1))

    def __call__(
        self,
        person: int,
        people: Mapping[int, int],
        wanted: Attributes,
        embedding: np.ndarray,
        targets: Sequence[Target],
    ) -> Target:
        """The one whose faces cost least, see `candidates.candidate_score`, and are not the source's.

        Args:
            person: their number.
            people: of each track.
            wanted: what is asked of all of the person's frames.
            embedding: (D,) unit norm, the source's.
            targets: the first is taken where nothing speaks for another.
        """
        tracks = [track for track, one in people.items() if one == person]
        known = self.scan.linker.tracks
        seen_s = sum(known[track].seen_s for track in tracks if track in known)
        keys = [(track, task) for track in tracks for task in self.keys.of_track.pop(track, [])]
        keys = keys[: min(1 + int(seen_s / KEY_S), KEYS)]
        if not keys:
            return targets[0]
        asked = [self._asked(track, task, wanted, embedding) for track, task in keys]
        tasks = [replace(task, targets=(target,)) for target in targets for task in asked]
        done = self.method(tasks, self.context)
        rows = [done[n : n + len(keys)] for n in range(0, len(done), len(keys))]
        costs = [self._cost(row, embedding) for row in rows]
        return targets[int(np.argmin(costs))]

    def _asked(self, track: int, task: FaceTask, wanted: Attributes, embedding: np.ndarray) -> FaceTask:
        """A key frame as the clip will ask for it: of a face at rest, in the frame's pose and expression."""
        assert task.analysis is not None
        settings = self.context.settings
        own = task.analysis.attributes.quantize(settings.level.coarser).to_dict()
        changes = {name: own[name] for name in DYNAMIC} | {"eyes_open": max(own["eyes_open"], DRAWN)}
        moving = as_set(wanted.with_changes(changes), settings)
        return replace(task, number=track, seed=self.seed, outcome=None, reason="", wanted=moving, embedding=embedding)

    def _cost(self, tasks: Sequence[FaceTask], embedding: np.ndarray) -> float:
        """Of one target on all key frames, decided."""
        made = [task for task in tasks if task.outcome is Outcome.REPLACED]
        cost = FAILS * (len(tasks) - len(made))
        if not made:
            return cost
        images = np.stack([task.generated for task in made])
        mean = self.context.embed(np.stack([blended(task.crop, task.generated) for task in made])).sum(0)
        if float(mean @ embedding) >= self.context.threshold * float(np.linalg.norm(mean)):
            cost += FAILS  # frame by frame they pass; together they would not
        found = self.context.estimator.analyze(images)
        for task, analysis in zip(made, found, strict=True):
            assert task.crop is not None
            assert task.wanted is not None
            mesh = target_meshes(self.context.estimator, [task], task.targets)[0]
            given = task.generated, task.crop.image, task.inpaint_mask, mesh, task.wanted.to_dict(), analysis
            cost += candidate_score(*given, float(task.similarity or 0.0))
        return cost


def _apart_deg(one: FaceTask, other: FaceTask) -> float:
    """The largest difference of two poses' angles."""
    assert one.analysis is not None
    assert other.analysis is not None
    first, second = one.analysis.attributes, other.analysis.attributes
    return max(abs(getattr(first, name) - getattr(second, name)) for name in ("yaw_deg", "pitch_deg", "roll_deg"))
