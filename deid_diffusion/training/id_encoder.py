"""Distils the guide: a small differentiable recogniser that agrees with a teacher's embeddings.

deid train id_encoder --data faces/ --out weights/face256/id_encoder --minutes 60
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training.data import Batch, FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.run import RunOptions, begin, fit, option, parse_options, recipe, write_json

log = logging.getLogger(__name__)
# Half-finished samples are soft and noisy; the guide must read them as well as photos.
JITTER = Jitter(size=176, zoom=0.08, turn_deg=8, shift=5, colour=0.2, degrade=0.5)


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train id_encoder` takes."""

    out: str = option("runs/id_encoder", "folder for the guide, the checkpoint and the metrics")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    widths: str = option("32,64,128,256", "channels of the four stages")


def build_guide(widths: tuple[int, ...], dim: int) -> ResNetForImageClassification:
    """A stock residual network whose logits are the embedding."""
    return ResNetForImageClassification(ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=[2, 2, 2, 2], layer_type="basic", num_labels=dim,
    ))  # fmt: skip


def loss_on(guide, batch: Batch) -> torch.Tensor:
    """Distance to the teacher's embedding, and of the batch's similarities to the teacher's similarities."""
    embedding = embed(guide, batch.image)
    direct = 1 - (embedding * batch.embedding).sum(-1).mean()
    # Who resembles whom matters more than where they lie (Park et al. 2019, relational distillation).
    relation = F.mse_loss(embedding @ embedding.T, batch.embedding @ batch.embedding.T)
    return direct + 4 * relation


@torch.no_grad()
def measure(guide, faces: FaceSet, seed: int, batches: int = 8) -> dict[str, float]:
    """On the hold-out: cosine to the teacher, and correlation of pair similarities with the teacher's."""
    guide.eval()
    generator = torch.Generator().manual_seed(seed)
    got, want = [], []
    for _ in range(batches):
        batch = cut(faces, faces.draw(32, generator, train=False), JITTER, generator)
        got.append(embed(guide, batch.image))
        want.append(batch.embedding)
    got, want = torch.cat(got), torch.cat(want)
    upper = torch.triu_indices(len(got), len(got), 1)
    pairs = torch.stack([(got @ got.T)[tuple(upper)], (want @ want.T)[tuple(upper)]])
    return {
        "cosine_to_teacher": round(float((got * want).sum(-1).mean()), 4),
        "pair_correlation": round(float(torch.corrcoef(pairs)[0, 1]), 4),
        "n": len(got),
    }


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged guide in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(Path(options.data), device=str(accelerator.device), limit=options.limit or None)
    if options.start:
        guide = ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32).train()
    else:
        guide = build_guide(tuple(int(w) for w in options.widths.split(",")), faces.embedding.shape[1])

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        return loss_on(model, cut(faces, faces.draw(options.batch, generator), JITTER, generator))

    done = fit(guide, loss_of, options, accelerator)
    metrics = done | measure(guide, faces, options.seed) | {"options": recipe(options)}
    if accelerator.is_main_process:
        guide.half().save_pretrained(out / "id_encoder", max_shard_size="15MB")
        write_json(metrics, out / "training.json")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(train(parse_options(Options, argv, __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
