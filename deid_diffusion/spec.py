"""Says how to build an anonymizer, in plain values: what another process, an actor or a worker is sent."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike


@dataclass(frozen=True)
class AnonymizerSpec:
    """What `FaceAnonymizer.from_pretrained` takes; picklable, and `FaceAnonymizer.from_spec`
    makes the same anonymizer of it anywhere.

    Attributes:
        model: "org/name" on the Hub, or the folder of a pipeline: face256 with its identities, as `deid train pack`
            writes it, or Stable Diffusion 1 or XL. None for the shipped face256. Only what is named is downloaded.
        device: a torch device: "cpu", "cuda", "cuda:1", "mps"; or "auto" for a CUDA GPU where there is one.
        estimator: folder of the landmark and attribute estimator; None for the shipped one.
        id_encoder: folder with the identity encoder, the identities in its space and its thresholds; None for the
            model's own for face256, the shipped one for Stable Diffusion.
        backend: what runs the unet, see `models.backends.use_backend`: "onnx" (ONNX Runtime, CPU), "torch", "compile",
            or "auto" for ONNX Runtime where it is installed and works.
        pipeline: "face256", "sd" or "sdxl"; None for what the checkpoint says.
        revision: commit of a Hub checkpoint; pin it, a branch can change or vanish.
        dtype: "float32", "float16" or "bfloat16": precision of the model; the identity encoder stays in float32.
        controlnet: face-landmark ControlNet: folder, "org/name" or "org/name@revision/subfolder". Stable Diffusion.
        preview_vae: tiny autoencoder that makes repulsion cheap; named like `controlnet`. Stable Diffusion.
        variant: "fp16" and the like, as diffusers knows it.
        detection: "fast", or "thorough" for passes over the turned picture too, see `faces.fast_detect`.
    """

    model: str | PathLike | None = None
    device: str = "cpu"
    estimator: str | PathLike | None = None
    id_encoder: str | PathLike | None = None
    backend: str = "auto"
    pipeline: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    controlnet: str | PathLike | None = None
    preview_vae: str | PathLike | None = None
    variant: str | None = None
    detection: str = "fast"
