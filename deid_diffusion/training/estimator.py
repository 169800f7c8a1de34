"""Trains the reader: 478 landmarks, age, presented gender, expression, glasses and facial hair from one small crop.

    deid train estimator --data faces/ --labels labels.npz --out weights/reader --minutes 60

Distilled from the labels beside the crops, and from those of `deid train label`. It also fits the face-shape model
(average face, expression, person) that makes landmarks identity-free, and saves it beside the network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from deid_diffusion.faces.estimator import OUTPUTS, SIDE, shrink, split_outputs
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.data import Batch, FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.label import HandLabels, score
from deid_diffusion.training.run import RunOptions, begin, fit, option, parse_options, recipe, write_json

log = logging.getLogger(__name__)
AGE, MALE, GLASSES, HAIR = (ATTRIBUTE_NAMES.index(name) for name in ("age", "male", "glasses", "facial_hair"))
# Wider than the detector's five points err, after turning the crop upright by them.
JITTER = Jitter(size=SIDE, zoom=0.25, turn_deg=25, shift=9, colour=0.2, degrade=0.4)
# The second look at a face is at a crop that the first look aligned; attributes are read from that one.
ALIGNED = Jitter(size=SIDE, zoom=0.08, turn_deg=8, shift=4, colour=0.2, degrade=0.4)


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train estimator` takes."""

    out: str = option("runs/reader", "folder for the reader, the checkpoint and the metrics")
    widths: str = option("32,64,128,256", "channels of the four stages")
    hand: str = option("", "CSV of `deid train label`, whose hold-out is then left out here, too, and measured")


def build_reader(widths: tuple[int, ...]) -> ResNetForImageClassification:
    """A stock residual network with one linear head for everything that is read."""
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=[2, 2, 2, 2], layer_type="basic",
        num_labels=OUTPUTS,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def loss_on(reader, batch: Batch) -> torch.Tensor:
    """Robust landmark error plus what the face looks like against the teachers' labels, where there are any."""
    return loss_of(reader(batch.image).logits, batch)


def loss_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B, OUTPUTS) and the labels of crops of SIDE -> the loss of `loss_on`."""
    read = split_outputs(logits)
    target = batch.landmarks / SIDE
    # Eyes and mouth are dense in FaceMesh and matter most; the linear tail keeps hard poses from ruling.
    landmarks = F.smooth_l1_loss(read.landmarks, target, beta=0.01, reduction="none").mean((1, 2)) * 20
    age = F.smooth_l1_loss(read.age / 20, batch.attributes[:, AGE] / 20, reduction="none")
    male = F.binary_cross_entropy_with_logits(read.male, batch.attributes[:, MALE], reduction="none")
    expression = -(batch.expression * F.log_softmax(read.expression, -1)).sum(-1)
    worn = masked_cross_entropy(read.glasses, batch.attributes[:, GLASSES])
    worn = worn + masked_cross_entropy(read.facial_hair, batch.attributes[:, HAIR])
    # Landmarks come 1,434 at a time and would drown the rest at equal weight.
    return (2 * landmarks + age + male + 0.7 * expression + worn).mean()


def masked_cross_entropy(logit: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """(B,), (B,) in 0..1 or NaN -> (B,), 0 where nobody labelled."""
    known = torch.isfinite(probability)
    loss = F.binary_cross_entropy_with_logits(logit, probability.nan_to_num(), reduction="none")
    return torch.where(known, loss, 0.0)


@torch.no_grad()
def measure(reader, faces: FaceSet, seed: int, batches: int = 10) -> dict[str, float]:
    """Hold-out errors at the second look: landmarks in % of the eye distance, age in years, agreement."""
    reader.eval()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(batches):
        batch = cut(faces, faces.draw(32, generator, train=False), ALIGNED, generator)
        read = split_outputs(reader(batch.image).logits)
        got, want = read.landmarks[..., :2] * batch.image.shape[-1], batch.landmarks[..., :2]
        eyes = torch.linalg.vector_norm(want[:, 468] - want[:, 473], dim=-1)
        error = torch.linalg.vector_norm(got - want, dim=-1).mean(1) / eyes * 100
        rows.append(torch.stack([
            error, (read.age - batch.attributes[:, AGE]).abs(),
            ((read.male > 0) == (batch.attributes[:, MALE] > 0.5)).float(),
            (read.expression.argmax(-1) == batch.expression.argmax(-1)).float(),
        ], -1))  # fmt: skip
    values = torch.cat(rows).mean(0).tolist()
    names = "landmark_error_percent", "age_error_years", "gender_agreement", "expression_agreement"
    return dict(zip(names, (round(v, 4) for v in values), strict=True)) | {"n": 32 * batches}


@torch.no_grad()
def measure_by_hand(reader, faces: FaceSet, hand: HandLabels) -> dict[str, dict[str, float]]:
    """How well glasses and facial hair are read on the crops that a person labelled as hold-out."""
    reader.eval()
    rows = hand.rows_of(faces.keys)
    kept = hand.holdout & (rows >= 0)
    parts = []
    for numbers in torch.from_numpy(rows[kept]).split(64):
        crops = faces.images[numbers].float() / 127.5 - 1
        parts.append(reader(shrink(crops)).logits.cpu())
    read = split_outputs(torch.cat(parts))
    said = {"glasses": read.glasses.sigmoid().numpy(), "facial_hair": read.facial_hair.sigmoid().numpy()}
    return {name: score(said[name], hand.values[name][kept]) for name in said}


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged reader in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(
        Path(options.data), device=str(accelerator.device), limit=options.limit or None, labels=options.labels
    )
    hand = HandLabels.load(options.hand) if options.hand else None
    if hand:
        hand.leave_out(faces)
    if options.start:
        reader = widened(ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32)).train()
    else:
        reader = build_reader(tuple(int(w) for w in options.widths.split(",")))
        start_at_mean_face(reader, faces)

    def loss_at(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        jitter = ALIGNED if step % 3 else JITTER
        return loss_on(model, cut(faces, faces.draw(options.batch, generator), jitter, generator))

    done = fit(reader, loss_at, options, accelerator)
    metrics = done | measure(reader, faces, options.seed) | {"options": recipe(options)}
    if hand:
        metrics |= measure_by_hand(reader, faces, hand)
    if accelerator.is_main_process:
        reader.half().save_pretrained(out / "network", max_shard_size="15MB")
        faces.shape.save(out / "face_shape.safetensors")
        write_json(metrics, out / "training.json")
    return metrics


@torch.no_grad()
def widened(reader: ResNetForImageClassification) -> ResNetForImageClassification:
    """The same reader with a head for all of OUTPUTS: what it did not read yet starts as a coin toss."""
    old = reader.classifier[-1]
    if old.out_features < OUTPUTS:
        head = torch.nn.Linear(old.in_features, OUTPUTS)
        for new, known in ((head.weight, old.weight), (head.bias, old.bias)):
            new.zero_()
            new[: old.out_features] = known
        reader.classifier[-1] = head
        reader.config.num_labels = reader.num_labels = OUTPUTS
    return reader


@torch.no_grad()
def start_at_mean_face(reader: ResNetForImageClassification, faces: FaceSet) -> None:
    """Sets the head's bias to the average answer, so that the first steps do not have to find it."""
    head = reader.classifier[-1]
    head.weight.mul_(0.1)
    head.bias.zero_()
    mean = split_outputs(head.bias[None])
    mean.landmarks.copy_(faces.landmarks[faces.train].mean(0, keepdim=True) / 256)


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(train(parse_options(Options, argv, __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
