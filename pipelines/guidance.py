"""Guidance as wrappers of the model call: each takes a model and gives another one, so that one sampler serves all.

A model is called as `model(x, level)` with x (B, C, S, S) at that noise level and answers with x0 (B, C, S, S), as in
k-diffusion; a network is called as `network(x, level, branches)` and answers with one raw output a branch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .repulsion import Energy, guidance_step, smooth
from .schedule import Level

Model = Callable[[torch.Tensor, Level], torch.Tensor]
Network = Callable[[torch.Tensor, Level, Sequence[Any]], list[torch.Tensor]]


def with_cfg(network: Network, cond: Any, uncond: Any, scale: Callable[[], float]) -> Model:
    """Classifier-free guidance: uncond + scale (cond - uncond), eq. 6 of Ho and Salimans 2022 at w = scale - 1.

    Args:
        network: raw outputs of the branches that are asked for.
        cond, uncond: the branches; uncond None leaves cond alone.
        scale: asked at every step, so that it may change on the way; up to 1 only cond is run.

    Returns:
        (x, level) -> the raw outputs as one.
    """

    def guided(x: torch.Tensor, level: Level) -> torch.Tensor:
        if uncond is None or scale() <= 1:
            return network(x, level, [cond])[0]
        with_it, without = network(x, level, [cond, uncond])
        return without + scale() * (with_it - without)

    return guided


def with_guider(network: Network, branches: Sequence[Any], guider: Any, unet: torch.nn.Module) -> Model:
    """A diffusers guider's combination of as many branches as it wants at a step -> (x, level) -> one raw output.

    Args:
        network: raw outputs of the branches that are asked for.
        branches: in the order that the guider names its inputs.
        guider: a diffusers guider; its state is set before each call.
        unet: what the guider may put hooks on.
    """

    def guided(x: torch.Tensor, level: Level) -> torch.Tensor:
        guider.set_state(step=level.step, num_inference_steps=level.num_steps, timestep=level.t)
        blocks = guider.prepare_inputs({"branch": tuple(branches)})
        for block in blocks:
            guider.prepare_models(unet)
            block.noise_pred = network(x, level, [block.branch])[0]
            guider.cleanup_models(unet)
        return guider(blocks).pred

    return guided


def with_energies(
    model: Model,
    energies: Sequence[Energy],
    mask: torch.Tensor,
    show: Callable[[torch.Tensor], torch.Tensor] | None = None,
    blur: float = 0.0,
) -> Model:
    """x0 moved down the energies, one guidance step for each that acts: the only place where gradients are taken.

    Args:
        model: gives x0.
        energies: of the picture, each with its own window and scale.
        mask: (B, 1, S, S), 1 where x0 may change.
        show: x0 -> the picture (B, 3, S, S) in [-1, 1], differentiably; None where x0 is the picture.
        blur: pixels of x0 below which a gradient's detail is dropped, see `smooth`; 0 keeps all.
    """

    @torch.enable_grad()
    def guide(x: torch.Tensor, level: Level, active: list[Energy]) -> torch.Tensor:
        through = any(energy.through_unet for energy in active)
        start = x.detach().requires_grad_(through)
        with torch.set_grad_enabled(through):
            x0 = model(start, level)
        x0 = x0 if through else x0.detach().requires_grad_(True)
        picture, moved = x0 if show is None else show(x0), x0.detach()
        noise = (x - level.a * moved) / level.s.clamp_min(1e-3)
        for energy in active:
            value = energy.function(picture)
            leaf = start if energy.through_unet else x0
            # Only the direction counts, and a float16 decoder would lose small gradients on the way.
            (gradient,) = torch.autograd.grad(1024 * value.sum(), leaf, retain_graph=energy is not active[-1])
            gradient = smooth(gradient.float(), blur) if blur else gradient.float()
            moved = guidance_step(moved, gradient, value.detach(), noise, mask, energy.step_size(level.num_steps))
        return moved

    def guided(x: torch.Tensor, level: Level) -> torch.Tensor:
        active = [energy for energy in energies if energy.active(level.step, level.num_steps)]
        return guide(x, level, active) if active else model(x, level)

    return guided


def with_known(model: Model, known: torch.Tensor, mask: torch.Tensor) -> Model:
    """x0 as it is known wherever the mask is 0.

    Args:
        model: gives x0.
        known: (B, C, S, S), x0 where it is known.
        mask: (B, 1, S, S), above 0 where the model decides.
    """
    return lambda x, level: torch.where(mask > 0, model(x, level), known)
