"""Makes the pairs that the detail stage learns from: crops of 512 px, and what the base model makes of them.

    deid train detail_pairs --data faces/ --out pairs/

At run time the detail stage gets a face of 256 px that nobody has a sharper picture of. Pairs need one, so the base
goes on from the crop itself, with as much noise on it as before its last step: the same person, in the base's own
softness. Interrupted, it goes on from the folder.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deid_diffusion.models.backends import use_backend
from deid_diffusion.models.loading import load_pipeline
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training.masks import random_masks
from deid_diffusion.training.run import option, run_command
from deid_diffusion.training.shards import Shards, packed, write_whole

log = logging.getLogger(__name__)
# The last of so many steps starts at a noise level of 3 / (n + 2): 0.6, 0.5, 0.43, 0.38.
STEPS = (3, 4, 4, 5, 6)
BATCH = 8


@dataclass(frozen=True)
class Options:
    """What `deid train detail_pairs` takes."""

    data: str = option("data/synthetic", "folder that `deid train synthesize` wrote")
    out: str = option("data/pairs", "folder for the pairs; what lies there is gone on from")
    base: str = option("weights/face256", "folder of the embedded model, whose detail stage is to be trained")
    backend: str = option("auto", "what runs it, see FaceAnonymizer")
    variants: int = option(2, "outputs of the base for each crop, each with a mask and a noise of its own")
    shards: int = option(0, "stop after so many shards of the data, 0 for all")
    seed: int = option(0, "seed of masks and noise")
    threads: int = option(1, "CPU threads")


def make_pairs(options: Options) -> dict[str, int]:
    """Writes `pairs-NNNN.npz` and its arrays for each shard of the data; returns how many crops they hold.

    Arrays: `crops` (N, 512, 512, 3) uint8, `base` (N, V, 256, 256, 3) uint8, `masks` (N, V, 256, 32) uint8, bits of
    (256, 256). They are files of their own, `pairs-NNNN-crops.npy`, so that they need not fit into memory.

    Raises:
        FileNotFoundError: the data holds no shard.
    """
    torch.set_num_threads(options.threads)
    shards, out = Shards(Path(options.data)), Path(options.out)
    if not shards.labels:
        raise FileNotFoundError(f"{options.data} must hold synthetic-0000.npz ...; run `deid train synthesize` first")
    out.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline(options.base)
    pipe.set_progress_bar_config(disable=True)
    use_backend(pipe, options.backend)
    total = 0
    for number in range(min(len(shards.labels), options.shards or len(shards.labels))):
        labels = shards.labels[number]
        total += len(labels["key"])
        done = out / f"pairs-{number:04d}.npz"
        if done.exists():
            continue
        crops = read_crops(shards, number)
        base, masks = soften(pipe, crops, labels, options, number)
        for name, array in {"crops": crops, "base": base, "masks": np.packbits(masks, axis=-1)}.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            write_whole(out / f"pairs-{number:04d}-{name}.npy", buffer.getvalue())
        write_whole(done, packed({name: labels[name] for name in ("key", "split", "landmarks", "attributes")}))
        log.info("%s, %d crops", done.name, len(crops))
    return {"crops": total}


def read_crops(shards: Shards, number: int) -> np.ndarray:
    """(N, 512, 512, 3) uint8: the large crops of a shard, in the order of its labels.

    Args:
        shards: of `deid train synthesize`.
        number: of the shard.
    """
    files = dict(shards.crops("512", number))
    keys = shards.labels[number]["key"].tolist()
    return np.stack([np.asarray(Image.open(io.BytesIO(files[key])).convert("RGB")) for key in keys])


def soften(
    pipe: Any, crops: np.ndarray, labels: dict[str, np.ndarray], options: Options, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the base makes of crops when it goes on from them.

    Args:
        pipe: the embedded model, without a detail stage.
        crops: (N, 2S, 2S, 3) uint8, of twice the side that it takes.
        labels: landmarks (N, 478, 3) in its pixels, attributes (N, A).
        options: how many outputs of each, and the seed.
        number: of the shard, another seed.

    Returns:
        (N, V, S, S, 3) uint8, and (N, V, S, S) bool, where it was generated.
    """
    size = pipe.size
    small = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.avg_pool2d(small, crops.shape[1] // size)
    with torch.no_grad():
        identity = torch.cat([embed(pipe.id_encoder, part * 2 - 1) for part in small.split(BATCH)])
    landmarks = torch.from_numpy(labels["landmarks"].astype(np.float32))[..., :2]
    attributes = [_attributes(row) for row in labels["attributes"]]
    generator = torch.Generator().manual_seed(options.seed * 100_003 + number)
    base = np.zeros((len(crops), options.variants, size, size, 3), np.uint8)
    masks = np.zeros(base.shape[:-1], bool)
    for variant in range(options.variants):
        for first in range(0, len(crops), BATCH):
            rows = slice(first, first + BATCH)
            steps = STEPS[int(torch.randint(len(STEPS), (), generator=generator))]
            mask = random_masks(landmarks[rows], size, generator)
            images = pipe(
                image=small[rows], mask_image=mask, landmarks=landmarks[rows], attributes=attributes[rows],
                identity=identity[rows], num_inference_steps=steps, init_image=small[rows], strength=1 / steps,
                generator=generator, output_type="np",
            ).images  # fmt: skip
            base[rows, variant] = np.rint(images * 255)
            masks[rows, variant] = mask[:, 0].numpy() > 0
    return base, masks


def _attributes(row: np.ndarray) -> dict[str, float]:
    """(A,) -> by name, within their ranges; what is not known is left out."""
    named = zip(ATTRIBUTE_NAMES, row.tolist(), strict=True)
    return {name: float(np.clip(v, FIELDS[name].low, FIELDS[name].high)) for name, v in named if np.isfinite(v)}


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, make_pairs, argv, __doc__)


if __name__ == "__main__":
    main()
