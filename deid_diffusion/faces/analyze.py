"""Reads every face of a picture: crop, landmarks, attributes, embedding, and what the model must not see."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..messages import brief_error
from ..types import Face, FaceCrop, Outcome, Redaction
from .align import crop_faces, follow_faces
from .backdrop import left_over
from .estimator import FaceAnalysis, FaceEstimator
from .geometry import apply, invert
from .masks import GROWTH, make_inpaint_mask
from .ood_score import no_face
from .skin_texture import skin_texture
from .task import FaceTask

log = logging.getLogger(__name__)
# Of 57 detections in ten photos of groups, hands, leaves and a bag had scores of .38 to .54 and were 1.17 to 1.31
# times as far from photos as faces are; faces below that score were smaller than 13 px, where a blur looks the same.
UNSURE_SCORE, UNLIKE_PHOTOS = 0.6, 1.1
AT_ONCE = 16  # faces that are read in one go; memory goes with it
Embed = Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) uint8 -> (B, D) float32 unit norm
Read = tuple[FaceAnalysis, np.ndarray | None]  # what a crop says, and its (D,) embedding


def analyze_faces(
    image: np.ndarray,
    tasks: Sequence[FaceTask],
    estimator: FaceEstimator,
    embed: Embed | None,
    size: int,
    growth: float = GROWTH,
    starts: Mapping[int, np.ndarray] | None = None,
    moving: bool = False,
) -> list[FaceTask]:
    """Reads the faces of one picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        tasks: one for every face that was detected in it: neighbours are no context for each other. Those that are
            decided stay as they are.
        estimator: landmarks and attributes.
        embed: the identity encoder; None where it is known who they are: only what moves is read.
        size: side S of the crops in pixels.
        growth: of the masks, see `masks.face_mask`.
        starts: of some tasks, by their numbers, where the face was a moment ago, see `follow_faces`; without
            `embed` only.
        moving: whether mouths are read as those of the frames without `embed` are, see `FaceEstimator.look_closer`.

    Returns:
        the tasks in their order; REDACTED where landmarks do not fit the detection, FAILED where a model broke.
    """
    faces, pending = [task.face for task in tasks], [task for task in tasks if task.pending]
    followed = [task for task in pending if embed is None and task.number in (starts or {})]
    others = [task for task in pending if task not in followed]
    found: dict[int, tuple[FaceCrop | None, Read | Exception | None]] = {}
    try:
        crops = crop_faces(image, [task.face for task in others], estimator, size, growth)
        before = [(starts or {})[task.number] for task in followed]
        seen = follow_faces(image, [task.face for task in followed], before, estimator, size, growth)
    except Exception as error:
        log.exception("reading faces failed")
        done = [task.decided(Outcome.FAILED, f"reading failed: {brief_error(error)}") for task in pending]
    else:
        numbers = [task.number for task in others]
        found = dict(zip(numbers, zip(crops, _read_all(crops, estimator, embed, moving), strict=True), strict=True))
        for task, one in zip(followed, seen, strict=True):
            found[task.number] = (None, None) if one is None else (one[0], (one[1], None))
        still = not moving and embed is not None
        done = [_analyzed(image, task, *found[task.number], faces, still) for task in pending]
    rest = iter(done)
    return [next(rest) if task.pending else task for task in tasks]


def doubted(task: FaceTask) -> FaceTask:
    """Blurred where it may be no face at all: among leaves a new face would be seen, and a blur is not.

    Args:
        task: of a face that was detected, analyzed.
    """
    if not task.pending or task.analysis is None or not 0 < task.face.score < UNSURE_SCORE:
        return task
    odd = task.analysis.ood_score
    if odd < UNLIKE_PHOTOS:
        return task
    return task.decided(Outcome.REDACTED, no_face(odd), redaction=Redaction.BLUR, doubtful=True)


def _analyzed(
    image: np.ndarray,
    task: FaceTask,
    crop: FaceCrop | None,
    read: Read | Exception | None,
    faces: Sequence[Face],
    still: bool,
) -> FaceTask:
    if crop is None or read is None:
        return task.decided(Outcome.REDACTED, "landmarks do not fit the detection")
    if isinstance(read, Exception):
        log.error("reading face %d failed", task.number, exc_info=read)
        return task.decided(Outcome.FAILED, f"reading failed: {brief_error(read)}")
    analysis, embedding = read
    crop, inpaint_mask = erased(crop, image.shape, [face for face in faces if face is not task.face], still)
    return replace(
        task,
        crop=crop,
        analysis=analysis,
        embedding=embedding,
        inpaint_mask=inpaint_mask,
        skin_texture=skin_texture(image, apply(invert(crop.crop_from_image), crop.landmarks.astype(float))),
    )


def erased(
    crop: FaceCrop, shape: tuple[int, ...], others: Sequence[Face], still: bool = True
) -> tuple[FaceCrop, np.ndarray]:
    """What of a crop is replaced, and what the model must not see.

    Args:
        crop: with the mask of its landmarks.
        shape: (H, W, ...) of the picture.
        others: faces beside it.
        still: whether it is of a photo: from one frame of a clip to the next, bits would come and go.

    Returns:
        the crop, whose mask holds what the first one left over of the face, too; (S, S) float32 for the model.
    """
    inpaint_mask = make_inpaint_mask(crop, shape, others)
    if still:
        rest = left_over(crop.image, inpaint_mask <= 0, crop.mask > 0, crop.landmarks)
        crop = replace(crop, mask=np.maximum(crop.mask, rest))
        inpaint_mask = np.maximum(inpaint_mask, rest)
    return crop, inpaint_mask


def _read_all(
    crops: Sequence[FaceCrop | None], estimator: FaceEstimator, embed: Embed | None, moving: bool
) -> list[Read | Exception | None]:
    """What each crop says and its (D,) embedding; or why it cannot be read; None where there is no crop."""
    found: list[Read | Exception | None] = [None] * len(crops)
    there = [number for number, crop in enumerate(crops) if crop is not None]
    for batch in [there[first : first + AT_ONCE] for first in range(0, len(there), AT_ONCE)]:
        try:
            results: Sequence[Read | Exception] = _read(batch, crops, estimator, embed, moving)
        except Exception:
            # One of them cannot be read; alone, it does not take the others along.
            log.debug("reading %d faces at once failed, they are read one by one", len(batch), exc_info=True)
            results = [_read_one(number, crops, estimator, embed, moving) for number in batch]
        for number, result in zip(batch, results, strict=True):
            found[number] = result
    return found


def _read(
    numbers: Sequence[int],
    crops: Sequence[FaceCrop | None],
    estimator: FaceEstimator,
    embed: Embed | None,
    moving: bool,
) -> list[Read]:
    images = np.stack([crop.image for number in numbers if (crop := crops[number]) is not None])
    embeddings = [None] * len(images) if embed is None else embed(images)
    analyses = estimator.analyze(images, moving=embed is None)
    analyses = estimator.look_closer(list(images), analyses, moving or embed is None)
    return list(zip(analyses, embeddings, strict=True))


def _read_one(
    number: int, crops: Sequence[FaceCrop | None], estimator: FaceEstimator, embed: Embed | None, moving: bool
) -> Read | Exception:
    try:
        return _read([number], crops, estimator, embed, moving)[0]
    except Exception as error:
        return error
