"""Paints a new face into an erased crop: the custom Diffusers pipeline of the embedded model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from transformers import ResNetForImageClassification

from .conditioning import FIELDS, POINTS, attribute_vector, condition_vector, erase, fold, landmark_maps, unfold
from .crops import Images, read_crops
from .denoise import scale_input, x0_from_output
from .recognise import embed
from .repulsion import Repulsion, push, smooth

Energy = Callable[[torch.Tensor], torch.Tensor]


class FaceInpaintPipeline(DiffusionPipeline):
    """Inpaints faces in folded pixels, conditioned on landmarks, attributes and a target identity.

    Args:
        unet: predicts the scaled x0 of a crop whose pixels are folded into channels.
        scheduler: a rectified-flow scheduler.
        id_encoder: the guide recogniser; its logits are the embedding. Needed only for `repulsion`.
        fold_factor: side of the pixel block that becomes one unet cell.
    """

    model_cpu_offload_seq = "id_encoder->unet"
    _optional_components = ["id_encoder"]  # noqa: RUF012  (diffusers reads it as a class list)
    _callback_tensor_inputs = ["latents", "x0"]  # noqa: RUF012

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        id_encoder: ResNetForImageClassification = None,
        fold_factor: int = 4,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, id_encoder=id_encoder)
        self.register_to_config(fold_factor=fold_factor)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_resize=False)

    @property
    def size(self) -> int:
        """Side of the crops this model paints, in pixels."""
        return self.unet.config.sample_size * self.config.fold_factor

    @property
    def identity_dim(self) -> int:
        """Length of the identity vector."""
        return self.unet.config.projection_class_embeddings_input_dim - 2 * len(FIELDS) - 1

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
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Paints a new face where the mask is above 0; every other pixel comes back as it was.

        Args:
            image: crops of side `size`: PIL, list of PIL, (B, S, S, 3) uint8, or (B, 3, S, S) float in [-1, 1].
            mask_image: the same forms with one channel ((B, 1, S, S) float in [0, 1]); above 0 = replace. The unet
                never sees what lies under it.
            landmarks: (B, K, 2) x y in crop pixels, ordered as `conditioning.POINTS`, or (B, 478, 2 or 3) FaceMesh;
                not finite = left to the model; None = all left to the model.
            attributes: one mapping a face (or one for all) from name to value in real units, see
                `conditioning.FIELDS`; or (B, 2A) as `attribute_vector` makes it. Missing = left to the model.
            identity: (B, D) target in the guide's space, or None to leave it to the seed.
            repulsion: how to push the result off the source; None or scale 0 for not at all. Needs `id_encoder`.
            source_embedding: (B, D) of the person to move away from; by default read from `image` under the mask.
            energies: further functions of x0 (B, 3, S, S) in [-1, 1] -> (B,), minimised beside the repulsion.
            num_inference_steps: steps of the scheduler.
            guidance_scale: classifier-free guidance; 1 is off and half the price.
            temperature: length of the initial noise; below 1 trades variety for plausible faces (Kingma and Dhariwal
                2018, section 6).
            generator: one a face for results that do not depend on the batch, or one for all.
            output_type: "pil", "np" ((B, S, S, 3) in [0, 1]), or "pt" ((B, 3, S, S) in [-1, 1]).
            return_dict: False for a plain tuple.
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`; may return a dict with new tensors.
            callback_on_step_end_tensor_inputs: which of "latents" and "x0" it gets.

        Raises:
            ValueError: shapes, ranges or names that do not fit; says what was wanted.
        """
        # 1. Read the arguments.
        device, dtype = self._execution_device, self.unet.dtype
        crop, mask = self.prepare_images(image, mask_image, device)
        batch = len(crop)
        repulsion = Repulsion(**repulsion) if isinstance(repulsion, Mapping) else repulsion
        self.check_inputs(batch, repulsion, generator, temperature, callback_on_step_end_tensor_inputs)
        # 2. What the unet is told.
        context, vector = self.prepare_condition(crop, mask, landmarks, attributes, identity)
        source = self.prepare_source(crop, repulsion, source_embedding)
        # 3. Noise and schedule.
        # Evenly from pure noise; the scheduler's own end at its lowest level, where a painted face is overdrawn.
        levels = np.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        self.scheduler.set_timesteps(sigmas=levels, device=device)
        latents = randn_tensor(crop.shape, generator=generator, device=device, dtype=torch.float32) * temperature
        inside = (mask > 0).to(crop)
        # 4. Denoise.
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                sigma = self.scheduler.sigmas[step].to(latents)
                active = repulsion is not None and repulsion.active(step, num_inference_steps)
                chosen = (repulsion, source) if active else (None, None)
                if active or energies:
                    x0 = self.guided_x0(latents, sigma, context, vector, guidance_scale, inside, *chosen, energies)
                else:
                    x0 = self.predict_x0(latents.to(dtype), sigma, context, vector, guidance_scale)
                x0 = torch.where(inside > 0, x0, crop)
                latents = self.scheduler.step((latents - x0) / sigma, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    known = {"latents": latents, "x0": x0}
                    tensors = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).pop("latents", latents)
                bar.update()
        # 5. Known pixels are the caller's own, to the bit.
        painted = torch.where(inside > 0, latents.clamp(-1, 1), crop)
        images = painted if output_type == "pt" else self.image_processor.postprocess(painted, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def prepare_images(
        self, image: Images, mask_image: Images, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Any accepted form -> (B, 3, S, S) in [-1, 1] and (B, 1, S, S) in [0, 1], float32."""
        crop, mask = (tensor.to(device) for tensor in read_crops(image, mask_image, self.config.fold_factor))
        if crop.shape[-1] != self.size:
            raise ValueError(
                f"image must be {self.size} x {self.size} pixels, got {tuple(crop.shape[-2:])}; resize it"
            )
        return crop, mask

    def check_inputs(
        self, batch: int, repulsion: Repulsion | None, generator: Any, temperature: float, names: Sequence[str]
    ) -> None:
        """Raises on what would fail later with a worse message."""
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"need one generator a face, got {len(generator)} for {batch} faces")
        if repulsion is not None and repulsion.scale > 0 and self.id_encoder is None:
            raise ValueError("repulsion needs the guide; load a pipeline with an id_encoder, or pass repulsion=None")
        if temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {temperature}; 1 is the noise the model was trained on")
        unknown = set(names) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callbacks can get {self._callback_tensor_inputs}, got {sorted(unknown)}")
        if not hasattr(self.scheduler, "sigmas") or "shift" not in self.scheduler.config:
            raise ValueError(
                f"needs a rectified-flow scheduler such as FlowMatchEulerDiscreteScheduler, "
                f"got {type(self.scheduler).__name__}"
            )

    def prepare_condition(
        self, crop: torch.Tensor, mask: torch.Tensor, landmarks: Any, attributes: Any, identity: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The unet's extra channels (B, 48 + 1 + K, S/4, S/4) and condition vector (B, C)."""
        batch, factor = len(crop), self.config.fold_factor
        if landmarks is None:
            points = crop.new_full((batch, len(POINTS), 2), float("nan"))
        else:
            points = torch.as_tensor(landmarks, dtype=torch.float32, device=crop.device)
            if points.ndim == 3 and points.shape[1] == 478:
                points = points[:, list(POINTS), :2]
        if points.shape != (batch, len(POINTS), 2):
            raise ValueError(
                f"landmarks must be ({batch}, {len(POINTS)}, 2) or ({batch}, 478, 2), got {tuple(points.shape)}"
            )
        if not isinstance(attributes, torch.Tensor):
            one = attributes if attributes is not None else {}
            rows = [one] * batch if isinstance(one, Mapping) else list(one)
            attributes = attribute_vector(rows)
        if attributes.shape != (batch, 2 * len(FIELDS)):
            raise ValueError(f"attributes must be ({batch}, {2 * len(FIELDS)}), got {tuple(attributes.shape)}")
        vector = condition_vector(attributes.to(crop), identity, self.identity_dim)
        maps = landmark_maps(points, self.size, factor)
        covered = torch.nn.functional.avg_pool2d((mask > 0).to(crop), factor)
        context = torch.cat([fold(erase(crop, mask), factor), covered, maps], dim=1)
        return context.to(self.unet.dtype), vector.to(self.unet.dtype)

    def prepare_source(self, crop: torch.Tensor, repulsion: Repulsion | None, given: torch.Tensor | None):
        """(B, D) embedding of whom to move away from, or None."""
        if repulsion is None or repulsion.scale == 0:
            return None
        source = embed(self.id_encoder, crop) if given is None else given.to(crop)
        if len(source) != len(crop):
            raise ValueError(f"need one source_embedding a face, got {len(source)} for {len(crop)} faces")
        return source

    def predict_x0(self, latents: torch.Tensor, sigma: torch.Tensor, context, vector, guidance_scale: float):
        """(B, 3, S, S) at noise level sigma -> x0, float32."""
        factor = self.config.fold_factor
        inputs = torch.cat([fold(scale_input(latents, sigma.to(latents)), factor), context], dim=1)
        if guidance_scale != 1:
            # Without landmarks, attributes and identity, but with the same surroundings.
            blind = context.clone()
            blind[:, 3 * factor**2 + 1 :] = 0
            inputs = torch.cat([inputs, torch.cat([inputs[:, : 3 * factor**2], blind], dim=1)])
            vector = torch.cat([vector, torch.zeros_like(vector)])
        level = (sigma * 1000).to(inputs).expand(len(inputs))
        raw = unfold(self.unet(inputs, level, None, class_labels=vector, return_dict=False)[0], factor).float()
        if guidance_scale != 1:
            told, blind = raw.chunk(2)
            raw = blind + guidance_scale * (told - blind)
        return x0_from_output(raw)

    @torch.enable_grad()
    def guided_x0(self, latents, sigma, context, vector, guidance_scale, inside, repulsion, source, energies):
        """x0, moved down the energies: the only place where gradients are taken."""
        through = repulsion is not None and repulsion.through_unet
        start = latents.detach().requires_grad_(through)
        with torch.set_grad_enabled(through):
            x0 = self.predict_x0(start.to(self.unet.dtype), sigma, context, vector, guidance_scale)
        if not through:
            x0 = x0.detach().requires_grad_(True)
        parts = [energy(x0) for energy in energies]
        if repulsion is not None:
            parts.append(self.repulsion_energy(x0, source, repulsion))
        energy = torch.stack(parts).sum(0)
        (gradient,) = torch.autograd.grad(energy.sum(), start if through else x0)
        x0, noise = x0.detach(), latents - (1 - sigma) * x0.detach()
        coarse = smooth(gradient, self.size / 64)
        length = (repulsion or Repulsion()).length(len(self.scheduler.timesteps))
        return push(x0, coarse, energy.detach(), noise / sigma.clamp_min(1e-3), inside, length)

    def repulsion_energy(self, x0: torch.Tensor, source: torch.Tensor, repulsion: Repulsion) -> torch.Tensor:
        """(B, 3, S, S), (B, D) -> (B,): the repulsion's energy, averaged over shifted views."""
        reach = self.size // 32
        shifts = [(0, 0), (reach, reach), (-reach, reach), (reach, -reach), (-reach, -reach)]
        views = [shifts[number % len(shifts)] for number in range(repulsion.views)]
        parts = [repulsion.energy(embed(self.id_encoder, x0, shift), source) for shift in views]
        return torch.stack(parts).mean(0)
