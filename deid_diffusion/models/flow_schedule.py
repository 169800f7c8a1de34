"""The scheduler of the embedded model, without diffusers, whose import takes longer than a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

_NAME = "FlowMatchEulerDiscreteScheduler"
_TAKEN = ("num_train_timesteps", "shift")
# Read only where one of the options below is on.
_UNREAD = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
_OFF = (
    "use_dynamic_shifting", "invert_sigmas", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas",
    "use_beta_sigmas", "stochastic_sampling",
)  # fmt: skip


class FlowSchedule:
    """What `FlowMatchEulerDiscreteScheduler` of diffusers gives, to the bit, of what `FaceInpainter` asks of it."""

    order = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Takes a configuration.

        Args:
            config: as in scheduler_config.json.

        Raises:
            ValueError: another scheduler, or an option that is not known here.
        """
        self.config = {name: value for name, value in config.items() if not name.startswith("_")}
        odd = [name for name, value in self.config.items() if name not in (*_TAKEN, *_UNREAD) and value]
        if config.get("_class_name") != _NAME or odd or not set(self.config) <= {*_TAKEN, *_UNREAD, *_OFF}:
            raise ValueError(f"wanted a plain {_NAME}, got {config.get('_class_name')} with {odd}")
        self.shift, self.steps = self.config.get("shift", 1.0), self.config.get("num_train_timesteps", 1000)
        self.sigmas = self.timesteps = torch.zeros(0)
        self._index: int | None = None

    def set_timesteps(self, number: int, device: torch.device, sigmas: Sequence[float]) -> None:
        """Sets the schedule.

        Args:
            number: of steps.
            device: of `timesteps` and `sigmas`.
            sigmas: noise levels before the shift, one a step, from 1 down.
        """
        levels = np.array(sigmas).astype(np.float32)
        shifted = torch.from_numpy(self.shift * levels / (1 + (self.shift - 1) * levels)).to(device, torch.float32)
        self.timesteps = shifted * self.steps
        self.sigmas = torch.cat([shifted, torch.zeros(1, device=device)])
        self._index = None

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x0 and noise -> what stands at a timestep.

        Args:
            sample: (B, C, S, S) x0.
            timestep: (B,), of `timesteps`.
            noise: (B, C, S, S).
        """
        sigma = self.sigmas.to(sample)[[self._place(t) for t in timestep]].view(-1, *[1] * (sample.ndim - 1))
        return sigma * noise + (1.0 - sigma) * sample

    def step(
        self, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        """One step of Euler's.

        Args:
            output: (B, C, S, S), the velocity.
            timestep: of `timesteps`; read at the first step only.
            sample: (B, C, S, S) at this timestep.
            return_dict: False.

        Returns:
            (B, C, S, S) at the next one.
        """
        place = self._place(timestep) if self._index is None else self._index
        self._index = place + 1
        change = self.sigmas[place + 1] - self.sigmas[place]
        return ((sample.to(torch.float32) + change * output).to(output.dtype),)

    def _place(self, timestep: torch.Tensor) -> int:
        found = (self.timesteps == timestep).nonzero()
        return int(found[1 if len(found) > 1 else 0])
