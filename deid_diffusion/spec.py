"""Says how to build an anonymizer, in plain values: what another process, an actor or a worker is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anonymizer import FaceAnonymizer


@dataclass(frozen=True)
class AnonymizerSpec:
    """What `FaceAnonymizer.from_pretrained` takes; picklable, and `build()` makes the same anonymizer anywhere.

    Attributes:
        model: "org/name" on the Hub, or the folder of a pipeline: face256 with its identities, as `deid train pack`
            writes it, or Stable Diffusion 1 or XL. None for the shipped face256. Only what is named is downloaded.
        device: a torch device: "cpu", "cuda", "cuda:1", "mps".
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

    def build(self, **components: Any) -> FaceAnonymizer:
        """Loads the weights.

        Args:
            components: finished components that replace the checkpoint's, such as `scheduler`; these are objects, so
                they are no part of a spec.

        Raises:
            FileNotFoundError: no such folder or repository, or a file is missing, with how to get it.
            ValueError: damaged weights, another family, or components, precision or device that do not fit.
            BackendError: a backend that was named cannot run here.
        """
        from .anonymizer import FaceAnonymizer
        from .faces.estimator import FaceEstimator
        from .methods.identity_bank import IdentityBank
        from .models.backends import use_backend
        from .models.loading import IDENTITIES, THRESHOLDS, load_with_guide
        from .models.weights import check_hashes, weights_dir

        names = ("pipeline", "revision", "dtype", "controlnet", "preview_vae", "variant")
        given = {name: getattr(self, name) for name in names} | components
        given = {name: value for name, value in given.items() if value is not None}
        loaded, identities = load_with_guide(self.model, self.device, self.id_encoder, **given)
        loaded.pipe.set_progress_bar_config(disable=True)
        folder = weights_dir("reader") if self.estimator is None else Path(self.estimator)
        hashes = loaded.hashes | {f"estimator/{name}": value for name, value in check_hashes(folder).items()}
        return FaceAnonymizer(
            loaded.pipe,
            FaceEstimator.from_pretrained(folder, self.device),
            IdentityBank.load(identities / IDENTITIES),
            json.loads((identities / THRESHOLDS).read_text()),
            hashes=hashes,
            origin=loaded.origin | {"backend": use_backend(loaded.pipe, self.backend)},
            spec=None if components else self,
        )
