"""Generates a new face in an erased crop: all that the embedded model does, whatever holds and runs its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from .conditioning import (
    FEWEST,
    FIELDS,
    POINTS,
    attribute_vector,
    condition_vector,
    erase,
    first_attributes,
    fold,
    landmark_maps,
    unfold,
)
from .detail import FOLD, add_detail, lay
from .guidance import with_cfg, with_energies, with_known
from .id_encoder import embed, in_float32
from .inputs import Crops, Images, read_crops, read_init, repeat
from .precondition import scale_input, x0_from_output
from .repulsion import Energy, Function, Repulsion, as_energies, as_repulsion, repel
from .sampler import Callback, Sampler, draw_noise
from .schedule import Level, add_noise

if TYPE_CHECKING:
    from diffusers import ImagePipelineOutput


class FaceInpainter(Sampler):
    """Inpaints faces in folded pixels, conditioned on landmarks, attributes and a target identity.

    It becomes a whole with its components, their device and diffusers' hooks: `face_inpaint.FaceInpaintPipeline` is
    that for diffusers. Nothing here imports diffusers, which takes longer than a face.
    """

    unet: Any
    id_encoder: Any
    detail: Any
    config: Any
    image_processor: Any
    maybe_free_model_hooks: Callable[[], object]

    @property
    def size(self) -> int:
        """Side S of the crops this model takes, in pixels: the detail stage's where there is one."""
        return self.base_size if self.detail is None else self.detail.config.sample_size * FOLD

    @property
    def base_size(self) -> int:
        """Side s of the crops that the unet sees, in pixels; landmark maps, noise and guidance are of this size."""
        return self.unet.config.sample_size * self.config.fold_factor

    @property
    def identity_dim(self) -> int:
        """Length of the identity vector."""
        return self.unet.config.projection_class_embeddings_input_dim - 2 * self.attribute_count - 1

    @property
    def attribute_count(self) -> int:
        """How many attributes the unet reads, the first of `FIELDS`: fewer where it is older than the others."""
        if self.id_encoder is not None:
            rest = self.unet.config.projection_class_embeddings_input_dim - 1 - self.id_encoder.config.num_labels
            if rest % 2 == 0 and FEWEST <= rest // 2 <= len(FIELDS):
                return rest // 2
        return len(FIELDS)

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
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        noise_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        init_image: Images | None = None,
        strength: float = 0.8,
        latents: torch.Tensor | None = None,
        with_detail: bool | Sequence[bool] = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Generates a new face where the mask is at least 0.5; every other pixel comes back as it was.

        Args:
            image: crops of side `size` with the person to hide, B of them: PIL, list of PIL, (B, S, S, 3) uint8 or
                float array in [0, 1], or (B, 3, S, S) float tensor in [0, 1], or in [-1, 1] when a value is below 0.
            mask_image: the same forms with one channel, in [0, 1]; at least 0.5 = replace. The unet never sees what
                lies under it.
            landmarks: (B, K, 2) x y in crop pixels, ordered as `conditioning.POINTS`, or (B, 478, 2 or 3) FaceMesh;
                not finite = left to the model; None = all left to the model.
            attributes: one mapping a face (or one for all) from name to value in real units, see
                `conditioning.FIELDS`; or (B, 2A) as `attribute_vector` makes it. Missing = left to the model.
            identity: (B, D) target in the space of the `id_encoder`, or None to leave it to the seed.
            repulsion: how to move the result off the source, a Repulsion or a mapping of its fields; None or scale 0
                for not at all. Needs `id_encoder`.
            source_embedding: (B, D) of the person to move away from; by default read from `image` under the mask.
            energies: functions of x0 (B, 3, s, s) in [-1, 1], s being `base_size`, -> (B,), or `repulsion.Energy` to
                give one a scale and a window of its own; minimised beside the repulsion.
            num_inference_steps: steps of the scheduler.
            guidance_scale: classifier-free guidance; up to 1 it is off, and half the price.
            noise_scale: factor on the initial noise; below 1 trades variety for plausible faces (Kingma and Dhariwal
                2018, section 6).
            num_images_per_prompt: faces for each crop, N; they come out side by side, B * N of them.
            init_image: faces to start from, such as those of the frame before, in the forms and number of `image`;
                read under the mask only. Not the source: all that stands there is seen.
            strength: share of the steps that are run on `init_image`, in (0, 1]: 1 starts from noise alone, and less
                keeps more of it. Not read without one.
            latents: (B * N, 3, s, s) standard normal noise to start from, instead of what `generator` would draw.
            with_detail: whether faces get the detail stage, for all or for each crop; those that do not are enlarged.
                Not read without the component.
            generator: one a face for results that do not depend on the batch, or one for all.
            output_type: "pil", "np" ((B, S, S, 3) in [0, 1]), "pt" ((B, 3, S, S) in [0, 1]), or "latent": what the
                last step left, (B, 3, S, S) about [-1, 1], with known pixels up to rounding.
            return_dict: False for a plain tuple.
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`; may return a dict with new "latents",
                and set `pipe._guidance_scale` and `pipe._interrupt`.
            callback_on_step_end_tensor_inputs: which of "latents" and "x0" it gets.

        Returns:
            An output with `images` in the form asked for, or a tuple of just them.

        Raises:
            ValueError: shapes, ranges or names that do not fit; says what was wanted.
        """
        # 1. Read the arguments.
        self.check_components()
        given = self.prepare_images(image, mask_image)
        crops = Crops(self.to_base(given.image), self.to_base(given.unit), self.to_base(given.mask, F.max_pool2d))
        batch, copies = len(crops.image), num_images_per_prompt
        self._guidance_scale, repulsion = guidance_scale, as_repulsion(repulsion)
        detailed = [with_detail] * batch if isinstance(with_detail, bool) else list(with_detail)
        rows = {"source_embedding": source_embedding, "with_detail": detailed}
        names = callback_on_step_end_tensor_inputs
        if repulsion.scale > 0 and self.id_encoder is None:
            raise ValueError(
                "repulsion needs the identity encoder; load a pipeline with an id_encoder, or pass repulsion=None"
            )
        if noise_scale < 0:
            raise ValueError(f"noise_scale must be >= 0, got {noise_scale}; 1 is the noise the model was trained on")
        self.check_sampling(batch, num_inference_steps, copies, strength, generator, names, rows)
        # 2. What the unet is conditioned on, and what its faces are moved off.
        condition = self.prepare_condition(crops.image, crops.mask, landmarks, attributes, identity)
        context, vector = (repeat(part, copies) for part in condition)
        known, mask = repeat(crops.image, copies), repeat(crops.mask, copies)
        guides = as_energies(energies)
        if repulsion.scale > 0:
            id_encoder = in_float32(self.id_encoder)
            source = embed(id_encoder, crops.image) if source_embedding is None else source_embedding.to(known)
            guides.append(repel(repulsion, id_encoder, repeat(source, copies)))
        # 3. Noise and schedule.
        # Evenly from pure noise; the scheduler's own end at its lowest level, where a finished face is overdrawn.
        sigmas = np.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        timesteps = self.set_timesteps(num_inference_steps, 1 if init_image is None else strength, sigmas=sigmas)
        latents = self.prepare_latents(known.shape, latents, generator) * noise_scale
        if init_image is not None and strength < 1:
            init = self.to_base(read_init(init_image, given))
            latents = add_noise(self.scheduler, repeat(init, copies), latents, timesteps[0])
        # 4. Denoise.
        cond, uncond = (context, vector), self.drop_condition(context, vector)
        output = with_cfg(self.run_unet, cond, uncond, lambda: self._guidance_scale)
        cell = self.base_size / 64  # of the unet, to whose size gradients are smoothed
        model = with_energies(lambda x, level: x0_from_output(output(x, level)), guides, mask, blur=cell)
        model = with_known(model, known, mask)
        latents = self.sample(model, latents, timesteps, "flow_prediction", generator, callback_on_step_end, names)
        # 5. Detail, and known pixels, which are the caller's own, to the bit.
        images = latents
        if self.detail is not None:
            images = self.enlarge(latents, given, copies, detailed, generator)
            crops, mask = given, repeat(given.mask, copies)
        if output_type != "latent":
            pixels = images.clamp(-1, 1) / 2 + 0.5
            images = torch.where(mask > 0, pixels, repeat(crops.unit, copies))
            images = self.image_processor.postprocess(images, output_type, [False] * len(images))
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        from diffusers import ImagePipelineOutput

        return ImagePipelineOutput(images=images)

    def prepare_images(self, image: Images, mask_image: Images) -> Crops:
        """Crops and masks in any accepted form, on the pipeline's device.

        Args:
            image, mask_image: as `__call__` takes them.

        Raises:
            ValueError: another size than the model's, or what `inputs.read_crops` refuses.
        """
        crops = read_crops(image, mask_image, self.config.fold_factor, self._execution_device)
        if crops.image.shape[-1] != self.size:
            raise ValueError(
                f"image must be {self.size} x {self.size} pixels, got {tuple(crops.image.shape[-2:])}; resize it"
            )
        return crops

    def check_components(self) -> None:
        """Refuses a scheduler that the unet was not trained for.

        Raises:
            ValueError: it is none for rectified flow.
        """
        if not hasattr(self.scheduler, "sigmas") or "shift" not in self.scheduler.config:
            raise ValueError(
                f"needs a rectified-flow scheduler such as FlowMatchEulerDiscreteScheduler, "
                f"got {type(self.scheduler).__name__}"
            )

    def prepare_condition(
        self,
        crop: torch.Tensor,
        mask: torch.Tensor,
        landmarks: torch.Tensor | np.ndarray | None,
        attributes: torch.Tensor | Sequence[Mapping[str, float]] | Mapping[str, float] | None,
        identity: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The unet's extra channels (B, 48 + 1 + K, s/4, s/4) and condition vector (B, C).

        Args:
            crop: (B, 3, s, s) in [-1, 1], of `base_size`.
            mask: (B, 1, s, s), above 0 where the crop is not to be seen.
            landmarks, attributes, identity: as `__call__` takes them.

        Raises:
            ValueError: shapes, names or values that do not fit.
        """
        batch, factor = len(crop), self.config.fold_factor
        if landmarks is None:
            points = crop.new_full((batch, len(POINTS), 2), float("nan"))
        else:
            points = torch.as_tensor(landmarks, dtype=torch.float32, device=crop.device)
            points = points if self.detail is None else points * (self.base_size / self.size)
            if points.ndim == 3 and points.shape[1] == 478:
                points = points[:, list(POINTS), :2]
        if points.shape != (batch, len(POINTS), 2):
            raise ValueError(
                f"landmarks must be ({batch}, {len(POINTS)}, 2) or ({batch}, 478, 2), got {tuple(points.shape)}"
            )
        if isinstance(attributes, torch.Tensor):
            scaled = attributes
        else:
            one = attributes if attributes is not None else {}
            scaled = attribute_vector([one] * batch if isinstance(one, Mapping) else list(one))
        if scaled.shape != (batch, 2 * len(FIELDS)):
            raise ValueError(f"attributes must be ({batch}, {2 * len(FIELDS)}), got {tuple(scaled.shape)}")
        scaled = first_attributes(scaled.to(crop), self.attribute_count)
        vector = condition_vector(scaled, identity, self.identity_dim)
        maps = landmark_maps(points, self.base_size, factor)
        covered = F.avg_pool2d((mask > 0).to(crop), factor)
        context = torch.cat([fold(erase(crop, mask), factor), covered, maps], dim=1)
        return context.to(self.unet.dtype), vector.to(self.unet.dtype)

    def to_base(self, images: torch.Tensor, pool: Callable[..., torch.Tensor] = F.avg_pool2d) -> torch.Tensor:
        """(B, C, S, S) -> (B, C, s, s), as the unet sees it; the very tensor where there is no detail stage.

        Args:
            images: of the size that the pipeline takes.
            pool: for masks `F.max_pool2d`: no pixel that is left out of the small mask holds any of what the large
                one covers.
        """
        return images if self.detail is None else pool(images, self.size // self.base_size)

    def enlarge(
        self,
        faces: torch.Tensor,
        crops: Crops,
        copies: int,
        with_detail: Sequence[bool],
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        """Faces as the unet left them, (B * N, 3, s, s), at the size of the crops, (B * N, 3, S, S) in [-1, 1].

        Args:
            faces: what the last step left.
            crops: of size S.
            copies: N, faces for each crop.
            with_detail: for each crop.
            generator: as `__call__` takes it.
        """
        mask = repeat(crops.mask, copies)
        laid = lay(faces, repeat(crops.image, copies), mask)
        rows = [row for row in range(len(faces)) if with_detail[row // copies]]
        # Drawn for all: what a face looks like does not depend on which others get detail.
        noise = draw_noise(mask.shape, generator, mask.device)
        if rows:
            laid[rows] = add_detail(self.detail, laid[rows], mask[rows], noise[rows])
        return laid

    def drop_condition(self, context: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same surroundings without landmarks, attributes and identity, for classifier-free guidance.

        Args:
            context: (B, 48 + 1 + K, s/4, s/4), the unet's extra channels.
            vector: (B, C) condition vector, all of which is dropped.
        """
        context = context.clone()
        context[:, 3 * self.config.fold_factor**2 + 1 :] = 0
        return context, torch.zeros_like(vector)

    def run_unet(
        self, x: torch.Tensor, level: Level, branches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[torch.Tensor]:
        """One forward for all branches: (B, 3, s, s) at a noise level -> the raw output of each, float32."""
        noisy = fold(scale_input(x.to(self.unet.dtype), level.s.to(self.unet.dtype)), self.config.fold_factor)
        inputs = torch.cat([torch.cat([noisy, context], dim=1) for context, _ in branches])
        vector = torch.cat([vector for _, vector in branches])
        time = (level.s * 1000).to(inputs).expand(len(inputs))
        raw = self.unet(inputs, time, None, class_labels=vector, return_dict=False)[0]
        return list(unfold(raw, self.config.fold_factor).float().chunk(len(branches)))
