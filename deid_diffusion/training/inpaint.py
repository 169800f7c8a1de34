"""Trains the unet of the embedded model: a face from its surroundings, landmarks, attributes and identity.

    deid train inpaint --data faces/ --out weights/face256/unet --minutes 600

Folded pixels, no vae: x0 is the crop, noise is mixed in by rectified flow (Liu et al. 2022), x_t = (1 - t) x0 + t eps,
and the unet predicts x0, with the loss on the velocity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

from deid_diffusion.pipelines.conditioning import (
    FEWEST,
    FIELDS,
    POINTS,
    condition_vector,
    erase,
    fold,
    landmark_maps,
    unfold,
)
from deid_diffusion.pipelines.precondition import SIGMA_DATA, scale_input, x0_from_output
from deid_diffusion.training.data import Batch, Jitter, augmented_batch, load_faces, noise_like
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.masks import random_masks
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

FOLD = 4
IDENTITY_DIM = 256


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train inpaint` takes."""

    out: str = option("runs/inpaint", "folder for the unet, the checkpoint and the metrics")
    batch: int = option(4, "crops a step and process")
    lr: float = option(4e-4, "peak learning rate")
    weight_decay: float = option(0.01, "weight decay")
    ema: float = option(0.999, "decay of the averaged weights, which are what is saved")
    window: int = option(256, "train on windows of this many pixels, a multiple of 32; 256 is the whole crop")
    channels: str = option("64,96,160,256", "unet width at 64, 32, 16 and 8 cells")
    layers: int = option(1, "residual blocks a level")
    perceptual: str = option("", "TorchScript feature network for the perceptual loss; empty for none")
    perceptual_weight: float = option(0.1, "its weight beside the squared error")
    compile: bool = option(False, "torch.compile the unet")


def build_unet(channels: tuple[int, ...], layers: int) -> UNet2DConditionModel:
    """A stock unet on folded crops; attention from the third level down.

    Args:
        channels: width at each level, from 64 cells down.
        layers: residual blocks a level.
    """
    plain, attend = len(channels[:2]), len(channels[2:])
    return UNet2DConditionModel(
        sample_size=256 // FOLD,
        in_channels=2 * 3 * FOLD**2 + 1 + len(POINTS),  # noisy crop, erased crop, mask, landmark maps
        out_channels=3 * FOLD**2,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attend,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D",) * attend + ("UpBlock2D",) * plain,
        attention_head_dim=32,
        norm_num_groups=32 if all(c % 32 == 0 for c in channels) else 8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * len(FIELDS) + IDENTITY_DIM + 1,
        time_embedding_dim=384,
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=32,
    )


def load_unet(folder: str | Path) -> UNet2DConditionModel:
    """A trained unet in float32, which reads all attributes: those that it did not know yet do nothing at first.

    Args:
        folder: as `build_unet` and `save_pretrained` write it.
    """
    unet = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
    old = unet.class_embedding.linear_1
    count = (old.in_features - IDENTITY_DIM - 1) // 2
    if not FEWEST <= count < len(FIELDS):
        return unet
    new = torch.nn.Linear(old.in_features + 2 * (len(FIELDS) - count), old.out_features)
    with torch.no_grad():
        new.weight.zero_()
        new.bias.copy_(old.bias)
        values, valid, rest = old.weight.split([count, count, IDENTITY_DIM + 1], 1)
        new.weight[:, :count] = values
        new.weight[:, len(FIELDS) : len(FIELDS) + count] = valid
        new.weight[:, 2 * len(FIELDS) :] = rest
    unet.class_embedding.linear_1 = new
    unet.register_to_config(projection_class_embeddings_input_dim=new.in_features)
    return unet


