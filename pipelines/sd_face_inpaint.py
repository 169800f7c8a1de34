"""Generates a new face in an erased crop with any Stable Diffusion 1 checkpoint: a custom Diffusers pipeline."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import IPAdapterMixin, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    ResNetForImageClassification,
)

# The Hub loader fetches the files that this one names, and no others.
from .conditioning import FIELDS  # noqa: F401
from .guidance import with_cfg  # noqa: F401
from .id_encoder import embed  # noqa: F401
from .inputs import as_tensor  # noqa: F401
from .repulsion import Repulsion  # noqa: F401
from .sampler import Sampler  # noqa: F401
from .schedule import levels  # noqa: F401
from .sd_base import FaceInpaintCall
from .sd_checks import check_components  # noqa: F401
from .sd_denoiser import FaceDenoiser  # noqa: F401
from .sd_guider import IdentityBranchGuidance  # noqa: F401
from .sd_landmarks import draw_landmarks  # noqa: F401
from .sd_prompt import encode


class StableDiffusionFaceInpaintPipeline(
    FaceInpaintCall, DiffusionPipeline, StableDiffusionLoraLoaderMixin, IPAdapterMixin, TextualInversionLoaderMixin
):
    """Inpaints faces with a Stable Diffusion 1 unet, through the embedded model's call (`sd_base.FaceInpaintCall`).

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: of the checkpoint. A unet of 9 channels inpaints; one of 4
            generates and has the surroundings blended in at every step.
        controlnet: reads drawn landmarks. Needed only for `landmarks`.
        image_encoder, feature_extractor: of an IP-Adapter, see `load_ip_adapter`.
        id_encoder: the identity encoder; its logits are the embedding. Needed only for `repulsion` and `identity`.
        preview_vae: a tiny autoencoder of the same latents, through which energies see every step; without
            it the vae does, at many times the price.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"
    addition_embed_type = None

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        controlnet: ControlNetModel = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        id_encoder: ResNetForImageClassification = None,
        preview_vae: AutoencoderTiny = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            controlnet=controlnet,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            id_encoder=id_encoder,
            preview_vae=preview_vae,
        )
        self.image_processor = VaeImageProcessor(do_resize=False)

    @property
    def text_width(self) -> int:
        """Width of the words that the text encoder writes."""
        return self.text_encoder.config.hidden_size

    def encode_texts(
        self, prompts: Sequence[str], device: torch.device | str, clip_skip: int | None = None
    ) -> tuple[torch.Tensor, None]:
        """Texts -> (B, T, C) token features, and no pooled text.

        Args:
            prompts: B texts.
            device: where the encoder runs.
            clip_skip: layers left out at its end; None for none.
        """
        words = self.maybe_convert_prompt(list(prompts), self.tokenizer)
        hidden = None if clip_skip is None else -1 - clip_skip
        text, _ = encode(self.tokenizer, self.text_encoder, words, device, hidden)
        if hidden is not None:
            # transformers 5 has the norm on the model itself, 4 one below.
            model: Any = getattr(self.text_encoder, "text_model", self.text_encoder)
            text = model.final_layer_norm(text)
        return text, None

    def added_conditions(self, pooled: None, size: int) -> dict[str, torch.Tensor]:
        """None beside the words, where SDXL has (B, P) and (B, 6).

        Args:
            pooled, size: not read; SDXL has a use for them.
        """
        return {}
