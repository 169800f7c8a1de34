"""Builds the critic for the features it gets, and weighs its losses against the generator's."""

from __future__ import annotations

import logging

import torch
from safetensors.torch import load_file

from deid_diffusion.faces.ood_score import STAGES
from deid_diffusion.training.critic import Critic, critic_loss, generator_loss
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.teachers import FrozenTeachers

log = logging.getLogger(__name__)
# Feature maps that the critic gets, from pores to the whole face.
MAPS = (0, 2, 5, 7)


def critic_maps(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """All feature maps (B, C, h, w) of the perceptual network -> those that the critic gets."""
    return [maps[number] for number in MAPS]


def estimator_maps(teachers: FrozenTeachers, images: torch.Tensor) -> list[torch.Tensor]:
    """(B, 3, S, S) whole crops in [-1, 1] -> the estimator's middle stages: there a brow is a brow, not an edge."""
    states = teachers.estimator_states(images)
    return [states[stage] for stage in STAGES]


def adversarial_loss(
    critic: Critic,
    found: list[torch.Tensor],
    photographed: list[torch.Tensor],
    mask: torch.Tensor,
    weight: float,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """What the generator loses by the critic's score, times the weight, and what the critic loses by being wrong.

    Args:
        critic: scores.
        found, photographed: its maps of what was generated and of the crops.
        mask: (B, 1, W, W) in [0, 1], where it was generated.
        weight: of the generator's part.
        images: (B, 3, W, W) in [-1, 1], generated and photographed, for patches of pixels; None for none of those.

    Returns:
        a scalar.
    """
    generated, crops = images or (None, None)
    real = critic(photographed, crops)
    fake = critic([one.detach() for one in found], None if generated is None else generated.detach())
    return weight * generator_loss(critic, found, mask, generated) + critic_loss(real, fake, mask)


def build_critic(
    network: PerceptualLoss, teachers: FrozenTeachers | None = None, start: str = "", width: int = 48
) -> Critic:
    """A critic for the maps of this network, and for the estimator's if there is one.

    Args:
        network: gives feature maps of windows.
        teachers: give feature maps of whole faces.
        start: safetensors of a critic to go on from; heads that it does not hold start anew.
        width: of its head on pixels.

    Raises:
        ValueError: the network gives too few maps, or `start` holds weights of another critic.
    """
    device = network.mean.device
    maps = network.features(torch.zeros(1, 3, 64, 64, device=device))
    if len(maps) <= max(MAPS):
        raise ValueError(f"the critic needs feature maps {MAPS}; the network gives {len(maps)}")
    seen = critic_maps(maps)
    if teachers is not None:
        with torch.no_grad():
            seen += estimator_maps(teachers, torch.zeros(1, 3, 256, 256, device=device))
    critic = Critic(tuple(one.shape[1] for one in seen), width).to(device)
    if start:
        missing, unknown = critic.load_state_dict(load_file(start), strict=False)
        if unknown:
            raise ValueError(f"{start} is of another critic: it holds {', '.join(unknown)}")
        log.info("critic from %s, %d arrays new", start, len(missing))
    return critic
