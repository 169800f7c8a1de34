"""Cloaks faces: changes them so that recognisers take them for somebody else, and people see no difference.

It hides nobody from people, and from machines only as far as they are like those that the change was made against.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..compositing.paste import feather
from ..faces.task import FaceTask
from ..messages import brief_error
from ..pipelines.id_encoder import embed, in_float32
from ..settings import Settings
from ..types import Outcome
from . import attack
from .identity_bank import IdentityBank
from .protocol import Context, register
from .recognisers import Recogniser, load_recogniser

log = logging.getLogger(__name__)
FEWEST_PX = 32  # of a crop's side in the picture: below, a change within the bound moves no recogniser


@register("perturb")
@dataclass(frozen=True)
class Perturb:
    """An adversarial change of each face, which stays as it is to every person."""

    name: str = "perturb"
    reads_faces: bool = True
    uses_targets: bool = False

    def __call__(self, tasks: Sequence[FaceTask], context: Context) -> list[FaceTask]:
        """CLOAKED where every recogniser with a threshold takes the face for somebody else, else REDACTED."""
        against = [load_recogniser(spec) for spec in context.settings.against]
        return [self._cloaked(task, context, against) for task in tasks]

    @staticmethod
    def check(settings: Settings, bank: IdentityBank) -> None:
        """Loads the recognisers, so that what cannot be used is refused before anything is done.

        Args:
            settings: `against` counts.
            bank: not read.

        Raises:
            RecogniserError: a file that is none, or has no gradients.
        """
        for spec in settings.against:
            load_recogniser(spec)

    @staticmethod
    def _cloaked(task: FaceTask, context: Context, against: Sequence[Recogniser]) -> FaceTask:
        pixels = round(len(task.crop.image) / np.sqrt(abs(np.linalg.det(task.crop.crop_from_image[:, :2]))))
        if pixels < FEWEST_PX:
            return task.decided(Outcome.REDACTED, f"too small to be cloaked: {pixels} pixels, wanted {FEWEST_PX}")
        try:
            with context.timing("inpaint"):
                generated = _attacked(task, context, against, pixels)
            with context.timing("verify"):
                return _verified(replace(task, generated=generated), context, against)
        except Exception as error:
            log.exception("cloaking failed")
            return task.decided(Outcome.FAILED, f"cloaking failed: {brief_error(error)}")


def _attacked(task: FaceTask, context: Context, against: Sequence[Recogniser], pixels: int) -> np.ndarray:
    """(S, S, 3) uint8: the crop with its change."""
    settings, seed = context.settings, task.draw_seed()
    id_encoder = in_float32(context.pipeline.id_encoder)
    device = id_encoder.device

    def guide(levels: torch.Tensor) -> torch.Tensor:
        return embed(id_encoder, (levels / 127.5 - 1).to(device)).to(levels)

    recognisers: list[attack.Embed] = [guide, *(partial(one.embed, landmarks=task.crop.landmarks) for one in against)]
    crop = _levels(task.crop.image)
    weight = torch.from_numpy(feather(task.crop)[0])[None, None]
    generator = torch.Generator().manual_seed(seed)
    change = attack.perturb(crop, weight, recognisers, int(settings.max_change), generator, pixels)
    change = attack.within_dssim(crop, change, weight, settings.max_dssim)
    return (crop + change).round().clamp(0, 255)[0].permute(1, 2, 0).numpy().astype(np.uint8)


def _verified(task: FaceTask, context: Context, against: Sequence[Recogniser]) -> FaceTask:
    """Decided by what the recognisers say of the 8-bit crop."""
    similarity = float(context.embed(task.generated[None])[0] @ task.embedding)
    task = replace(task, similarity=similarity, result_seed=task.draw_seed(), tries=1)
    if similarity >= context.threshold:
        return task.decided(
            Outcome.REDACTED, f"not cloaked: similarity {similarity:.2f}, threshold {context.threshold:.2f}"
        )
    said = [f"identity encoder {similarity:.2f}"]
    for one in against:
        with torch.no_grad():
            rows = [one.embed(_levels(image), task.crop.landmarks) for image in (task.crop.image, task.generated)]
        cosine = float((rows[0] * rows[1]).sum())
        if one.form.threshold is not None and cosine >= one.form.threshold:
            return task.decided(
                Outcome.REDACTED,
                f"not cloaked: similarity {cosine:.2f} by {one.name}, threshold {one.form.threshold:g}",
            )
        said.append(f"{one.name} {cosine:.2f}")
    return task.decided(Outcome.CLOAKED, f"similarity to itself: {', '.join(said)}")


def _levels(image: np.ndarray) -> torch.Tensor:
    """(S, S, 3) uint8 -> (1, 3, S, S) float32 levels."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
