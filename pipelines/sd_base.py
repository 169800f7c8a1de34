"""The call that every Stable Diffusion face pipeline shares: the embedded model's arguments, and a prompt."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput

from .conditioning import erase
from .guidance import with_energies
from .id_encoder import embed, in_float32
from .inputs import Crops, Images, as_tensor, read_crops, read_init, repeat, to_unit
from .repulsion import Energy, Function, Repulsion, as_energies, as_repulsion, attract, repel
from .sampler import Callback, Sampler
from .schedule import add_noise, prediction_kind
from .sd_checks import check_components, check_embeds, check_identity, check_image_embeds, check_landmarks
from .sd_denoiser import Branch, FaceDenoiser, Scene
from .sd_guider import IdentityBranchGuidance
from .sd_landmarks import draw_landmarks
from .sd_prompt import PromptEncoder, read_attributes, write_prompts

ImageEmbeds: TypeAlias = torch.Tensor | Sequence[torch.Tensor]


class FaceInpaintCall(FaceDenoiser, PromptEncoder, Sampler):
    """Mixin of the pipelines: reads the arguments, runs the sampler, gives the known pixels back."""

    # Small, and used between unet forwards: moving them would move the unet too, at every step.
    _exclude_from_cpu_offload = ["id_encoder", "preview_vae"]  # noqa: RUF012
    _optional_components = ["controlnet", "image_encoder", "feature_extractor", "id_encoder", "preview_vae"]  # noqa: RUF012
    # Of the pipeline that it becomes a part of.
    id_encoder: Any
    image_encoder: Any
    feature_extractor: Any
    image_processor: Any
    maybe_free_model_hooks: Callable[[], None]
    added_conditions: Callable[[Any, int], dict[str, Any]]

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
        energies: Sequence[Energy | Function] = (),
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        guider: Any = None,
        ip_adapter_image_embeds: ImageEmbeds | None = None,
        source_image_embeds: ImageEmbeds | None = None,
        landmark_style: str = "mediapipe",
        landmark_outline: bool = True,
        controlnet_conditioning_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        init_image: Images | None = None,
        strength: float = 0.8,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        clip_skip: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Generates a new face where the mask is at least 0.5; every other pixel comes back as it was, to the bit.

        The same call as `FaceInpaintPipeline`, so far as the models allow; what differs is said.

        Args:
            image: square crops, B of them, with a side that is a multiple of 8 (512 for SD 1.5, 1024 for SDXL is what
                they were trained on): PIL, list of PIL, (B, S, S, 3) uint8 or float array in [0, 1], or (B, 3, S, S)
                float tensor in [0, 1], or in [-1, 1] when a value is below 0.
            mask_image: the same forms with one channel, in [0, 1]; at least 0.5 = replace. Pixels under it are erased
                before the vae sees the crop.
            landmarks: (B, 478, 2 or 3) FaceMesh or (B, 27, 2) in the order of `conditioning.POINTS`, x y in crop
                pixels; drawn for the ControlNet, not finite = not drawn. None leaves the ControlNet out.
            attributes: one mapping a face (or one for all) in real units, see `conditioning.FIELDS`, or (B, 2A) as
                `attribute_vector` makes it; they become words.
            identity: (B, D) target in the space of the `id_encoder`: attraction beside the repulsion, not a condition.
            repulsion: how to move the result off the source, a Repulsion or a mapping of its fields; None or scale 0
                for not at all. Needs `id_encoder`.
            source_embedding: (B, D) of the person to move away from; by default read from `image` under the mask.
            energies: functions of decoded x0 (B, 3, S, S) in [-1, 1] -> (B,), or `repulsion.Energy` to give one a
                scale and a window of its own; minimised beside the repulsion.
            prompt: words for all faces, or one text a face, put before what the attributes say.
            negative_prompt: words for the unconditional branch, likewise.
            num_inference_steps: steps of the scheduler.
            guidance_scale: classifier-free guidance; up to 1 it is off, and half the price: few-step LoRAs want it so.
            guider: a diffusers guider that replaces `guidance_scale`, or a mapping of arguments for
                `IdentityBranchGuidance` ({"guidance_scale": 5.0, "identity_scale": 2.0}).
            ip_adapter_image_embeds: (B, N, D) an IP-Adapter: what the new face should look like.
            source_image_embeds: the same of the person to move away from, for the identity branch.
            landmark_style: "mediapipe" or "dlib68": what the ControlNet was trained on.
            landmark_outline: also draw the jaw line, which is the person's more than the pose's.
            controlnet_conditioning_scale: weight of the ControlNet.
            num_images_per_prompt: faces for each crop, N; they come out side by side, B * N of them.
            init_image: faces to start from, such as those of the frame before, in the forms and number of `image`;
                read under the mask only. Not the source: all that stands there is seen.
            strength: share of the steps that are run on `init_image`, in (0, 1]: 1 starts from noise alone, and less
                keeps more of it. Not read without one.
            latents: (B * N, L, S/8, S/8) standard normal noise to start from, instead of what `generator` would draw.
            prompt_embeds: (B, T, C) instead of prompt and attributes, as `encode_prompt` gives them.
            negative_prompt_embeds: the same instead of negative_prompt.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, P), SDXL only, and needed there beside the above.
            cross_attention_kwargs: for the unet's attention processors; "scale" is the weight of LoRA layers.
            clip_skip: layers of the text encoders that are left out at their end.
            generator: one a face for results that do not depend on the batch, or one for all.
            output_type: "pil", "np" ((B, S, S, 3) in [0, 1]), "pt" ((B, 3, S, S) in [0, 1]), or "latent": what the
                last step left, (B, L, S/8, S/8), known pixels not put back.
            return_dict: False for a plain tuple.
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`; may return a dict with new "latents",
                and set `pipe._guidance_scale` and `pipe._interrupt`. Guidance that is off at first stays off.
            callback_on_step_end_tensor_inputs: which of "latents" and "x0" (both in latents) it gets.

        Returns:
            An output with `images` in the form asked for, or a tuple of just them.

        Raises:
            ValueError: components, shapes, ranges or names that do not fit; says what was wanted.
            RuntimeError: numbers that overflowed; no picture comes out.
        """
        # 1. Read the arguments.
        self._guidance_scale, repulsion = guidance_scale, as_repulsion(repulsion)
        guider = IdentityBranchGuidance(**guider) if isinstance(guider, Mapping) else guider
        guided = guider is not None or self.do_classifier_free_guidance
        encodes = prompt_embeds is None or (guided and negative_prompt_embeds is None)
        check_components(self, encodes)
        crops = read_crops(image, mask_image, self.vae_scale_factor, self._execution_device)
        batch, copies, names = len(crops.image), num_images_per_prompt, callback_on_step_end_tensor_inputs
        rows = {"identity": identity, "source_embedding": source_embedding, "landmarks": landmarks}
        check_identity(self, repulsion, identity)
        check_landmarks(self, landmarks)
        check_embeds(self, batch, (prompt, attributes), (prompt_embeds, pooled_prompt_embeds))
        check_embeds(
            self, batch, (negative_prompt,), (negative_prompt_embeds, negative_pooled_prompt_embeds), "negative_"
        )
        self.check_sampling(batch, num_inference_steps, copies, strength, generator, names, rows)
        # 2. What the unet is conditioned on, and what its faces are moved off.
        prompts = write_prompts(prompt, read_attributes(attributes, batch)) if prompt_embeds is None else None
        embeds = self.encode_prompt(
            prompts,
            num_images_per_prompt=copies,
            do_classifier_free_guidance=guided,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        faces = self.image_conditions(ip_adapter_image_embeds, source_image_embeds, guider, batch)
        branches = self.prepare_branches(embeds, [f and [repeat(e, copies) for e in f] for f in faces], crops)
        scene = self.prepare_scene(
            crops, copies, landmarks, landmark_style, landmark_outline, controlnet_conditioning_scale,
            cross_attention_kwargs,
        )  # fmt: skip
        guides = self.prepare_energies(crops, copies, repulsion, source_embedding, identity, energies)
        # 3. Noise and schedule.
        kind = prediction_kind(self.scheduler)
        timesteps = self.set_timesteps(num_inference_steps, 1 if init_image is None else strength)
        noise = self.prepare_latents(scene.known.shape, latents, generator)
        if init_image is None or strength == 1:
            latents = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        else:
            face = repeat(self.encode_pixels(read_init(init_image, crops)), copies)
            latents = add_noise(self.scheduler, face, noise, timesteps[0])
        # 4. Denoise.
        model = self.denoiser(scene, branches, guider, kind)
        # Unlike pixels' gradients these need no smoothing: a cell of latents is 8 pixels wide.
        model = with_energies(model, guides, scene.cells, lambda x0: self.show(x0, scene))
        restore = None
        if not self.inpaints:
            restore = lambda x, step: self.blend_known(x, step, scene, noise, timesteps)  # noqa: E731
        latents = self.sample(model, latents, timesteps, kind, generator, callback_on_step_end, names, restore)
        # 5. Known pixels are the caller's own, to the bit.
        images = (
            latents
            if output_type == "latent"
            else self.finish(latents, scene, repeat(crops.unit, copies), output_type)
        )
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

    def image_conditions(
        self, wanted: ImageEmbeds | None, source: ImageEmbeds | None, guider: Any, batch: int
    ) -> tuple[list[torch.Tensor] | None, ...]:
        """IP-Adapter embeds for the cond, uncond and identity branches; three None without an adapter.

        Args:
            wanted, source: (B, N, D) an adapter, `ip_adapter_image_embeds` and `source_image_embeds` of `__call__`.
            guider: a diffusers guider, or None.
            batch: B.

        Raises:
            ValueError: embeds that are missing, or without an adapter, or of other shapes.
        """
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

    def prepare_branches(
        self,
        embeds: Sequence[torch.Tensor | None],
        faces: Sequence[Sequence[torch.Tensor] | None],
        crops: Crops,
    ) -> list[Branch | None]:
        """The conditional, the unconditional (None without its embeds) and the identity branch.

        Args:
            embeds: as `encode_prompt` gives them.
            faces: IP-Adapter embeds of each branch, or None.
            crops: what they are for.
        """
        texts, pooled = embeds[:2], [*embeds[2:], None, None][:2]
        branches: list[Branch | None] = []
        # The identity branch has no words of its own.
        for number, images in zip((0, 1, 1), faces, strict=True):
            text = texts[number]
            if text is None:
                branches.append(None)
                continue
            added = self.added_conditions(pooled[number], crops.image.shape[-1])
            added |= {} if images is None else {"image_embeds": list(images)}
            branches.append(Branch(text.to(self._execution_device, self.unet.dtype), added))
        return branches

    def prepare_scene(
        self,
        crops: Crops,
        copies: int,
        landmarks: torch.Tensor | np.ndarray | None = None,
        style: str = "mediapipe",
        outline: bool = True,
        control_scale: float = 1.0,
        attention: Mapping[str, Any] | None = None,
    ) -> Scene:
        """What is around the faces, each crop `copies` times: (B * copies, ...).

        Args:
            crops: B crops and their masks.
            copies: how often each.
            landmarks, style, outline: see `draw_landmarks`; None draws nothing.
            control_scale: weight of the ControlNet.
            attention: the unet's `cross_attention_kwargs`.
        """
        # Inpainting unets were trained on a grey hole; a plain one has this blended in, so the fill is smooth.
        hole = crops.image * (1 - crops.mask) if self.inpaints else erase(crops.image, crops.mask)
        control = None
        if landmarks is not None:
            points = torch.as_tensor(landmarks, dtype=torch.float32)
            control = draw_landmarks(points, crops.image.shape[-1], style, outline).to(crops.image)
        cells = F.max_pool2d(crops.mask, self.vae_scale_factor)
        parts = (crops.image, crops.mask, cells, self.encode_pixels(hole), control)
        crop, inside, cells, known, control = (repeat(part, copies) for part in parts)
        return Scene(crop, inside, cells, known, control, control_scale, attention)

    def prepare_energies(
        self,
        crops: Crops,
        copies: int,
        repulsion: Repulsion,
        source: torch.Tensor | None,
        target: torch.Tensor | None,
        energies: Sequence[Energy | Function],
    ) -> list[Energy]:
        """All that moves a prediction, with the identity encoder in float32 whatever the pipeline runs in.

        Args:
            crops: B crops of the people to hide.
            copies: how often each.
            repulsion: scale 0 for none.
            source: (B, D) embeddings of those people; None reads them from the crops.
            target: (B, D) to be drawn to, or None.
            energies: the caller's own.
        """
        guides, id_encoder = as_energies(energies), in_float32(self.id_encoder)
        if target is not None:
            guides.append(attract(id_encoder, repeat(target.to(crops.image), copies)))
        if repulsion.scale > 0:
            source = embed(id_encoder, crops.image) if source is None else source.to(crops.image)
            guides.append(repel(repulsion, id_encoder, repeat(source, copies)))
        return guides

    def finish(self, latents: torch.Tensor, scene: Scene, unit: torch.Tensor, output_type: str) -> Any:
        """Latents -> pictures of the type asked for, with the crops' own pixels around the mask.

        Args:
            latents: (B, L, S/8, S/8).
            scene: says where pixels were replaced.
            unit: (B, 3, S, S) the crops in [0, 1].
            output_type: "pil", "np" or "pt".

        Raises:
            RuntimeError: numbers that overflowed.
        """
        pixels = self.decode_latents(latents, self.vae).clamp(-1, 1) / 2 + 0.5
        if not pixels.isfinite().all():
            raise RuntimeError(f"need finite pixels, got NaN from {self.unet.dtype}; load with dtype=torch.bfloat16")
        images = torch.where(scene.inside > 0, pixels, unit)
        return self.image_processor.postprocess(images, output_type, [False] * len(images))

    @torch.no_grad()
    def embed_image(self, images: Images) -> torch.Tensor:
        """Pictures in any form `image` takes -> (B, 1, D) IP-Adapter embeds of the plain adapters (not "plus").

        Raises:
            ValueError: no IP-Adapter is loaded.
        """
        if self.image_encoder is None or self.feature_extractor is None:
            raise ValueError("embed_image needs image_encoder and feature_extractor; call load_ip_adapter(...) first")
        pixels = (to_unit(as_tensor(images, channels=3)) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        inputs = self.feature_extractor(images=list(pixels), return_tensors="pt").pixel_values
        like = next(self.image_encoder.parameters())
        return self.image_encoder(inputs.to(like.device, like.dtype)).image_embeds[:, None]
