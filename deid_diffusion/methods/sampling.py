"""Calls the crop-level pipeline for a batch of faces, whichever family it is of."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..compositing.colour import below_eyes, dim_halo, match_skin
from ..compositing.grain import crispen
from ..faces.attributes import Attributes
from ..faces.estimator import FaceEstimator, as_unit
from ..faces.geometry import hull_distance
from ..faces.skin import LIGHT_NAMES
from ..faces.task import FaceTask, Target
from ..pipelines.conditioning import ATTRIBUTE_NAMES
from ..pipelines.repulsion import Energy, Repulsion
from ..settings import Settings
from ..types import FaceCrop

EDGE = 0.12  # of the crop's side: how far past the landmarks' hull the skin's colour is still corrected


@dataclass(frozen=True, eq=False)
class Start:
    """Generated faces to go on from, instead of noise.

    Attributes:
        images: (B, S, S, 3) uint8 RGB, never the source's.
        strength: share of the steps that are run on them, the last ones, in (0, 1].
    """

    images: np.ndarray
    strength: float


def starts_from_images(pipeline: Any) -> bool:
    """Whether it can go on from generated faces."""
    return "init_image" in inspect.signature(pipeline.__call__).parameters


def gets_detail(pipeline: Any, crop: FaceCrop) -> bool:
    """Whether there is a detail stage, and the face large enough for it: more pixels in the picture than the base has.

    Args:
        pipeline: of any family.
        crop: of the face.
    """
    if getattr(pipeline, "detail", None) is None:
        return False
    scale = float(np.sqrt(abs(np.linalg.det(crop.crop_from_image[:, :2]))))
    return len(crop.mask) / scale > pipeline.base_size


def reads_words(pipeline: Any) -> bool:
    """Whether it is of the Stable Diffusion family, which is conditioned by words."""
    return hasattr(pipeline, "tokenizer")


def check_settings(pipeline: Any, settings: Settings) -> None:
    """Checks that a pipeline can follow the settings.

    Args:
        pipeline: of any family.
        settings: of the run.

    Raises:
        ValueError: words for a model that reads none, or an attribute that is younger than it.
    """
    known = ATTRIBUTE_NAMES[: getattr(pipeline, "attribute_count", len(ATTRIBUTE_NAMES))]
    if unread := [name for name in settings.attributes if name not in known]:
        raise ValueError(f"the loaded model was trained before there was {', '.join(unread)}; leave it out")
    given = [name for name in ("prompt", "negative_prompt") if getattr(settings, name)]
    if given and not reads_words(pipeline):
        raise ValueError(
            f"the embedded model reads no words, got {' and '.join(given)}; set attributes, or load a Stable "
            "Diffusion checkpoint"
        )


def batch_size(pipeline: Any, settings: Settings) -> int:
    """Faces a call: as set, or what fits the memory that each family needs.

    Args:
        pipeline: of any family.
        settings: of the run.
    """
    return settings.batch or (1 if reads_words(pipeline) else 8)


def candidate_count(pipeline: Any, settings: Settings) -> int:
    """Candidates that are generated for each face: as set, or what each family can afford.

    Args:
        pipeline: of any family.
        settings: of the run.
    """
    return settings.candidates or (1 if reads_words(pipeline) else 2)


def effective_settings(pipeline: Any, settings: Settings) -> Settings:
    """The settings with the family's own values in the place of None, and the defaults where a setting says nothing.

    Two spellings of what gives the same pictures become the same.

    Args:
        pipeline: of any family.
        settings: of the run.
    """
    default, family = Settings(), inspect.signature(pipeline.__call__).parameters
    steps, scale = (family[name].default for name in ("num_inference_steps", "guidance_scale"))
    unread: tuple[str, ...] = ("max_pixels",) if reads_words(pipeline) else ("max_pixels", "landmark_style")
    unread += ("k", "cohort") if settings.method in ("inpaint", "swap") else ()
    unread += ("target", "attraction") if settings.method in ("inpaint", "k-same") else ()
    unread += ("against", "max_change", "max_dssim") if settings.method != "perturb" else ()
    return replace(
        settings,
        steps=steps if settings.steps is None else settings.steps,
        guidance_scale=scale if settings.guidance_scale is None else settings.guidance_scale,
        candidates=candidate_count(pipeline, settings),
        batch=batch_size(pipeline, settings),
        drop_attributes=tuple(sorted({*settings.drop_attributes})),
        **{name: getattr(default, name) for name in unread},
    )


def wanted_attributes(task: FaceTask, settings: Settings) -> Attributes:
    """What the new face is to be like: the source's attributes in their steps, less what is dropped, as set.

    Args:
        task: analyzed; its seed counts where the dial moves the skin's colour.
        settings: of the run.
    """
    assert task.analysis is not None
    level = settings.level
    moved = task.analysis.attributes.shifted(level.jitter(task.draw_seed(use="skin")))
    return as_set(moved.quantize(level.coarser, settings.quantization), settings)


def as_set(attributes: Attributes, settings: Settings) -> Attributes:
    """Attributes less what is dropped, with what the user set.

    Args:
        attributes: of a face.
        settings: what is dropped and `attributes` count; the latter win.
    """
    return attributes.with_changes(dict.fromkeys(settings.dropped)).with_changes(settings.attributes)


def target_meshes(estimator: FaceEstimator, tasks: Sequence[FaceTask], targets: Sequence[Target]) -> list[np.ndarray]:
    """For each task (478, 2) x y in crop pixels: the target's geometry in the wanted pose and expression.

    Args:
        estimator: whose face model is bent.
        tasks: analyzed, with `wanted` set.
        targets: who each is to become.
    """
    rows = zip(tasks, targets, strict=True)
    return [estimator.target_mesh(task.analysis, task.wanted, target.shape_params) for task, target in rows]


def sample(
    pipeline: Any,
    tasks: Sequence[FaceTask],
    targets: Sequence[Target],
    meshes: Sequence[np.ndarray],
    seeds: Sequence[int],
    settings: Settings,
    repulsion: Repulsion | None = None,
    start: Start | None = None,
    energies: Sequence[Energy] = (),
) -> np.ndarray:
    """One pipeline call and the colour corrections that belong to it.

    Args:
        pipeline: of any family.
        tasks: the faces, B of them, analyzed and with `wanted` set.
        targets: who each is to become.
        meshes: (478, 2) x y in crop pixels for each, with the target's geometry and never the source's.
        seeds: of each face's noise.
        settings: of the run.
        repulsion: instead of the settings' own.
        start: faces to go on from; for pipelines that can, see `starts_from_images`.
        energies: what else the faces are moved down, see `pipelines.repulsion.Energy`.

    Returns:
        (B, S, S, 3) uint8, new where `inpaint_mask` is above 0.

    Raises:
        RuntimeError: the model gave numbers that overflowed.
    """
    if reads_words(pipeline):
        own: dict[str, Any] = {"prompt": settings.prompt or None, "negative_prompt": settings.negative_prompt}
        own["landmark_style"] = settings.landmark_style
    else:
        own = {"noise_scale": settings.noise_scale, "with_detail": [gets_detail(pipeline, t.crop) for t in tasks]}
    # What is not set is left to the pipeline, whose defaults are those of its family.
    rates = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance_scale}
    own |= {name: value for name, value in rates.items() if value is not None}
    if start is not None:
        own |= {"init_image": start.images, "strength": start.strength}
        if settings.steps is not None:
            own["num_inference_steps"] = max(settings.steps, math.ceil(1 / start.strength))  # or none would be run
    # Without a ControlNet there is nobody to read landmarks: pose then follows from surroundings and words.
    no_landmarks = reads_words(pipeline) and pipeline.controlnet is None
    crops = np.stack([task.crop.image for task in tasks])
    # The mask falls off over a margin, and all of it must go; pipelines replace what is at least 0.5.
    inpainted = torch.from_numpy(np.stack([task.inpaint_mask for task in tasks]) > 0)[:, None]
    out = pipeline(
        image=crops,
        mask_image=inpainted.float(),
        landmarks=None if no_landmarks else np.stack(meshes),
        attributes=[t.wanted.to_dict() for t in tasks],
        identity=torch.from_numpy(np.stack([t.embedding for t in targets])),
        repulsion=settings.repulsion if repulsion is None else repulsion,
        source_embedding=torch.from_numpy(np.stack([t.embedding for t in tasks])),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        energies=energies,
        output_type="pt" if reads_words(pipeline) else "latent",
        return_dict=False,
        **own,
    )[0].float()
    if not torch.isfinite(out).all():
        raise RuntimeError("the model gave values that are not finite")
    if reads_words(pipeline):
        out = out * 2 - 1
    else:
        # Latents of the embedded model are pixels, not yet rounded into [0, 1].
        known = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 * 2 - 1).to(out)
        out = torch.where(inpainted.to(out.device), out.clamp(-1, 1), known)
    out = _toned(out, tasks, meshes)
    levels = ((out + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
    if not reads_words(pipeline):
        rows = zip(levels, tasks, own["with_detail"], strict=True)
        enlarged = pipeline.size / pipeline.base_size
        levels = np.stack(
            [one if detailed else crispen(one, task.inpaint_mask > 0, enlarged) for one, task, detailed in rows]
        )
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _toned(out: torch.Tensor, tasks: Sequence[FaceTask], meshes: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, 3, S, S): the skin in the colour that was asked for; what is beside it keeps its own, and does not glow."""
    colours = [[getattr(t.wanted, name) for name in LIGHT_NAMES[:3]] for t in tasks]
    wanted = torch.tensor([[float("nan") if v is None else v for v in row] for row in colours])
    size, points = out.shape[-1], torch.from_numpy(np.stack(meshes)).to(out)
    beyond = torch.from_numpy(np.stack([hull_distance(mesh, size) for mesh in meshes])[:, None]).to(out) / (
        EDGE * size
    )
    inpainted = torch.from_numpy(np.stack([task.inpaint_mask > 0 for task in tasks])[:, None]).to(out)
    # Within as much of the outline, on either side, there may be no skin.
    outline = (1 + beyond).clamp(0, 1) * below_eyes(points, size) * inpainted
    out = match_skin(out, points, wanted.to(out), (1 - beyond.clamp(0, 1)) * inpainted, outline)
    known = as_unit(np.stack([task.crop.image for task in tasks])).to(out)
    return dim_halo(out, points, known, inpainted, outline)
