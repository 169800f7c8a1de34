"""The model call of the Stable Diffusion family: branches through unet and ControlNet, and x0 as a picture."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .guidance import Model, with_cfg, with_guider
from .schedule import Level, add_noise, x0_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Branch:
    """What one branch of guidance is conditioned on.

    Attributes:
        text: (B, T, C) token features.
        added: further conditions under the names of the unet's `added_cond_kwargs`.
    """

    text: torch.Tensor
    added: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """What stays the same over the steps and the branches.

    Attributes:
        crop: (B, 3, S, S) in [-1, 1].
        inside: (B, 1, S, S), 1 where pixels are replaced.
        cells: (B, 1, S/8, S/8), 1 where latents are replaced: every cell that holds a masked pixel.
        known: (B, L, S/8, S/8) latents of the crop without its face.
        control: (B, 3, S, S) in [0, 1] for the ControlNet, or None.
        control_scale: weight of the ControlNet.
        attention: the unet's `cross_attention_kwargs`.
    """

    crop: torch.Tensor
    inside: torch.Tensor
    cells: torch.Tensor
    known: torch.Tensor
    control: torch.Tensor | None = None
    control_scale: float = 1.0
    attention: Mapping[str, Any] | None = None


class FaceDenoiser:
    """Mixin of the pipelines: their networks."""

    # Of the pipeline that it becomes a part of.
    unet: Any
    vae: Any
    preview_vae: Any
    controlnet: Any
    scheduler: Any
    enable_xformers_memory_efficient_attention: Callable[[], None]
    _execution_device: torch.device
    _guidance_scale: float

    def denoiser(self, scene: Scene, branches: Sequence[Branch | None], guider: Any, kind: str) -> Model:
        """(x, level) -> x0, both (B, L, S/8, S/8): the branches' outputs by `guidance_scale`, or by the guider.

        Args:
            scene: what is around the face.
            branches: with the conditions, without them (None where nobody asks), and of the source's identity.
            guider: a diffusers guider, or None.
            kind: what the unet's output is, see `schedule.prediction_kind`.
        """

        def network(x: torch.Tensor, level: Level, wanted: Sequence[Branch]) -> list[torch.Tensor]:
            scales = hasattr(self.scheduler, "scale_model_input")
            scaled = self.scheduler.scale_model_input(x, level.t) if scales else x
            return [self.forward_unet(scaled, level.t, scene, branch) for branch in wanted]

        if guider is None:
            output = with_cfg(network, branches[0], branches[1], lambda: self._guidance_scale)
        else:
            output = with_guider(network, branches, guider, self.unet)
        return lambda x, level: x0_from(output(x, level), x, level.a, level.s, kind)

    def forward_unet(self, scaled: torch.Tensor, t: torch.Tensor, scene: Scene, branch: Branch) -> torch.Tensor:
        """One unet forward, with its ControlNet, in the unet's dtype; (B, L, S/8, S/8) float32 out.

        Args:
            scaled: (B, L, S/8, S/8) latents, scaled as the scheduler wants them.
            t: timestep.
            scene: what is around the face.
            branch: what it is conditioned on.
        """
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
        if self.inpaints:
            inputs = torch.cat([inputs, scene.cells.to(inputs), scene.known.to(inputs)], dim=1)
        extra |= {"added_cond_kwargs": dict(branch.added) or None, "cross_attention_kwargs": scene.attention}
        return self.unet(inputs, t, branch.text, return_dict=False, **extra)[0].float()

    def blend_known(
        self, latents: torch.Tensor, step: int, scene: Scene, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The surroundings put back, as noisy as the rest, always with the same noise.

        A plain text-to-image unet knows nothing of them (Avrahami et al. 2022, algorithm 1).

        Args:
            latents: (B, L, S/8, S/8) after the step.
            step: its number, from 0.
            scene: what is around the face.
            noise: (B, L, S/8, S/8), the same at all steps.
            timesteps: (T,) that are run.
        """
        last = step + 1 == len(timesteps)
        known = scene.known if last else add_noise(self.scheduler, scene.known, noise, timesteps[step + 1])
        return torch.where(scene.cells > 0, latents, known)

    def show(self, x0: torch.Tensor, scene: Scene) -> torch.Tensor:
        """Latents -> (B, 3, S, S) in [-1, 1], float32: the picture that energies look at, surroundings included.

        Args:
            x0: (B, L, S/8, S/8) latents.
            scene: what is around the face.
        """
        pixels = self.decode_latents(x0, self.preview_vae or self.vae)
        # Not crop + (pixels - crop) * inside: its rounding would carry a trace of the source.
        return torch.where(scene.inside > 0, pixels, scene.crop)

    @property
    def inpaints(self) -> bool:
        """Whether the unet reads the surroundings beside the latents (9 channels), or is a plain one (4)."""
        return self.unet.config.in_channels > self.unet.config.out_channels

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

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, L, S/8, S/8) as the unet knows them, float32. No noise is drawn."""
        with wide_enough(self.vae) as vae:
            posterior = vae.encode(pixels.to(vae.dtype))
        latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
        return (latents.float() - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor, vae: torch.nn.Module) -> torch.Tensor:
        """(B, L, S/8, S/8), a decoder -> (B, 3, S, S) about [-1, 1], float32, differentiably."""
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
