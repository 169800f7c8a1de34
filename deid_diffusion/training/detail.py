"""Trains the detail stage: from the base model's face of 256 px, enlarged, to one that holds at 512 px.

    deid train detail --data pairs/ --perceptual features.ts.pt --out runs/detail --minutes 60

One forward of a small convolutional network. It is asked for the original's values where they can be known, for as
much detail as the original has where they cannot, and for what a critic takes for photographed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from deid_diffusion.pipelines.detail import CHANNELS_IN, CHANNELS_OUT, FOLD, add_detail
from deid_diffusion.training.adversarial import adversarial_loss, build_critic, critic_maps
from deid_diffusion.training.critic import Critic
from deid_diffusion.training.data import noise_like
from deid_diffusion.training.detail_data import Pairs, Patches
from deid_diffusion.training.detail_losses import band_losses, inside, roughness_ratio
from deid_diffusion.training.distill import CRITIC, Pair
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.run import (
    RunOptions,
    begin,
    integers,
    option,
    recipe,
    run_command,
    run_training,
    save_trained,
)

SIDE = 512  # px, of the crops that it is made for
HELD_OUT = 32  # patches that it is measured on


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train detail` takes."""

    data: str = option("data/pairs", "folder that `deid train detail_pairs` wrote")
    out: str = option("runs/detail", "folder for the network, the checkpoint and the metrics")
    perceptual: str = option("features.ts.pt", "TorchScript feature network for the perceptual loss and the critic")
    batch: int = option(4, "patches a step and process")
    optimiser: str = option("muon", "adamw, or muon: more per step where steps are few and dear")
    lr: float = option(1e-3, "peak learning rate")
    final_lr: float = option(0.2, "share of it that is left at the end of this call")
    weight_decay: float = option(0.01, "weight decay")
    ema: float = option(0.99, "decay of the averaged weights, which are what is saved")
    channels: str = option("32,64,128", "width at 128, 64 and 32 cells; each a multiple of 16")
    aligned: float = option(1.0, "share of the pairs that are used, those in which the base strayed least")
    window: int = option(256, "train on patches of this many pixels, a multiple of 32")
    band_weight: float = option(1.0, "weight of the wavelet bands beside the pixels")
    roughness_weight: float = option(0.03, "weight of how much of each band there is, wherever it lies")
    perceptual_weight: float = option(0.03, "weight of the perceptual distance")
    critic_weight: float = option(0.01, "weight of the critic; 0 for none")
    critic_width: int = option(24, "width of the critic's head on pixels")
    judge_every: int = option(2, "perceptual distance and critic, the dearer half of a step, in one step of so many")
    warmup: int = option(200, "steps of this call before the critic begins; 0 when it went on from a checkpoint")


def build_network(channels: tuple[int, ...]) -> UNet2DModel:
    """A stock unet without attention, so that it takes patches; its output is zero at first.

    Args:
        channels: width at each level, from 128 cells down.
    """
    network = UNet2DModel(
        sample_size=SIDE // FOLD,
        in_channels=CHANNELS_IN,
        out_channels=CHANNELS_OUT,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        norm_num_groups=16,
        add_attention=False,
    )
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
    return network


def detail_loss(
    network: torch.nn.Module,
    critic: Critic | None,
    patches: Patches,
    features: PerceptualLoss | None,
    options: Options,
    generator: torch.Generator,
) -> torch.Tensor:
    """The losses of network and critic together, a scalar for one step.

    Args:
        network: the detail stage.
        critic: None before it begins.
        patches: B of them.
        features: for the perceptual distance and the critic; None for neither.
        options: weights.
        generator: for the noise.
    """
    found = detailed(network, patches, generator)
    values, rough = band_losses(found, patches.target, patches.mask)
    loss = inside((found - patches.target).abs(), patches.mask)
    loss = loss + options.band_weight * values + options.roughness_weight * rough
    if features is None:
        return loss
    maps = features.features(found)
    with torch.no_grad():
        wanted = features.features(patches.target)
    loss = loss + options.perceptual_weight * features.distance(maps, wanted).mean()
    if critic is None:
        return loss
    seen, images = (critic_maps(maps), critic_maps(wanted)), (found, patches.target)
    return loss + adversarial_loss(critic, *seen, patches.mask, options.critic_weight, images)


def detailed(network: torch.nn.Module, patches: Patches, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, W, W): what the stage makes of patches.

    Args:
        network: the detail stage.
        patches: B of them.
        generator: for the noise.
    """
    return add_detail(network, patches.laid, patches.mask, noise_like(patches.mask, generator))


@torch.no_grad()
def measure(network: torch.nn.Module, pairs: Pairs, window: int) -> tuple[dict[str, Any], np.ndarray]:
    """How close it comes on people it has never seen.

    Args:
        network: the detail stage.
        pairs: whose hold-out is drawn from.
        window: px.

    Returns:
        by name, of the enlarged base and of the detail stage: log2 of how much there is of each band to how much there
        should be, and the mean error; and a sheet (H, W, 3) uint8: target, base, detail of eight patches.
    """
    generator = torch.Generator().manual_seed(0)
    patches = pairs.draw(HELD_OUT, window, generator, train=not len(pairs.rows[False]))
    rows = zip(*(part.split(4) for part in (patches.target, patches.laid, patches.mask)), strict=True)
    found = torch.cat([detailed(network, Patches(*row), generator) for row in rows])
    metrics: dict[str, Any] = {}
    for name, images in (("base", patches.laid), ("detail", found)):
        metrics[f"{name}_log2_bands"] = roughness_ratio(images, patches.target, patches.mask)
        metrics[f"{name}_error"] = float(inside((images - patches.target).abs(), patches.mask))
    columns = [torch.cat(list(images[:8]), 1) for images in (patches.target, patches.laid, found)]
    sheet = torch.cat(columns, 2).permute(1, 2, 0).clamp(-1, 1)
    return metrics, ((sheet + 1) * 127.5).round().byte().numpy()


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged network in half precision; returns the metrics it wrote."""
    accelerator, out, pairs = begin(options), Path(options.out), Pairs(options.data, options.aligned)
    features = PerceptualLoss(options.perceptual, accelerator.device)
    if options.start:
        network = UNet2DModel.from_pretrained(options.start, dtype=torch.float32).train()
    else:
        network = build_network(integers(options.channels))
    critic = build_critic(features, width=options.critic_width).to(accelerator.device)
    pair = Pair(network.to(accelerator.device, memory_format=torch.channels_last), critic)

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        patches = pairs.draw(options.batch, options.window, generator)
        patches = Patches(*(part.to(accelerator.device) for part in (patches.target, patches.laid, patches.mask)))
        judged = options.critic_weight > 0 and step >= options.warmup
        seen = None if step % options.judge_every else features
        return model(
            lambda student, judge: detail_loss(student, judge if judged else None, patches, seen, options, generator)
        )

    metrics = run_training(pair, loss_of, options, accelerator) | {"options": recipe(options)}
    if accelerator.is_main_process:
        measured, sheet = measure(pair.student.cpu(), pairs, options.window)
        save_trained(pair.student, out / "detail", metrics | measured)
        save_file(pair.critic.state_dict(), out / CRITIC)
        cv2.imwrite(str(out / "sheet.png"), sheet[..., ::-1])
        metrics |= measured
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
