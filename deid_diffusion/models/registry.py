"""Tells which crop-level pipeline a checkpoint is for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..messages import brief


@dataclass(frozen=True)
class Family:
    """One crop-level pipeline and the checkpoints that it can take over.

    Attributes:
        file: its file in `pipelines/`, without the ending.
        pipeline: its class.
        takes: `_class_name` of the checkpoints it loads beside its own.
    """

    file: str
    pipeline: str
    takes: tuple[str, ...] = ()

    def load_class(self) -> Any:
        """The pipeline's class, from this package."""
        return getattr(import_module(f"deid_diffusion.pipelines.{self.file}"), self.pipeline)


def _takes(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{task}Pipeline" for task in ("", "Inpaint", "ControlNet", "ControlNetInpaint", "Img2Img"))


_SD, _XL = "StableDiffusion", "StableDiffusionXL"
FAMILIES = {
    "face256": Family("face_inpaint", "FaceInpaintPipeline"),
    "sd": Family("sd_face_inpaint", f"{_SD}FaceInpaintPipeline", _takes(_SD)),
    "sdxl": Family("sdxl_face_inpaint", f"{_XL}FaceInpaintPipeline", _takes(_XL)),
}


def pick_family(index: dict[str, Any], pipeline: str | None = None, model: str = "the checkpoint") -> Family:
    """The pipeline for a checkpoint: the one asked for if it can take it, or the one that its index names.

    Args:
        index: the checkpoint's model_index.json.
        pipeline: "face256", "sd" or "sdxl"; None for whatever the index says.
        model: how to call the checkpoint in errors.

    Raises:
        ValueError: nobody takes it, or the one asked for does not.
    """
    if pipeline is not None and pipeline not in FAMILIES:
        raise ValueError(f"pipeline must be one of {', '.join(FAMILIES)}, got {brief(pipeline)}")
    name = index.get("_class_name")
    if isinstance(name, list):
        raise ValueError(
            f"{model} brings its own code ({name[0]}.py), which is not run unasked; read it, then load it yourself by "
            f"DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    fits = [key for key, family in FAMILIES.items() if name == family.pipeline or name in family.takes]
    if not fits or (pipeline is not None and pipeline not in fits):
        wanted = FAMILIES[pipeline] if pipeline else None
        known = [wanted.pipeline, *wanted.takes] if wanted else [family.pipeline for family in FAMILIES.values()]
        other = f"take pipeline={fits[0]!r}" if fits else "take a checkpoint of Stable Diffusion 1, SDXL or face256"
        raise ValueError(f"{model} must be a checkpoint of {' or '.join(known)}, got {name}; {other}")
    return FAMILIES[fits[0]]
