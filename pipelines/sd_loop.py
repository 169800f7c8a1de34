"""The denoising loop of the Stable Diffusion family: branches, repulsion, known pixels. One for every checkpoint."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .recognise import embed
from .repulsion import Repulsion, push
from .sd_schedule import add_noise, levels, output_from, prediction_kind, x0_from

Energy = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Branch:
    """What one branch of guidance tells the unet.

    Attributes:
        text: (B, T, C) token features.
        added: further conditions under the names of the unet's `added_cond_kwargs`.
    """

    text: torch.Tensor
    added: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """What stays the same over the steps.

    Attributes:
        crop: (B, 3, S, S) in [-1, 1].
        inside: (B, 1, S, S), 1 where pixels are replaced.
        cells: (B, 1, S/8, S/8), 1 where latents are replaced: every cell that holds a masked pixel.
        known: (B, L, S/8, S/8) latents of the crop without its face.
        control: (B, 3, S, S) in [0, 1] for the ControlNet, or None.
        control_scale: weight of the ControlNet.
        told, blind, identity: the branches; blind has no words, identity the source's image embeds.
    """

    crop: torch.Tensor
    inside: torch.Tensor
    cells: torch.Tensor
    known: torch.Tensor
    control: torch.Tensor | None
    control_scale: float
    told: Branch
    blind: Branch
    identity: Branch


@dataclass(frozen=True, eq=False)
class Steering:
    """What moves a prediction off the unet's own.

    Attributes:
        scale: classifier-free guidance, 1 for none.
        guider: a diffusers guider that combines the branches instead, or None.
        repulsion: push off `source`, or None.
        source, target: (B, D) embeddings to leave and to reach, or None.
        energies: further functions of decoded x0 (B, 3, S, S) in [-1, 1] -> (B,).
        guide: the recogniser, in float32.
    """

    scale: float
    guider: Any = None
    repulsion: Repulsion | None = None
    source: torch.Tensor | None = None
    target: torch.Tensor | None = None
    energies: Sequence[Energy] = ()
    guide: torch.nn.Module | None = None

    def active(self, step: int, num_steps: int) -> bool:
        """Whether a gradient is needed at this step."""
        window = self.repulsion or Repulsion()
        pulls = self.source is not None or self.target is not None
        return len(self.energies) > 0 or (pulls and window.active(step, num_steps))

    def energy(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B,): what is left to push at."""
        parts = [energy(pixels) for energy in self.energies]
        if self.source is None and self.target is None:
            return torch.stack(parts).sum(0)
        rules, reach = self.repulsion or Repulsion(), pixels.shape[-1] // 32
        shifts = [(0, 0), (reach, reach), (-reach, reach), (reach, -reach), (-reach, -reach)]
        for view in range(rules.views):
            seen = embed(self.guide, pixels, shifts[view % len(shifts)])
            if self.source is not None:
                parts.append(rules.energy(seen, self.source) / rules.views)
            if self.target is not None:
                parts.append((1 - F.cosine_similarity(seen, self.target, dim=-1)) / rules.views)
        return torch.stack(parts).sum(0)


