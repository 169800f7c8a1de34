"""Generates the faces of a clip: anew at key frames, from the face before at others, and carried along in between.

A face that is carried is moved by its own landmarks, and around them by the optical flow of the source's crops. The
source lends its motion, not its pixels. Eyes are generated as the track has them, and blink by moving their lids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..faces.attributes import Attributes
from ..faces.lids import move_lids
from ..faces.masks import blended
from ..faces.task import FaceTask
from ..pipelines.repulsion import as_repulsion
from ..seeds import derived_seed
from ..types import FaceCrop, Outcome
from .batches import in_batches
from .carrying import face_flow, moved, source_flow
from .protocol import Context, Method
from .sampling import Start, batch_size, sample, starts_from_images, target_meshes

log = logging.getLogger(__name__)
KEY_S = 2.0  # between two key frames of a track
KEY_DEG = 15.0  # a pose that differs by more from that of the last key frame asks for a new one
CHAIN_S = 1.0  # a face that was not seen for longer is not carried on
CARRIED = ("mouth_open", "smile", "brow_raise")  # expressions that move a carried face's points
FADE = 4  # frames over which a key frame's face takes over
WRONG_SHARE = 0.2  # of the mask, in which flow is wrong: more, and the face cannot be carried
# Shares of the steps, the last ones, that are run on the carried face; the second where the first is too alike.
STRENGTHS = (0.25, 0.5)


@dataclass(frozen=True, eq=False)
class FrameTasks:
    """The faces of one frame.

    Attributes:
        number: of the frame.
        time_s: of the frame.
        tasks: numbered by their tracks; pending ones are analyzed, with `wanted` and one target.
    """

    number: int
    time_s: float
    tasks: Sequence[FaceTask]


@dataclass(frozen=True, eq=False)
class _Chain:
    """The last generated face of a track.

    Attributes:
        image: (S, S, 3) uint8, from which the next one is made.
        crop: of the source, in the same frame.
        wanted: what `image` was asked to look like.
        number, time_s: of the frame.
        key_s, key_pose: time, and (3,) yaw, pitch and roll in degrees, of the last key frame.
        old: (S, S, 3) uint8, the face before that, while it fades.
        weight: of `image` over `old`.
    """

    image: np.ndarray
    crop: FaceCrop
    wanted: Attributes
    number: int
    time_s: float
    key_s: float
    key_pose: np.ndarray
    old: np.ndarray | None = None
    weight: float = 1.0

    @property
    def shown(self) -> np.ndarray:
        """(S, S, 3) uint8: as it is pasted."""
        return self.image if self.old is None else _mix(self.old, self.image, self.weight)


class FacesInSequence:
    """Generates for all tracks of a clip, block by block: the last frame of a block, then those before it."""

    def __init__(self, method: Method, context: Context, stride: int) -> None:
        """No face is generated yet.

        Args:
            method: generates a face anew.
            context: what it may use.
            stride: frames of a block, from 1.
        """
        self.method, self.context, self.stride = method, context, stride
        self.from_images = starts_from_images(context.pipeline)
        self._chains: dict[int, _Chain] = {}
        self._pooled: dict[int, np.ndarray] = {}

    def __call__(self, block: Sequence[FrameTasks]) -> list[list[FaceTask]]:
        """Decides all tasks of some frames of one shot that follow each other; in their order."""
        before, last = dict(self._chains), block[-1]
        done = self._generate(last)
        self._chains = {n: c for n, c in self._chains.items() if last.time_s - c.time_s <= CHAIN_S}
        between = [[self._carried(task, frame, before) for task in frame.tasks] for frame in block[:-1]]
        return [*between, done]

    def pooled_similarity(self, track: int, source: np.ndarray) -> float | None:
        """Cosine of the mean of a track's generated faces to (D,) its source; None when there are none.

        Averaged over many frames what is left of a person stands out.

        Args:
            track: its number.
            source: (D,) unit norm, by the same encoder.
        """
        if track not in self._pooled:
            return None
        mean = self._pooled[track]
        return float(mean @ source / max(float(np.linalg.norm(mean)), 1e-12))

    def _generate(self, frame: FrameTasks) -> list[FaceTask]:
        """The frame at which a block ends: every face is generated, some from the one before."""
        pending = {task.number: task for task in frame.tasks if task.pending}
        carried = {}
        for number, task in pending.items():
            chain = self._chains.get(number)
            if chain is not None and chain.crop.image.shape == task.crop.image.shape:
                carried[number] = self._carry(chain, task)
        keys = {n for n, task in pending.items() if n not in carried or self._is_key(task, frame, carried[n][2])}
        done = self._refined({n: task for n, task in pending.items() if n not in keys}, carried)
        again = [task for number, task in pending.items() if number not in done]
        new = {task.number: task for task in (self.method(again, self.context) if again else [])}
        self._pool([task for task in new.values() if task.outcome is Outcome.REPLACED])
        for number, task in (new | done).items():
            if task.outcome is Outcome.REPLACED:
                self._chains[number] = self._chain(task, frame, carried.get(number), number in new)
            else:
                self._chains.pop(number, None)
        shown = {
            number: self._shown(task, self._chains[number].shown, frame) if task.outcome is Outcome.REPLACED else task
            for number, task in (new | done).items()
        }
        return [shown[task.number] if task.pending else task for task in frame.tasks]

    def _is_key(self, task: FaceTask, frame: FrameTasks, wrong: float) -> bool:
        chain = self._chains[task.number]
        turned = np.abs(_pose(task) - chain.key_pose).max()
        late = frame.time_s - chain.key_s >= KEY_S - 1e-6
        return not self.from_images or late or turned > KEY_DEG or wrong > WRONG_SHARE

    def _refined(
        self, tasks: Mapping[int, FaceTask], carried: Mapping[int, tuple[np.ndarray, np.ndarray | None, float]]
    ) -> dict[int, FaceTask]:
        """Generated from the carried faces; without those that come out too alike, and those on which models broke."""
        done: dict[int, FaceTask] = {}
        at_once = batch_size(self.context.pipeline, self.context.settings)
        for strength in STRENGTHS:
            left = [task for number, task in tasks.items() if number not in done]

            def generate(batch: Sequence[FaceTask], strength: float = strength) -> dict[int, FaceTask]:
                return self._verified(batch, self._sample(batch, [carried[t.number][0] for t in batch], strength))

            for _, made in in_batches(self.context.pipeline, left, at_once, generate):
                if isinstance(made, Exception):
                    # They become key frames, and those say why nothing can be generated.
                    log.error("generating from the frame before failed", exc_info=made)
                else:
                    done |= made
        return done

    def _sample(self, tasks: Sequence[FaceTask], images: Sequence[np.ndarray], strength: float) -> np.ndarray:
        settings, targets = self.context.settings, [task.targets[0] for task in tasks]
        # The last step needs no push: the face it starts from has been off the source since its key frame.
        push = settings.repulsion_factor if strength > STRENGTHS[0] else 0.0
        base = as_repulsion(settings.repulsion)
        repulsion = replace(base, scale=base.scale * push)
        with self.context.timing("inpaint"), self.context.turn:
            return sample(
                self.context.pipeline, tasks, targets, target_meshes(self.context.estimator, tasks, targets),
                [task.draw_seed() for task in tasks], settings, repulsion, Start(np.stack(images), strength),
            )  # fmt: skip

    def _verified(self, tasks: Sequence[FaceTask], images: np.ndarray) -> dict[int, FaceTask]:
        """Those that may be used."""
        done = [task.decided(Outcome.REPLACED, generated=one) for task, one in zip(tasks, images, strict=True)]
        found = {}
        for task, embedding in zip(done, self._embedded(done), strict=True):
            similarity = float(embedding @ task.embedding)
            if not self.context.policy.rejection(task, similarity):
                found[task.number] = replace(task, similarity=similarity)
                self._pooled[task.number] = self._pooled.get(task.number, 0) + embedding
        return found

    def _pool(self, tasks: Sequence[FaceTask]) -> None:
        for task, embedding in zip(tasks, self._embedded(tasks), strict=True):
            self._pooled[task.number] = self._pooled.get(task.number, 0) + embedding

    def _embedded(self, tasks: Sequence[FaceTask]) -> np.ndarray:
        """(B, D) of the generated faces in their crops."""
        if not tasks:
            return np.zeros((0, 0), np.float32)
        with self.context.timing("verify"):
            return self.context.embed(np.stack([blended(task.crop, task.generated) for task in tasks]))

    def _chain(
        self,
        task: FaceTask,
        frame: FrameTasks,
        carried: tuple[np.ndarray, np.ndarray | None, float] | None,
        is_key: bool,
    ) -> _Chain:
        """The track's chain, one link longer."""
        before, step = self._chains.get(task.number), self.stride / FADE
        if is_key or before is None:
            chain = _Chain(
                task.generated, task.crop, task.wanted, frame.number, frame.time_s, frame.time_s, _pose(task)
            )
            # A face that flow cannot follow, such as one that comes out from behind a hand, has nothing to fade from.
            if carried is None or carried[2] > WRONG_SHARE or step >= 1:
                return chain
            shown = carried[0] if carried[1] is None else _mix(carried[1], carried[0], before.weight)
            return replace(chain, old=shown, weight=step)
        chain = replace(
            before, image=task.generated, crop=task.crop, wanted=task.wanted, number=frame.number,
            time_s=frame.time_s, old=carried[1], weight=min(before.weight + step, 1.0),
        )  # fmt: skip
        return replace(chain, old=None) if chain.weight >= 1 else chain

    def _carried(self, task: FaceTask, frame: FrameTasks, before: Mapping[int, _Chain]) -> FaceTask:
        """A frame between two that were generated: both are carried there, and cross-fade."""
        if not task.pending:
            return task
        chains = [one for one in (before.get(task.number), self._chains.get(task.number)) if one is not None]
        chains = [one for one in chains if one.crop.image.shape == task.crop.image.shape]
        sides = [(chain, *self._carry(chain, task, shown=True)) for chain in dict.fromkeys(chains)]
        sides = [side for side in sides if side[3] <= WRONG_SHARE]
        if not sides:
            done = self.method([task], self.context)[0]
            return self._shown(done, done.generated, frame) if done.outcome is Outcome.REPLACED else done
        image = sides[0][1]
        if len(sides) == 2:
            span = sides[1][0].number - sides[0][0].number
            image = _mix(image, sides[1][1], (frame.number - sides[0][0].number) / max(span, 1))
        return self._shown(task.decided(Outcome.REPLACED), image, frame)

    def _mesh(self, task: FaceTask) -> np.ndarray:
        return target_meshes(self.context.estimator, [task], task.targets[:1])[0]

    def _carry(
        self, chain: _Chain, task: FaceTask, shown: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, float]:
        """The chain's face in the task's frame, see `carry`."""
        with self.context.timing("carry"):
            then = task.wanted.with_changes({name: getattr(chain.wanted, name) for name in CARRIED})
            return carry(chain, task.crop, self._mesh(task), self._mesh(replace(task, wanted=then)), shown)

    def _shown(self, task: FaceTask, image: np.ndarray, frame: FrameTasks) -> FaceTask:
        """A replaced task with its face as it is pasted: it blinks, and grain is new in each frame, as a sensor's."""
        seed = derived_seed(task.draw_seed(), frame.number)
        return replace(task, generated=move_lids(image, self._mesh(task), task.opening), result_seed=seed)


def carry(
    chain: _Chain, crop: FaceCrop, here: np.ndarray, there: np.ndarray, shown: bool = False
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Moves a generated face from one frame to another.

    Args:
        chain: the face, and the source's crop in its frame.
        crop: the source's in the other frame.
        here, there: (478, 2) x y in crop pixels, the points that the face is to have there, and those that it would
            have with the expression of its own frame.
        shown: the face as it was pasted, instead of the one to go on from.

    Returns:
        (S, S, 3) uint8; the fading one likewise or None; and the share of the mask in which the flow is wrong.
    """
    flow, wrong = source_flow(crop, chain.crop)
    flow = face_flow(flow, here, there)
    old = None if shown or chain.old is None else moved(chain.old, flow)
    return moved(chain.shown if shown else chain.image, flow), old, wrong


def _mix(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Two uint8 images, `share` of the other."""
    return cv2.addWeighted(one, 1 - share, other, share, 0)


def _pose(task: FaceTask) -> np.ndarray:
    values = task.analysis.attributes
    return np.array([values.yaw_deg, values.pitch_deg, values.roll_deg])
