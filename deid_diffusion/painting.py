"""Calls the crop-level pipeline for a batch of faces, whichever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .attributes import FaceReader, as_unit
from .detail import crispen
from .geometry import hull_distance
from .identities import Target
from .light import LIGHT_NAMES, below_eyes, dim_halo, match_skin
from .preparing import ReadyFace
from .settings import Settings

EDGE = 0.12  # of the crop's side: how far past the landmarks' hull the skin's colour is still corrected


def reads_words(pipeline: Any) -> bool:
    """Whether it is of the Stable Diffusion family, which is told what to paint in words."""
    return hasattr(pipeline, "tokenizer")


def check_settings(pipeline: Any, settings: Settings) -> None:
    """Raises ValueError for settings that this pipeline cannot follow."""
    given = [name for name in ("prompt", "negative_prompt") if getattr(settings, name)]
    if given and not reads_words(pipeline):
        raise ValueError(
            f"the embedded model reads no words, got {' and '.join(given)}; set attributes, or load a Stable "
            "Diffusion checkpoint"
        )


def batch_size(pipeline: Any, settings: Settings) -> int:
    """Faces a call: as set, or what fits the memory that each family needs."""
    return settings.batch or (1 if reads_words(pipeline) else 8)


def candidates(pipeline: Any, settings: Settings) -> int:
    """Faces that are painted for each source: as set, or what each family can afford."""
    return settings.candidates or (1 if reads_words(pipeline) else 2)


def paint_people(
    pipeline: Any,
    reader: FaceReader,
    faces: Sequence[ReadyFace],
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: Settings,
    push: float = 1.0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """`paint` with the targets' geometry: the pictures, and for each (478, 2) where its landmarks were asked to be."""
    rows = zip(faces, targets, strict=True)
    meshes = [reader.guide_mesh(face.reading, face.wanted, target.person) for face, target in rows]
    return paint(pipeline, faces, targets, meshes, seeds, settings, push), meshes


def paint(
    pipeline: Any,
    faces: Sequence[ReadyFace],
    targets: Sequence[Target],
    meshes: Sequence[np.ndarray],
    seeds: Sequence[int],
    settings: Settings,
    push: float = 1.0,
) -> np.ndarray:
    """One call.

    Args:
        pipeline: of any family.
        faces: what to paint, B of them.
        targets: who each is to become.
        meshes: (478, 2) x y in crop pixels for each, with the target's geometry and never the source's.
        seeds: of each face.
        settings: of the picture.
        push: factor on the repulsion's scale.

    Returns:
        (B, S, S, 3) uint8, new where `erased` is above 0.

    Raises:
        RuntimeError: the model gave numbers that overflowed.
    """
    if reads_words(pipeline):
        own = {"prompt": settings.prompt or None, "negative_prompt": settings.negative_prompt}
        own["landmark_style"] = settings.landmark_style
    else:
        own = {"noise_scale": settings.noise_scale}
    # What is not set is left to the pipeline, whose defaults are those of its family.
    rates = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance_scale}
    own |= {name: value for name, value in rates.items() if value is not None}
    # Without a ControlNet there is nobody to read landmarks: pose then follows from surroundings and words.
    blind = reads_words(pipeline) and pipeline.controlnet is None
    crops = np.stack([f.crop.image for f in faces])
    # The erased mask falls off over a margin, and all of it must go; pipelines replace what is at least 0.5.
    erased = torch.from_numpy(np.stack([f.erased for f in faces]) > 0)[:, None]
    out = pipeline(
        image=crops,
        mask_image=erased.float(),
        landmarks=None if blind else np.stack(meshes),
        attributes=[f.wanted.to_dict() for f in faces],
        identity=torch.from_numpy(np.stack([t.embedding for t in targets])),
        repulsion=replace(settings.repulsion, scale=settings.repulsion.scale * push),
        source_embedding=torch.from_numpy(np.stack([f.embedding for f in faces])),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt" if reads_words(pipeline) else "latent",
        **own,
    ).images.float()
    if not torch.isfinite(out).all():
        raise RuntimeError("the model gave values that are not finite")
    if reads_words(pipeline):
        out = out * 2 - 1
    else:
        # Latents of the embedded model are pixels, not yet rounded into [0, 1].
        known = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 * 2 - 1).to(out)
        out = torch.where(erased.to(out.device), out.clamp(-1, 1), known)
    out = _toned(out, faces, meshes)
    levels = ((out + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
    if not reads_words(pipeline):
        levels = np.stack([crispen(one, face.erased > 0) for one, face in zip(levels, faces, strict=True)])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _toned(out: torch.Tensor, faces: Sequence[ReadyFace], meshes: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, 3, S, S): the skin in the colour that was asked for; what is beside it keeps its own, and does not glow."""
    colours = [[getattr(f.wanted, name) for name in LIGHT_NAMES[:3]] for f in faces]
    wanted = torch.tensor([[float("nan") if v is None else v for v in row] for row in colours])
    size, points = out.shape[-1], torch.from_numpy(np.stack(meshes)).to(out)
    beyond = torch.from_numpy(np.stack([hull_distance(mesh, size) for mesh in meshes])[:, None]).to(out) / (
        EDGE * size
    )
    erased = torch.from_numpy(np.stack([face.erased > 0 for face in faces])[:, None]).to(out)
    # Within as much of the outline, on either side, there may be no skin.
    outline = (1 + beyond).clamp(0, 1) * below_eyes(points, size) * erased
    out = match_skin(out, points, wanted.to(out), (1 - beyond.clamp(0, 1)) * erased, outline)
    known = as_unit(np.stack([face.crop.image for face in faces])).to(out)
    return dim_halo(out, points, known, erased, outline)