class FaceLoop:
    """Mixin of the pipelines: everything between the first noise and the last latents."""

    def denoise(self, latents, scene: Scene, steering: Steering, generator, callback, names) -> torch.Tensor:
        """(B, L, S/8, S/8) noise -> latents of the new crop, along the scheduler's timesteps."""
        kind, timesteps = prediction_kind(self.scheduler), self.scheduler.timesteps
        takes = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in takes else {}
        blends = self.unet.config.in_channels == scene.known.shape[1]
        noise = latents
        with self.progress_bar(total=len(timesteps)) as bar:
            for step, t in enumerate(timesteps):
                a, s = levels(self.scheduler, t, latents)
                if steering.active(step, len(timesteps)):
                    x0 = self.guided_x0(latents, step, scene, steering, (a, s, kind))
                    output = output_from(x0, latents, a, s, kind)
                else:
                    output = self.predict(latents, step, scene, steering)
                    x0 = x0_from(output, latents, a, s, kind)
                latents = self.scheduler.step(output, t, latents, return_dict=False, **options)[0]
                if blends:
                    # A plain text-to-image unet knows nothing of the surroundings: they are put back at every step,
                    # as noisy as the rest (Avrahami et al. 2022, algorithm 1).
                    last = step + 1 == len(timesteps)
                    known = scene.known if last else self.noised(scene.known, noise, timesteps[step + 1])
                    latents = torch.where(scene.cells > 0, latents, known)
                if callback is not None:
                    here = {"latents": latents, "x0": x0}
                    latents = (callback(self, step, t, {n: here[n] for n in names}) or {}).pop("latents", latents)
                bar.update()
        return latents

    def noised(self, x0: torch.Tensor, first: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x0 at the noise of timestep `t`, always with the same noise: `first`, as the scheduler scaled it."""
        return add_noise(self.scheduler, x0, first / getattr(self.scheduler, "init_noise_sigma", 1.0), t)

    def predict(self, latents: torch.Tensor, step: int, scene: Scene, steering: Steering) -> torch.Tensor:
        """The branches' outputs as one, float32: plain, classifier-free guidance, or what the guider makes of them."""
        t = self.scheduler.timesteps[step]
        scaled = latents
        if hasattr(self.scheduler, "scale_model_input"):
            scaled = self.scheduler.scale_model_input(latents, t)
        guider = steering.guider
        if guider is not None:
            guider.set_state(step=step, num_inference_steps=len(self.scheduler.timesteps), timestep=t)
            blocks = guider.prepare_inputs({"branch": (scene.told, scene.blind, scene.identity)})
            for block in blocks:
                guider.prepare_models(self.unet)
                block.noise_pred = self.forward_unet(scaled, t, scene, block.branch)
                guider.cleanup_models(self.unet)
            return guider(blocks).pred
        told = self.forward_unet(scaled, t, scene, scene.told)
        if steering.scale == 1:
            return told
        blind = self.forward_unet(scaled, t, scene, scene.blind)
        return blind + steering.scale * (told - blind)

    def forward_unet(self, scaled: torch.Tensor, t: torch.Tensor, scene: Scene, branch: Branch) -> torch.Tensor:
        """One unet forward, with its ControlNet, in the unet's dtype; float32 out."""
        inputs, extra = scaled.to(self.unet.dtype), {}
        if scene.control is not None:
            down, middle = self.controlnet(
                inputs.to(self.controlnet.dtype),
                t,
                encoder_hidden_states=branch.text.to(self.controlnet.dtype),
                controlnet_cond=scene.control.to(self.controlnet.dtype),
                conditioning_scale=scene.control_scale,
                added_cond_kwargs=dict(branch.added),
                return_dict=False,
            )
            extra = {
                "down_block_additional_residuals": [d.to(inputs.dtype) for d in down],
                "mid_block_additional_residual": middle.to(inputs.dtype),
            }
        if self.unet.config.in_channels > inputs.shape[1]:
            inputs = torch.cat([inputs, scene.cells.to(inputs), scene.known.to(inputs)], dim=1)
        added = dict(branch.added) or None
        return self.unet(inputs, t, branch.text, added_cond_kwargs=added, return_dict=False, **extra)[0].float()

    @torch.enable_grad()
    def guided_x0(self, latents, step: int, scene: Scene, steering: Steering, level: tuple) -> torch.Tensor:
        """x0 in latents, moved down the energy of its picture: the only place where gradients are taken."""
        a, s, _ = level
        rules = steering.repulsion or Repulsion()
        start = latents.detach().requires_grad_(rules.through_unet)
        with torch.set_grad_enabled(rules.through_unet):
            x0 = x0_from(self.predict(start, step, scene, steering), start, *level)
        if not rules.through_unet:
            x0 = x0.detach().requires_grad_(True)
        energy = steering.energy(self.show(x0, scene))
        # Only the direction counts, and a float16 decoder would lose small gradients on the way.
        (gradient,) = torch.autograd.grad(1024 * energy.sum(), start if rules.through_unet else x0)
        x0 = x0.detach()
        noise = (latents - a * x0) / s.clamp_min(1e-3)
        length = rules.length(len(self.scheduler.timesteps))
        # Unlike pixels' gradients these need no smoothing: a cell of latents is 8 pixels wide.
        return push(x0, gradient.float(), energy.detach(), noise, scene.cells, length)

    def show(self, x0: torch.Tensor, scene: Scene) -> torch.Tensor:
        """Latents -> (B, 3, S, S) in [-1, 1], float32: the picture the recogniser looks at, surroundings included."""
        pixels = self.decode_latents(x0, self.preview_vae or self.vae)
        # Not crop + (pixels - crop) * inside: its rounding would carry a trace of the source.
        return torch.where(scene.inside > 0, pixels, scene.crop)

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, L, S/8, S/8) as the unet knows them, float32. No noise is drawn."""
        with wide_enough(self.vae) as vae:
            posterior = vae.encode(pixels.to(vae.dtype))
        latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
        return (latents.float() - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor, vae: torch.nn.Module) -> torch.Tensor:
        """The inverse, by this decoder; differentiable."""
        inputs = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        with wide_enough(vae):
            return vae.decode(inputs.to(vae.dtype), return_dict=False)[0].float()


@contextmanager
def wide_enough(vae: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The vae, for as long as it runs in float32 where its weights overflow float16 (SDXL's own vae)."""
    narrow = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    if narrow:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if narrow:
            vae.to(torch.float16)
