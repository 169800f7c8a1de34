"""Draws a sample grid of hold-out faces: source, inpaint mask, results of several seeds.

deid train sample_grid --data faces/ --model weights/face256 --out samples.png
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from PIL import Image

from deid_diffusion.faces.geometry import hull_distance
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, erase
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.training.data import FaceSet, Jitter, augmented_batch, load_faces
from deid_diffusion.training.run import averaged_state, option, read_checkpoint, run_command


@dataclass(frozen=True)
class Options:
    """What `deid train sample_grid` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    model: str = option("weights/face256", "pipeline folder, or the .ckpt of a running `deid train inpaint`")
    out: str = option("runs/samples.png", "picture to write")
    faces: int = option(8, "columns")
    seeds: int = option(2, "rows of results, each with another identity of the hold-out")
    steps: int = option(8, "denoising steps")
    shift: float = option(3.0, "shift of the noise schedule")
    guidance: float = option(1.0, "classifier-free guidance scale")
    noise_scale: float = option(0.8, "standard deviation of the initial noise")
    limit: int = option(700, "use only this many crops, 0 for all")
    threads: int = option(1, "CPU threads")


def load_generator(path: Path, shift: float) -> FaceInpaintPipeline:
    """A packed pipeline, or the averaged unet of a checkpoint with the default scheduler.

    Args:
        path: folder of the pipeline, or a .ckpt beside its unet/config.json.
        shift: of that scheduler.
    """
    if path.suffix != ".ckpt":
        return FaceInpaintPipeline.from_pretrained(path, dtype=torch.float32)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path.parent / "unet"))
    ema = EMAModel(averaged_state(unet), foreach=True)
    ema.load_state_dict(read_checkpoint(path)["ema"])
    ema.copy_to(averaged_state(unet))
    return FaceInpaintPipeline(unet.eval(), FlowMatchEulerDiscreteScheduler(shift=shift))


def sample_grid(pipeline: FaceInpaintPipeline, faces: FaceSet, options: Options) -> Image.Image:
    """Rows: source, source without what is masked, then results; columns: people of the hold-out.

    Args:
        pipeline: generates.
        faces: crops with labels.
        options: how many, and how they are sampled.
    """
    generator = torch.Generator().manual_seed(0)
    numbers = faces.draw(options.faces, generator, train=False)
    still = Jitter(zoom=0, turn_deg=0, shift=0, colour=0, degrade=0)
    batch = augmented_batch(faces, numbers, still, generator)
    masks = [hull_distance(points[:, :2].numpy(), 256) < 0.06 * 256 for points in batch.landmarks]
    mask = torch.from_numpy(np.stack(masks)).float()[:, None]
    named = [
        {name: value for name, value in zip(ATTRIBUTE_NAMES, row.tolist(), strict=True) if math.isfinite(value)}
        for row in batch.attributes
    ]
    rows = [(images / 2 + 0.5).permute(0, 2, 3, 1).numpy() for images in (batch.image, erase(batch.image, mask))]
    for seed in range(options.seeds):
        # The first row keeps the identity (can the model draw it?), the others take a neighbour's.
        identity = batch.embedding.roll(seed, 0)
        rows.append(pipeline(
            batch.image.clamp(-1, 1), mask, batch.landmarks, named, identity, num_inference_steps=options.steps,
            guidance_scale=options.guidance, noise_scale=options.noise_scale, output_type="np",
            generator=[torch.Generator().manual_seed(seed * 100 + n) for n in range(options.faces)],
        ).images)  # fmt: skip
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def draw(options: Options) -> None:
    """Writes the picture."""
    torch.set_num_threads(options.threads)
    pipeline = load_generator(Path(options.model), options.shift)
    faces = load_faces(options.data, limit=options.limit)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    sample_grid(pipeline, faces, options).save(options.out)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, draw, argv, __doc__)


if __name__ == "__main__":
    main()
