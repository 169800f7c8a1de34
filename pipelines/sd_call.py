"""The call that every Stable Diffusion face pipeline shares: the embedded model's arguments, and a prompt."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from .conditioning import erase
from .crops import Images, as_tensor, read_crops
from .recognise import embed
from .repulsion import Repulsion
from .sd_checks import check_call, check_components, check_image_embeds, check_repulsion
from .sd_guider import IdentityBranchGuidance
from .sd_landmarks import draw_landmarks
from .sd_loop import Branch, Energy, FaceLoop, Scene, Steering
from .sd_prompt import read_attributes, write_prompts

logger = logging.getLogger(__name__)


class FaceCall(FaceLoop):
    """Mixin of the pipelines: reads the arguments, runs the loop, gives the known pixels back."""

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        mask_image: Images,
        landmarks: torch.Tensor | np.ndarray | None = None,
        attributes: torch.Tensor | Sequence[Mapping[str, float]] | Mapping[str, float] | None = None,
        identity: torch.Tensor | None = None,
        repulsion: Repulsion | Mapping[str, Any] | None = None,
        source_embedding: torch.Tensor | None = None,
        energies: Sequence[Energy] = (),
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        guider: Any = None,
        ip_adapter_image_embeds: torch.Tensor | Sequence[torch.Tensor] | None = None,
        source_image_embeds: torch.Tensor | Sequence[torch.Tensor] | None = None,
        landmark_style: str = "mediapipe",
        landmark_outline: bool = True,
        controlnet_conditioning_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Paints a new face where the mask is above 0; every other pixel comes back as it was, to the bit.

        The same call as `FaceInpaintPipeline`, so far as the models allow; what differs is said.

        Args:
            image: square crops with a side that is a multiple of 8 (512 for SD 1.5, 1024 for SDXL is what they were
                trained on): PIL, list of PIL, (B, S, S, 3) uint8, or (B, 3, S, S) float in [-1, 1].
            mask_image: the same forms with one channel ((B, 1, S, S) float in [0, 1]); above 0 = replace. Pixels under
                it are erased before the vae sees the crop.
            landmarks: (B, 478, 2 or 3) FaceMesh or (B, 27, 2) in the order of `conditioning.POINTS`, x y in crop
                pixels; drawn for the ControlNet, not finite = not drawn. None leaves the ControlNet out.
            attributes: one mapping a face (or one for all) in real units, see `conditioning.FIELDS`, or (B, 2A) as
                `attribute_vector` makes it; they become words.
            identity: (B, D) target in the guide's space: attraction beside the repulsion, not a condition.
            repulsion: how to push the result off the source; None or scale 0 for not at all. Needs `id_encoder`.
            source_embedding: (B, D) of the person to move away from; by default read from `image` under the mask.
            energies: further functions of decoded x0 (B, 3, S, S) in [-1, 1] -> (B,), minimised beside the repulsion.
            prompt: words for all faces, or one text a face, put before what the attributes say.
            negative_prompt: words for the blind branch, likewise.
            num_inference_steps: steps of the scheduler.
            guidance_scale: classifier-free guidance; 1 is off and half the price: few-step LoRAs want it so.
            guider: a diffusers guider that replaces `guidance_scale`, or a mapping of arguments for
                `IdentityBranchGuidance` ({"guidance_scale": 5.0, "identity_scale": 2.0}).
            ip_adapter_image_embeds: (B, N, D) an IP-Adapter: what the new face should look like.
            source_image_embeds: the same of the person to move away from, for the identity branch.
            landmark_style: "mediapipe" or "dlib68": what the ControlNet was trained on.
            landmark_outline: also draw the jaw line, which is the person's more than the pose's.
            controlnet_conditioning_scale: weight of the ControlNet.
            generator: one a face for results that do not depend on the batch, or one for all.
            output_type: "pil", "np" ((B, S, S, 3) in [0, 1]), or "pt" ((B, 3, S, S) in [-1, 1]).
            return_dict: False for a plain tuple.
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`; may return a dict with new "latents".
            callback_on_step_end_tensor_inputs: which of "latents" and "x0" (both in latents) it gets.

        Raises:
            ValueError: components, shapes, ranges or names that do not fit; says what was wanted.
            RuntimeError: numbers that overflowed; no picture comes out.
        """
        # 1. Read the arguments.
        check_components(self)
        device = self._execution_device
        crop, mask = (tensor.to(device) for tensor in read_crops(image, mask_image, self.vae_scale_factor))
        batch = len(crop)
        repulsion = Repulsion(**repulsion) if isinstance(repulsion, Mapping) else repulsion
        guider = IdentityBranchGuidance(**guider) if isinstance(guider, Mapping) else guider
        check_repulsion(self, repulsion, identity)
        rows = {"identity": identity, "source_embedding": source_embedding, "landmarks": landmarks}
        check_call(self, batch, generator, callback_on_step_end_tensor_inputs, landmarks, rows)
        # 2. What the unet is told.
        prompts = write_prompts(prompt, read_attributes(attributes, batch))
        negatives = [negative_prompt] * batch if isinstance(negative_prompt, str) else list(negative_prompt)
        faces = self.image_conditions(ip_adapter_image_embeds, source_image_embeds, guider, batch)
        told, blind, identity_branch = self.prepare_branches(prompts, negatives, faces, crop.shape[-1])
        control = None
        if landmarks is not None:
            points = torch.as_tensor(landmarks, dtype=torch.float32)
            control = draw_landmarks(points, crop.shape[-1], landmark_style, landmark_outline).to(device)
        known, cells = self.prepare_known(crop, mask)
        inside = (mask > 0).to(crop)
        scale = controlnet_conditioning_scale
        scene = Scene(crop, inside, cells, known, control, scale, told, blind, identity_branch)
        steering = self.prepare_steering(crop, guidance_scale, guider, repulsion, source_embedding, identity, energies)
        # 3. Noise and schedule.
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = randn_tensor(known.shape, generator=generator, device=device, dtype=torch.float32)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        # 4. Denoise.
        names = callback_on_step_end_tensor_inputs
        latents = self.denoise(latents, scene, steering, generator, callback_on_step_end, names)
        # 5. Known pixels are the caller's own, to the bit.
        pixels = self.decode_latents(latents, self.vae).clamp(-1, 1)
        if not pixels.isfinite().all():
            raise RuntimeError(f"need finite pixels, got NaN from {self.unet.dtype}; load with dtype=torch.bfloat16")
        painted = torch.where(inside > 0, pixels, crop)
        images = painted if output_type == "pt" else self.image_processor.postprocess(painted, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def vae_scale_factor(self) -> int:
        """Crop pixels along one side of a latent cell."""
        blocks = self.vae.config.get("block_out_channels") or self.vae.config.encoder_block_out_channels
        return 2 ** (len(blocks) - 1)

    @property
    def size(self) -> int:
        """Side of the crops this checkpoint was trained on, in pixels; other multiples of 8 run too."""
        return self.unet.config.sample_size * self.vae_scale_factor

    @property
    def attention(self) -> str:
        """Which attention the unet runs now: "xformers" or "sdpa"."""
        names = {type(processor).__name__ for processor in self.unet.attn_processors.values()}
        return "xformers" if any("XFormers" in name for name in names) else "sdpa"

    def use_best_attention(self) -> str:
        """Switches to xformers where it has operators for this GPU, stays with SDPA otherwise; says which it is."""
        device = self._execution_device
        try:
            if device.type != "cuda":
                raise RuntimeError(f"no xformers operators for {device.type}")
            import xformers.ops

            probe = torch.zeros(1, 8, 1, 64, device=device, dtype=torch.float16)
            xformers.ops.memory_efficient_attention(probe, probe, probe)
            self.enable_xformers_memory_efficient_attention()
        except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            logger.info("attention: sdpa (%s)", error)
        else:
            logger.info("attention: xformers")
        return self.attention

    def prepare_known(self, crop: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, L, S/8, S/8) of the crop without its face, and which of their cells are replaced (B, 1, ...)."""
        inside = (mask > 0).to(crop)
        # Inpainting unets were trained on a grey hole; a plain one has this blended in, so the fill is smooth.
        inpaints = self.unet.config.in_channels > self.vae.config.latent_channels
        hole = crop * (1 - inside) if inpaints else erase(crop, mask)
        return self.encode_pixels(hole), F.max_pool2d(inside, self.vae_scale_factor)

    def image_conditions(self, wanted: Any, source: Any, guider: Any, batch: int) -> tuple[Any, Any, Any]:
        """IP-Adapter embeds for the told, blind and identity branches; three None without an adapter."""
        wanted, source = ([v] if isinstance(v, torch.Tensor) else v for v in (wanted, source))
        branches = 0 if guider is None else len(guider._input_predictions)
        if branches > 2 and source is None:
            raise ValueError(
                "the identity branch needs source_image_embeds; pass those of the person to move away from"
            )
        if wanted is None and source is not None:
            wanted = [torch.zeros_like(value) for value in source]
        check_image_embeds(self.unet, wanted, batch)
        check_image_embeds(self.unet, source if source is not None else wanted, batch)
        if wanted is None:
            return None, None, None
        like = {"device": self._execution_device, "dtype": self.unet.dtype}
        wanted = [value.to(**like) for value in wanted]
        nobody = [torch.zeros_like(value) for value in wanted]
        return wanted, nobody, nobody if source is None else [value.to(**like) for value in source]

    def prepare_branches(self, prompts: list[str], negatives: list[str], faces: tuple, size: int) -> list[Branch]:
        """The told, the blind and the identity branch."""
        if len(negatives) != len(prompts):
            raise ValueError(f"need one negative_prompt, or one a face: got {len(negatives)} for {len(prompts)} faces")
        branches, told, blind = [], self.tell(prompts, size), self.tell(negatives, size)
        for (text, added), embeds in zip((told, blind, blind), faces, strict=True):
            images = {} if embeds is None else {"image_embeds": embeds}
            branches.append(Branch(text.to(self.unet.dtype), {**added, **images}))
        return branches

    def prepare_steering(self, crop, scale, guider, repulsion, source, target, energies) -> Steering:
        """Everything that moves a prediction, with the recogniser in float32 whatever the pipeline runs in."""
        repels = repulsion is not None and repulsion.scale > 0
        guide = self.id_encoder
        if guide is not None and next(guide.parameters()).dtype != torch.float32:
            guide = copy.deepcopy(guide).float()
        if repels:
            source = embed(guide, crop) if source is None else source.to(crop)
        target = None if target is None else target.to(crop)
        return Steering(scale, guider, repulsion, source if repels else None, target, tuple(energies), guide)

    @torch.no_grad()
    def embed_image(self, images: Images) -> torch.Tensor:
        """Pictures in any form `image` takes -> (B, 1, D) IP-Adapter embeds of the plain adapters (not "plus")."""
        if self.image_encoder is None or self.feature_extractor is None:
            raise ValueError("embed_image needs image_encoder and feature_extractor; call load_ip_adapter(...) first")
        pixels = ((as_tensor(images, channels=3) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        inputs = self.feature_extractor(images=list(pixels), return_tensors="pt").pixel_values
        like = next(self.image_encoder.parameters())
        return self.image_encoder(inputs.to(like.device, like.dtype)).image_embeds[:, None]
