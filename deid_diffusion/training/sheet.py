"""Draws a sheet of hold-out faces: source, erased, results of several seeds.

deid train sheet --data faces/ --model weights/face256 --out sheet.png
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image

from deid_diffusion.geometry import hull_distance
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, erase
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.training.data import FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.run import option, parse_options


@dataclass(frozen=True)
class Options:
    """What `deid train sheet` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    model: str = option("weights/face256", "pipeline folder, or the .ckpt of a running `deid train inpaint`")
    out: str = option("runs/sheet.png", "picture to write")
    faces: int = option(8, "columns")
    seeds: int = option(2, "rows of results, each with another identity of the hold-out")
    steps: int = option(8, "denoising steps")
    shift: float = option(3.0, "shift of the noise schedule")
    guidance: float = option(1.0, "classifier-free guidance scale")
    noise_scale: float = option(0.8, "factor on the initial noise")
    limit: int = option(700, "use only this many crops, 0 for all")
    threads: int = option(1, "CPU threads")


def load_pipeline(path: Path, shift: float) -> FaceInpaintPipeline:
    """A packed pipeline, or the averaged unet of a checkpoint with the default scheduler."""
    if path.suffix != ".ckpt":
        return FaceInpaintPipeline.from_pretrained(path, dtype=torch.float32)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path.parent / "unet"))
    unet.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return FaceInpaintPipeline(unet.eval(), FlowMatchEulerDiscreteScheduler(shift=shift))


def sheet(pipeline: FaceInpaintPipeline, faces: FaceSet, options: Options) -> Image.Image:
    """Rows: source, erased, then results; columns: people of the hold-out."""
    generator = torch.Generator().manual_seed(0)
    numbers = faces.draw(options.faces, generator, train=False)
    still = Jitter(zoom=0, turn_deg=0, shift=0, colour=0, degrade=0)
    batch = cut(faces, numbers, still, generator)
    masks = [hull_distance(points[:, :2].numpy(), 256) < 0.06 * 256 for points in batch.landmarks]
    mask = torch.from_numpy(np.stack(masks)).float()[:, None]
    named = [
        {name: value for name, value in zip(ATTRIBUTE_NAMES, row.tolist(), strict=True) if math.isfinite(value)}
        for row in batch.attributes
    ]
    rows = [batch.image, erase(batch.image, mask)]
    for seed in range(options.seeds):
        # The first row keeps the identity (can the model draw it?), the others take a neighbour's.
        identity = batch.embedding.roll(seed, 0)
        rows.append(pipeline(
            batch.image.clamp(-1, 1), mask, batch.landmarks, named, identity, num_inference_steps=options.steps,
            guidance_scale=options.guidance, noise_scale=options.noise_scale, output_type="pt",
            generator=[torch.Generator().manual_seed(seed * 100 + n) for n in range(options.faces)],
        ).images * 2 - 1)  # fmt: skip
    strips = [torch.cat(list(row), dim=-1) for row in rows]
    picture = torch.cat(strips, dim=-2).permute(1, 2, 0)
    return Image.fromarray(((picture + 1) * 127.5).round().clamp(0, 255).byte().numpy())


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    options = parse_options(Options, argv, __doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    pipeline = load_pipeline(Path(options.model), options.shift)
    faces = load_faces(Path(options.data), limit=options.limit or None)
    sheet(pipeline, faces, options).save(options.out)


if __name__ == "__main__":
    main()
