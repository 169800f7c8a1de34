"""Steers away from the source by a third branch of the unet: the branch form of identity repulsion."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import BaseGuidance
from diffusers.guiders.guider_utils import GuiderOutput


class IdentityBranchGuidance(BaseGuidance):
    """eps_uncond + s (eps_cond - eps_uncond) - r (eps_identity - eps_uncond).

    The identity branch reads the source's IP-Adapter embeds and no words; what it would generate is subtracted. Costs
    one unet forward more a step than plain guidance, and needs guidance on: with few-step LoRAs take `repulsion`.
    (Negated identity in guidance: Kung et al. 2024, and NullFace, FG 2026.)

    Args:
        guidance_scale: s, classifier-free guidance.
        identity_scale: r, how hard to steer off the source; 0 leaves plain guidance.
        start, stop: fractions of the steps between which the identity branch runs.
        enabled: False for the conditional branch alone.

    Raises:
        ValueError: `identity_scale` is below 0.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_identity"]  # noqa: RUF012  (diffusers wants a list)

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 5.0,
        identity_scale: float = 2.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ):
        super().__init__(start, stop, enabled)
        if identity_scale < 0:
            raise ValueError(f"identity_scale must be >= 0, got {identity_scale}; 0 switches the branch off")
        self.guidance_scale = guidance_scale
        self.identity_scale = identity_scale

    def prepare_inputs(self, data: dict[str, tuple]) -> list[Any]:
        """{field: (cond, uncond, identity)} -> one block of fields for each branch that runs at this step."""
        names = self._input_predictions[: self.num_conditions]
        return [self._prepare_batch(data, number, name) for number, name in enumerate(names)]

    def forward(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor | None = None,
        pred_identity: torch.Tensor | None = None,
    ) -> GuiderOutput:
        """(B, C, S, S) a branch -> their combination."""
        pred = pred_cond
        if pred_uncond is not None:
            pred = pred_uncond + self.guidance_scale * (pred_cond - pred_uncond)
        if pred_identity is not None:
            pred = pred - self.identity_scale * (pred_identity - pred_uncond)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    @property
    def is_conditional(self) -> bool:
        """Whether the branch now prepared is the conditional one."""
        return self._count_prepared == 1

    @property
    def num_conditions(self) -> int:
        """How many branches run at this step: 1, 2 or 3."""
        if not self._enabled:
            return 1
        if self.identity_scale > 0 and self._in_window():
            return 3
        return 1 if self.guidance_scale == 1 else 2

    def _in_window(self) -> bool:
        if self._num_inference_steps is None:
            return True
        return self._start <= self._step / self._num_inference_steps < self._stop
