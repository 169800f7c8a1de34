"""The sampler of every face pipeline: noise to x0 along the scheduler's timesteps, with diffusers' callbacks."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .conditioning import shown
from .guidance import Model
from .schedule import Level, levels, output_from

Callback = Callable[[Any, int, torch.Tensor, dict[str, torch.Tensor]], Mapping[str, torch.Tensor] | None]


class Sampler:
    """Mixin of the pipelines: their state during a call, the start, and the one loop."""

    # Of the pipeline that it becomes a part of.
    scheduler: Any
    progress_bar: Callable[..., Any]
    _execution_device: torch.device

    _callback_tensor_inputs = ["latents", "x0"]  # noqa: RUF012  (diffusers reads it as a class list)
    _guidance_scale = 1.0
    _num_timesteps = 0
    _interrupt = False

    @property
    def guidance_scale(self) -> float:
        """Classifier-free guidance of the call that runs; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether it is on: above 1, as everywhere in diffusers."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that runs."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the steps that are left are skipped; a callback may set `_interrupt`."""
        return self._interrupt

    def check_sampling(
        self,
        batch: int,
        num_inference_steps: int,
        num_images_per_prompt: int,
        strength: float,
        generator: torch.Generator | list[torch.Generator] | None,
        names: Sequence[str],
        rows: Mapping[str, Any],
    ) -> None:
        """Refuses what would fail later with a worse message.

        Args:
            batch: B, number of crops.
            num_inference_steps, num_images_per_prompt, strength, generator: as `__call__` takes them.
            names: tensors that the callback is to get.
            rows: by argument, what must have one row a crop; None is not looked at.

        Raises:
            ValueError: one of them is out of range, or of another length.
        """
        counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {shown(value)}")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength}; 1 is pure noise")
        if isinstance(generator, list) and len(generator) != batch * num_images_per_prompt:
            raise ValueError(
                f"need one generator a face, got {len(generator)} for {batch * num_images_per_prompt} faces"
            )
        unknown = set(names) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callbacks can get {self._callback_tensor_inputs}, got {shown(sorted(unknown))}")
        for name, value in rows.items():
            if value is not None and len(value) != batch:
                raise ValueError(f"need one {name} a face, got {len(value)} for {batch} faces")

    def set_timesteps(self, num_inference_steps: int, strength: float, **options: Any) -> torch.Tensor:
        """Sets the schedule, and gives the (T,) timesteps that are run: the last share of them, as img2img does.

        Args:
            num_inference_steps: steps of the whole schedule.
            strength: share of them that is run, in (0, 1].
            **options: for the scheduler's `set_timesteps`.

        Raises:
            ValueError: no step is left.
        """
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device, **options)
        skipped = num_inference_steps - int(num_inference_steps * strength)
        if skipped == num_inference_steps:
            raise ValueError(f"strength {strength} of {num_inference_steps} steps leaves none; take more of either")
        return self.scheduler.timesteps[skipped * self.scheduler.order :]

    def prepare_latents(
        self,
        shape: Sequence[int],
        latents: torch.Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        """Noise (B, C, S, S), float32, on the pipeline's device: the caller's own, or drawn.

        Args:
            shape: of the noise.
            latents: (B, C, S, S) to take, or None to draw.
            generator: one, or one a face.

        Raises:
            ValueError: `latents` have another shape.
        """
        if latents is None:
            return draw_noise(shape, generator, self._execution_device)
        if tuple(latents.shape) != tuple(shape):
            raise ValueError(f"latents must be {tuple(shape)}, got {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def sample(
        self,
        model: Model,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        kind: str,
        generator: torch.Generator | list[torch.Generator] | None,
        callback: Callback | None,
        names: Sequence[str],
        restore: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Runs the loop.

        Args:
            model: (x, level) -> x0.
            latents: (B, C, S, S) at the noise of the first timestep.
            timesteps: of the scheduler, or the last of them.
            kind: what the scheduler takes outputs for, see `schedule.prediction_kind`.
            generator: for schedulers that draw noise.
            callback: after each step, as `f(pipe, step, timestep, tensors)`; what it returns as "latents" is taken.
            names: of the tensors that it gets.
            restore: (latents, step) -> latents after each step, for what must not drift.

        Returns:
            (B, C, S, S) after the last step.
        """
        takes = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in takes else {}
        self._num_timesteps, self._interrupt = len(timesteps), False
        with self.progress_bar(total=len(timesteps)) as bar:
            for step, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                level = Level(step, len(timesteps), t, *levels(self.scheduler, t, latents))
                x0 = model(latents, level)
                output = output_from(x0, latents, level.a, level.s, kind)
                latents = self.scheduler.step(output, t, latents, return_dict=False, **options)[0]
                if restore is not None:
                    latents = restore(latents, step)
                if callback is not None:
                    known = {"latents": latents, "x0": x0}
                    changed = callback(self, step, t, {name: known[name] for name in names}) or {}
                    latents = changed.get("latents", latents)
                bar.update()
        return latents


def draw_noise(
    shape: Sequence[int], generator: torch.Generator | list[torch.Generator] | None, device: torch.device
) -> torch.Tensor:
    """Standard normal noise (B, C, S, S), float32, drawn where its generator lives: as `randn_tensor` of
    diffusers draws it.

    Args:
        shape: of the noise.
        generator: one, one a row, or None for torch's own.
        device: where the noise is to be.
    """
    if isinstance(generator, list):
        return torch.cat([draw_noise((1, *shape[1:]), one, device) for one in generator])
    return torch.randn(tuple(shape), generator=generator, device=(generator and generator.device) or device).to(device)
