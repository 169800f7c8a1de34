"""Generates a new face in an erased crop with any SDXL checkpoint: a custom Diffusers pipeline."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import IPAdapterMixin, StableDiffusionXLLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
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


class StableDiffusionXLFaceInpaintPipeline(
    FaceInpaintCall, DiffusionPipeline, StableDiffusionXLLoraLoaderMixin, IPAdapterMixin, TextualInversionLoaderMixin
):
    """Inpaints faces with an SDXL unet, through the embedded model's call (`sd_base.FaceInpaintCall`).

    Args:
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler: of the checkpoint. A unet of 9
            channels inpaints; one of 4 generates and has the surroundings blended in at every step.
        controlnet: reads drawn landmarks. Needed only for `landmarks`.
        image_encoder, feature_extractor: of an IP-Adapter, see `load_ip_adapter`.
        id_encoder: the identity encoder; its logits are the embedding. Needed only for `repulsion` and `identity`.
        preview_vae: a tiny autoencoder of the same latents, through which energies see every step; without
            it the vae does, at many times the price.
        force_zeros_for_empty_prompt: an empty text is zeros instead of the encoders' idea of it (SDXL base).
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->unet->vae"
    addition_embed_type = "text_time"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        controlnet: ControlNetModel = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        id_encoder: ResNetForImageClassification = None,
        preview_vae: AutoencoderTiny = None,
        force_zeros_for_empty_prompt: bool = True,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=scheduler,
            controlnet=controlnet,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            id_encoder=id_encoder,
            preview_vae=preview_vae,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)
        self.image_processor = VaeImageProcessor(do_resize=False)

    @property
    def text_width(self) -> int:
        """Width of the words that both text encoders write together."""
        return self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size

    def encode_texts(
        self, prompts: Sequence[str], device: torch.device | str, clip_skip: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts -> (B, T, C) token features of both encoders, and the pooled text (B, P).

        Args:
            prompts: B texts.
            device: where the encoders run.
            clip_skip: layers left out at their end; None for none.
        """
        texts, hidden = [], -2 - (clip_skip or 0)
        for tokenizer, encoder in (
            (self.tokenizer, self.text_encoder),
            (self.tokenizer_2, self.text_encoder_2),
        ):
            words = self.maybe_convert_prompt(list(prompts), tokenizer)
            text, output = encode(tokenizer, encoder, words, device, hidden)
            texts.append(text)
        text, pooled = torch.cat(texts, dim=-1), output.text_embeds
        if self.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=device)
            text, pooled = text * said[:, None, None], pooled * said[:, None]
        return text, pooled

    def added_conditions(self, pooled: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """SDXL's pooled text (B, P) and sizes (B, 6), in the unet's dtype.

        Args:
            pooled: (B, P).
            size: side of the crop in pixels.
        """
        # Original size, corner of the cut, target size: a whole picture, not cut (Podell et al. 2023, 2.2).
        pooled = pooled.to(self._execution_device, self.unet.dtype)
        sizes = pooled.new_tensor([size, size, 0, 0, size, size]).expand(len(pooled), 6)
        return {"text_embeds": pooled, "time_ids": sizes}