def condition(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """What the unet is conditioned on, each part dropped at random so that it may be missing later.

    Args:
        batch: B crops with labels.
        generator: on the CPU.

    Returns:
        landmarks (B, K, 2) in crop pixels, NaN where dropped, and condition vectors (B, C).
    """
    count, device = len(batch.image), batch.image.device

    def keep(share: float, *shape: int) -> torch.Tensor:
        return (torch.rand(count, *shape, generator=generator) < share).to(device)

    fields = list(FIELDS.values())
    centre = torch.tensor([f.centre for f in fields], device=device)
    scale = torch.tensor([f.scale for f in fields], device=device)
    known = batch.attributes.isfinite()
    valid = (keep(0.9, len(fields)) & keep(0.9, 1) & known).float()
    values = torch.where(known, (batch.attributes - centre) / scale, 0)
    vector = torch.cat([values * valid, valid], -1)
    noise = torch.randn(count, IDENTITY_DIM, generator=generator).to(device)
    # Neighbours in identity are to mean neighbours in looks: the embedding is blurred by up to a quarter.
    blur = torch.rand(count, 1, generator=generator).to(device) * 0.25 / IDENTITY_DIM**0.5
    full = condition_vector(vector, batch.embedding + noise * blur, IDENTITY_DIM)
    full = torch.where(torch.arange(full.shape[1], device=device) < vector.shape[1], full, full * keep(0.8, 1))
    points = batch.landmarks[:, list(POINTS), :2]
    points = points + torch.randn(points.shape, generator=generator).to(device) * 0.7
    points = points.masked_fill(~(keep(0.95, 1, 1) & keep(0.98, len(POINTS), 1)), math.nan)
    return points, full


@dataclass(frozen=True, eq=False)
class Examples:
    """A batch as the unet meets it.

    Attributes:
        x0: (B, 3, W, W) clean crops in [-1, 1].
        mask: (B, 1, W, W) of 0 and 1.
        context: (B, 48 + 1 + K, W/4, W/4) folded crop without what is masked, mask, landmark maps.
        vector: (B, C) condition vector.
    """

    x0: torch.Tensor
    mask: torch.Tensor
    context: torch.Tensor
    vector: torch.Tensor


def make_examples(batch: Batch, window: int, generator: torch.Generator) -> Examples:
    """Draws masks and dropouts, and takes one window, somewhere, out of all crops.

    Args:
        batch: B crops with labels.
        window: W, its side in pixels, a multiple of 4.
        generator: on the CPU.
    """
    size, x0 = batch.image.shape[-1], batch.image
    mask = random_masks(batch.landmarks, size, generator).to(x0)
    points, vector = condition(batch, generator)
    context = torch.cat([fold(erase(x0, mask), FOLD), F.avg_pool2d(mask, FOLD), landmark_maps(points, size, FOLD)], 1)
    if window < size:
        left, top = (int(torch.randint(0, (size - window) // FOLD + 1, (1,), generator=generator)) for _ in "xy")
        context = context[..., top : top + window // FOLD, left : left + window // FOLD]
        where = (..., slice(top * FOLD, top * FOLD + window), slice(left * FOLD, left * FOLD + window))
        x0, mask = x0[where], mask[where]
    return Examples(x0, mask, context, vector)


def noised(x0: torch.Tensor, t: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, W, W), (B,) noise levels in [0, 1] -> x_t, (B, 3, W, W)."""
    level = t[:, None, None, None]
    return (1 - level) * x0 + level * noise_like(x0, generator)


def predict(unet: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, examples: Examples) -> torch.Tensor:
    """The unet's raw output, unfolded: x0 in units of the data's standard deviation, (B, 3, W, W) float32.

    Args:
        unet: of `build_unet`.
        x_t: (B, 3, W, W) noisy crops.
        t: (B,) noise levels in [0, 1].
        examples: what it is conditioned on.
    """
    inputs = torch.cat([fold(scale_input(x_t, t[:, None, None, None]), FOLD), examples.context], 1)
    return unfold(unet(inputs, t * 1000, None, class_labels=examples.vector, return_dict=False)[0].float(), FOLD)


def velocity_error(
    raw: torch.Tensor, target: torch.Tensor, t: torch.Tensor, mask: torch.Tensor, elsewhere: float = 0.03
) -> torch.Tensor:
    """Squared error of the velocity (eps - x0), which is that of x0 over t, heavy inside the mask.

    The clamp keeps almost clean crops from ruling.

    Args:
        raw: (B, 3, W, W) as `predict` gives.
        target: (B, 3, W, W) in [-1, 1].
        t: (B,) noise levels.
        mask: (B, 1, W, W) in [0, 1].
        elsewhere: weight of pixels off the mask, those on it having 1.

    Returns:
        a scalar.
    """
    error = (raw - target / SIGMA_DATA) ** 2 * 0.1 / (t**2).clamp_min(0.05)[:, None, None, None]
    heavy = elsewhere + mask
    return (error * heavy).mean() / heavy.mean().clamp_min(1e-6)


def inpaint_loss(
    unet: torch.nn.Module,
    batch: Batch,
    options: Options,
    perceptual: PerceptualLoss | None,
    generator: torch.Generator,
) -> torch.Tensor:
    """One step's loss, a scalar: squared error of the velocity plus perceptual distance of x0.

    Args:
        unet: in training.
        batch: B crops with labels.
        options: window, and weight of the perceptual distance.
        perceptual: None for no such distance.
        generator: on the CPU.
    """
    examples = make_examples(batch, options.window, generator)
    t = torch.sigmoid(torch.randn(len(examples.x0), generator=generator) + 0.6).to(examples.x0)
    raw = predict(unet, noised(examples.x0, t, generator), t, examples)
    loss = velocity_error(raw, examples.x0, t, examples.mask)
    if perceptual is None:
        return loss
    generated = torch.lerp(examples.x0, x0_from_output(raw), examples.mask)
    return loss + options.perceptual_weight * perceptual(generated, examples.x0).mean()


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged unet in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(options.data, device=accelerator.device, limit=options.limit, labels=options.labels)
    if options.start:
        unet = load_unet(options.start).train()
    else:
        unet = build_unet(integers(options.channels), options.layers)
    if options.compile:
        unet.compile()
    perceptual = PerceptualLoss(options.perceptual, accelerator.device) if options.perceptual else None

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        batch = augmented_batch(faces, faces.draw(options.batch, generator), Jitter(degrade=0.08), generator)
        return inpaint_loss(model, batch, options, perceptual, generator)

    metrics = run_training(unet, loss_of, options, accelerator) | {"options": recipe(options)}
    if accelerator.is_main_process:
        save_trained(unet, out / "unet", metrics)
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).save_pretrained(out / "scheduler")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
