"""Teaches a trained reader something new: fits its last stage and head on a trunk that stays as it is.

    deid train estimator_head --data faces/ --labels labels.npz --hand hand_labels.csv \\
        --start weights/reader/network --out runs/reader --minutes 10

The trunk looks once at a pool of augmented crops and the rest learns from what it saw, with every loss of the reader:
minutes on one core, and what the reader knew stays.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetForImageClassification

from deid_diffusion.training.data import Batch, FaceSet, cut, load_faces
from deid_diffusion.training.estimator import ALIGNED, JITTER, Options, loss_of, measure, measure_by_hand, widened
from deid_diffusion.training.label import HandLabels
from deid_diffusion.training.run import begin, fit, option, parse_options, recipe, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadOptions(Options):
    """What `deid train estimator_head` takes."""

    pool: int = option(4000, "augmented crops that the trunk looks at")
    lr: float = option(5e-4, "peak learning rate")


class Top(torch.nn.Module):
    """What goes on learning: the last stage and the head."""

    def __init__(self, reader: ResNetForImageClassification):
        super().__init__()
        self.stage, self.pooler, self.head = reader.resnet.encoder.stages[-1], reader.resnet.pooler, reader.classifier

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) maps of the trunk -> (B, OUTPUTS)."""
        return self.head(self.pooler(self.stage(maps)))


def look(reader: ResNetForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """(B, 3, SIDE, SIDE) in [-1, 1] -> (B, C, h, w): what the trunk, all but the last stage, makes of them."""
    maps = reader.resnet.embedder(images)
    for stage in reader.resnet.encoder.stages[:-1]:
        maps = stage(maps)
    return maps


@torch.no_grad()
def fill_pool(reader: ResNetForImageClassification, faces: FaceSet, options: HeadOptions) -> Batch:
    """One batch of `pool` augmented crops, whose images are the trunk's maps."""
    generator = torch.Generator().manual_seed(options.seed)
    parts = []
    for start in range(0, options.pool, options.batch):
        jitter = ALIGNED if start // options.batch % 3 else JITTER
        batch = cut(faces, faces.draw(min(options.batch, options.pool - start), generator), jitter, generator)
        parts.append(replace(batch, image=look(reader, batch.image)))
        if start % (20 * options.batch) == 0:
            log.info("the trunk saw %d of %d crops", start, options.pool)
    return Batch(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def train(options: HeadOptions) -> dict[str, Any]:
    """Fits, saves the reader in half precision; returns the metrics it wrote, those from before with them."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(
        Path(options.data), device=str(accelerator.device), limit=options.limit or None, labels=options.labels
    )
    hand = HandLabels.load(options.hand) if options.hand else None
    if hand:
        hand.leave_out(faces)
    # Statistics of the batch norms stay, or the few crops here would move them away from the trunk's.
    reader = widened(ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32)).eval()
    reader.to(accelerator.device)
    before = measure(reader, faces, options.seed)
    pool = fill_pool(reader, faces, options)

    def loss_on_pool(top: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        numbers = torch.randint(len(pool.image), (options.batch,), generator=generator)
        batch = Batch(*(values[numbers.to(values.device)] for values in vars(pool).values()))
        return loss_of(top(batch.image), batch)

    done = fit(Top(reader), loss_on_pool, options, accelerator)
    metrics = done | measure(reader, faces, options.seed) | {"before": before, "options": recipe(options)}
    if hand:
        metrics |= measure_by_hand(reader, faces, hand)
    if accelerator.is_main_process:
        reader.half().save_pretrained(out / "network", max_shard_size="15MB")
        # Identity banks are written in the terms of the face shape, so it stays the one that the reader came with.
        shutil.copy(Path(options.start).parent / "face_shape.safetensors", out)
        write_json(metrics, out / "training.json")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(train(parse_options(HeadOptions, argv, __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
