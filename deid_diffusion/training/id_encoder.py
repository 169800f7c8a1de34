"""Trains the identity encoder: a small differentiable recogniser, distilled from a teacher's embeddings.

deid train id_encoder --data faces/ --out weights/face256/id_encoder --minutes 60
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ResNetForImageClassification

from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training.data import Batch, FaceSet, Jitter, augmented_batch, load_faces
from deid_diffusion.training.resnet import build_resnet
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

# Half-finished samples are soft and noisy; they must be recognised as well as photos.
JITTER = Jitter(size=176, zoom=0.08, turn_deg=8, shift=5, colour=0.2, degrade=0.5)


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train id_encoder` takes."""

    out: str = option("runs/id_encoder", "folder for the identity encoder, the checkpoint and the metrics")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    widths: str = option("32,64,128,256", "channels of the four stages")


def id_encoder_loss(id_encoder: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Distance to the teacher's embedding, and of the batch's similarities to the teacher's similarities; a scalar.

    Args:
        id_encoder: in training.
        batch: crops with the teacher's embeddings.
    """
    embedding = embed(id_encoder, batch.image)
    direct = 1 - (embedding * batch.embedding).sum(-1).mean()
    # Who resembles whom matters more than where they lie (Park et al. 2019, relational distillation).
    relation = F.mse_loss(embedding @ embedding.T, batch.embedding @ batch.embedding.T)
    return direct + 4 * relation


@torch.no_grad()
def evaluate_id_encoder(id_encoder: torch.nn.Module, faces: FaceSet, seed: int, batches: int = 8) -> dict[str, float]:
    """On the hold-out: cosine to the teacher, and correlation of pair similarities with the teacher's.

    Args:
        id_encoder: set to evaluation.
        faces: crops with the teacher's embeddings.
        seed: of the crops and their augmentation.
        batches: of 32 crops.
    """
    id_encoder.eval()
    generator = torch.Generator().manual_seed(seed)
    rows: list[torch.Tensor] = []
    for _ in range(batches):
        batch = augmented_batch(faces, faces.draw(32, generator, train=False), JITTER, generator)
        rows.append(torch.stack([embed(id_encoder, batch.image), batch.embedding]))
    got, want = torch.cat(rows, 1).unbind()
    upper = torch.triu_indices(len(got), len(got), 1)
    pairs = torch.stack([(got @ got.T)[tuple(upper)], (want @ want.T)[tuple(upper)]])
    return {
        "cosine_to_teacher": round(float((got * want).sum(-1).mean()), 4),
        "pair_correlation": round(float(torch.corrcoef(pairs)[0, 1]), 4),
        "n": len(got),
    }


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged identity encoder in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(options.data, device=accelerator.device, limit=options.limit)
    if options.start:
        id_encoder = ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32).train()
    else:
        id_encoder = build_resnet(integers(options.widths), faces.embedding.shape[1])

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        return id_encoder_loss(model, augmented_batch(faces, faces.draw(options.batch, generator), JITTER, generator))

    done = run_training(id_encoder, loss_of, options, accelerator)
    metrics = done | evaluate_id_encoder(id_encoder, faces, options.seed) | {"options": recipe(options)}
    if accelerator.is_main_process:
        save_trained(id_encoder, out / "id_encoder", metrics)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
