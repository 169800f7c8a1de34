"""Replaces every face of a picture with somebody who does not exist."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Heavy modules load on first use, so that `import deid_diffusion` and `deid --help` stay free of torch.
_WHERE = {
    "FaceAnonymizer": "anonymizer",
    "AnonymizedImage": "anonymizer",
    "Attributes": "attributes",
    "Repulsion": "pipelines.repulsion",
    "FaceInpaintPipeline": "pipelines.face_inpaint",
    "StableDiffusionFaceInpaintPipeline": "pipelines.sd_face_inpaint",
    "StableDiffusionXLFaceInpaintPipeline": "pipelines.sdxl_face_inpaint",
    "Settings": "settings",
    "Face": "types",
    "FaceCrop": "types",
    "FaceReport": "types",
    "Outcome": "types",
    "Redaction": "types",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'deid_diffusion' has no attribute {name!r}")
    return getattr(import_module(f"deid_diffusion.{_WHERE[name]}"), name)
