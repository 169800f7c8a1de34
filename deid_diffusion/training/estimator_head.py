"""Fits the last stage and the head of a finished face estimator to new labels.

    deid train estimator_head --data faces/ --labels labels.npz --hand hand_labels.csv \\
        --start weights/face_estimator/network --out runs/estimator --minutes 10

The trunk runs once on a pool of augmented crops and the rest is trained on its feature maps, with every loss of the
estimator: minutes on one core, and what was known before stays.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetForImageClassification

from deid_diffusion.training.data import Batch, FaceSet, augmented_batch
from deid_diffusion.training.estimator import (
    ALIGNED,
    JITTER,
    Options,
    estimator_loss,
    evaluate_estimator,
    evaluate_on_hand_labels,
    load_labelled_faces,
    widened,
)
from deid_diffusion.training.run import begin, option, recipe, run_command, run_training, save_trained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadOptions(Options):
    """What `deid train estimator_head` takes."""

    pool: int = option(4000, "augmented crops that the trunk runs on")
    lr: float = option(5e-4, "peak learning rate")


class Top(torch.nn.Module):
    """What is trained: the last stage and the head."""

    def __init__(self, network: ResNetForImageClassification) -> None:
        super().__init__()
        self.stage = network.resnet.encoder.stages[-1]
        self.pooler, self.head = network.resnet.pooler, network.classifier

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) maps of the trunk -> (B, OUTPUTS)."""
        return self.head(self.pooler(self.stage(maps)))


def trunk_features(network: ResNetForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """(B, 3, SIDE, SIDE) in [-1, 1] -> (B, C, h, w): feature maps of the trunk, all but the last stage."""
    maps = network.resnet.embedder(images)
    for stage in network.resnet.encoder.stages[:-1]:
        maps = stage(maps)
    return maps


@torch.no_grad()
def fill_pool(network: ResNetForImageClassification, faces: FaceSet, options: HeadOptions) -> Batch:
    """One batch of `pool` augmented crops, whose images are the trunk's maps.

    Args:
        network: the estimator, whose trunk is run.
        faces: to draw from.
        options: size of the pool and of its batches, seed.
    """
    generator = torch.Generator().manual_seed(options.seed)
    parts = []
    for start in range(0, options.pool, options.batch):
        jitter = ALIGNED if start // options.batch % 3 else JITTER
        numbers = faces.draw(min(options.batch, options.pool - start), generator)
        batch = augmented_batch(faces, numbers, jitter, generator)
        parts.append(replace(batch, image=trunk_features(network, batch.image)))
        if start % (20 * options.batch) == 0:
            log.info("trunk: %d of %d crops", start, options.pool)
    return Batch(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def train(options: HeadOptions) -> dict[str, Any]:
    """Trains, saves the estimator in half precision; returns the metrics it wrote, those from before with them."""
    accelerator, out = begin(options), Path(options.out)
    faces, hand = load_labelled_faces(options, accelerator.device)
    # Statistics of the batch norms stay, or the few crops here would move them away from the trunk's.
    network = widened(ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32)).eval()
    network.to(accelerator.device)
    before = evaluate_estimator(network, faces, options.seed)
    pool = fill_pool(network, faces, options)

    def loss_of(top: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        numbers = torch.randint(len(pool.image), (options.batch,), generator=generator)
        batch = Batch(*(values[numbers.to(values.device)] for values in vars(pool).values()))
        return estimator_loss(top(batch.image), batch)

    done = run_training(Top(network), loss_of, options, accelerator)
    metrics = done | evaluate_estimator(network, faces, options.seed) | {"before": before, "options": recipe(options)}
    if hand:
        metrics |= evaluate_on_hand_labels(network, faces, hand)
    if accelerator.is_main_process:
        save_trained(network, out / "network", metrics)
        # Identity banks are written in the terms of the face shape, so it stays the one that the estimator came with.
        shutil.copy(Path(options.start).parent / "face_shape.safetensors", out)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(HeadOptions, train, argv, __doc__)


if __name__ == "__main__":
    main()
