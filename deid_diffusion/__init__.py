"""Replaces every face of a picture with somebody who does not exist."""

from importlib import import_module
from typing import Any

from .telemetry import switch_off

__version__ = "0.2.0.dev0"

switch_off()

# Heavy modules load on first use, so that `import deid_diffusion` and `deid --help` stay free of torch.
_WHERE = {
    "AnonymizedImage": "result",
    "AnonymizerSpec": "spec",
    "Attributes": "faces.attributes",
    "ClipOptions": "clip_run",
    "ClipResult": "clip_result",
    "DeidError": "errors",
    "Face": "types",
    "FaceAnonymizer": "anonymizer",
    "FaceCrop": "types",
    "FaceInpaintPipeline": "pipelines.face_inpaint",
    "FaceReport": "types",
    "FaceTask": "faces.task",
    "FixedTarget": "methods.targets",
    "FreshTargets": "methods.targets",
    "ImageAnalysis": "faces.task",
    "Method": "methods.protocol",
    "Outcome": "types",
    "Pseudonyms": "methods.pseudonyms",
    "Redaction": "types",
    "Repulsion": "pipelines.repulsion",
    "Settings": "settings",
    "StableDiffusionFaceInpaintPipeline": "pipelines.sd_face_inpaint",
    "StableDiffusionXLFaceInpaintPipeline": "pipelines.sdxl_face_inpaint",
    "Target": "faces.task",
    "TargetPolicy": "methods.protocol",
    "TrackTargets": "methods.targets",
    "VideoAnonymizer": "video",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'deid_diffusion' has no attribute {name!r}")
    return getattr(import_module(f"deid_diffusion.{_WHERE[name]}"), name)
