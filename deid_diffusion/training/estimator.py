"""Trains the face estimator: landmarks and attributes from one small crop.

    deid train estimator --data faces/ --labels labels.npz --out runs/estimator --minutes 60

478 landmarks, age, presented gender, expression, glasses and facial hair, from the labels beside the crops and from
`deid train label`. It also fits the face-shape model (average face, expression, identity) that makes landmarks
identity-free, and saves it beside the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ResNetForImageClassification

from deid_diffusion.faces.estimator import OUTPUTS, SIDE, shrink, split_outputs
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.data import Batch, FaceSet, Jitter, augmented_batch, load_faces
from deid_diffusion.training.hand_labels import HandLabels, score
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

AGE, MALE, GLASSES, FACIAL_HAIR = (ATTRIBUTE_NAMES.index(name) for name in ("age", "male", "glasses", "facial_hair"))
# Wider than the detector's five points err, after turning the crop upright by them.
JITTER = Jitter(size=SIDE, zoom=0.25, turn_deg=25, shift=9, colour=0.2, degrade=0.4)
# The second pass gets the crop that the first pass aligned; attributes are estimated from that one.
ALIGNED = Jitter(size=SIDE, zoom=0.08, turn_deg=8, shift=4, colour=0.2, degrade=0.4)


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train estimator` takes."""

    out: str = option("runs/estimator", "folder for the estimator, the checkpoint and the metrics")
    widths: str = option("32,64,128,256", "channels of the four stages")
    hand: str = option("", "CSV of `deid train label`, whose hold-out is then left out here, too, and measured")


def estimator_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Robust landmark error plus that of the attributes against the labels, where there are any.

    Args:
        logits: (B, OUTPUTS), the network's outputs.
        batch: labels of crops of SIDE px.

    Returns:
        a scalar.
    """
    predicted = split_outputs(logits)
    target = batch.landmarks / SIDE
    # Eyes and mouth are dense in FaceMesh and matter most; the linear tail keeps hard poses from ruling.
    landmarks = F.smooth_l1_loss(predicted.landmarks, target, beta=0.01, reduction="none").mean((1, 2)) * 20
    age = F.smooth_l1_loss(predicted.age / 20, batch.attributes[:, AGE] / 20, reduction="none")
    male = F.binary_cross_entropy_with_logits(predicted.male, batch.attributes[:, MALE], reduction="none")
    expression = -(batch.expression * F.log_softmax(predicted.expression, -1)).sum(-1)
    worn = masked_cross_entropy(predicted.glasses, batch.attributes[:, GLASSES])
    worn = worn + masked_cross_entropy(predicted.facial_hair, batch.attributes[:, FACIAL_HAIR])
    # Landmarks come 1,434 at a time and would drown the rest at equal weight.
    return (2 * landmarks + age + male + 0.7 * expression + worn).mean()


def masked_cross_entropy(logit: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """(B,), (B,) in 0..1 or NaN -> (B,), 0 where nobody labelled."""
    known = torch.isfinite(probability)
    loss = F.binary_cross_entropy_with_logits(logit, probability.nan_to_num(), reduction="none")
    return torch.where(known, loss, 0.0)


@torch.no_grad()
def evaluate_estimator(network: torch.nn.Module, faces: FaceSet, seed: int, batches: int = 10) -> dict[str, float]:
    """Hold-out errors of the second pass: landmarks in % of the eye distance, age in years, agreement.

    Args:
        network: the face estimator; set to evaluation.
        faces: crops with labels.
        seed: of the crops and their augmentation.
        batches: of 32 crops.
    """
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(batches):
        batch = augmented_batch(faces, faces.draw(32, generator, train=False), ALIGNED, generator)
        predicted = split_outputs(network(batch.image).logits)
        got, want = predicted.landmarks[..., :2] * batch.image.shape[-1], batch.landmarks[..., :2]
        eyes = torch.linalg.vector_norm(want[:, 468] - want[:, 473], dim=-1)
        error = torch.linalg.vector_norm(got - want, dim=-1).mean(1) / eyes * 100
        rows.append(torch.stack([
            error, (predicted.age - batch.attributes[:, AGE]).abs(),
            ((predicted.male > 0) == (batch.attributes[:, MALE] > 0.5)).float(),
            (predicted.expression.argmax(-1) == batch.expression.argmax(-1)).float(),
        ], -1))  # fmt: skip
    values = torch.cat(rows).mean(0).tolist()
    names = "landmark_error_percent", "age_error_years", "gender_agreement", "expression_agreement"
    return dict(zip(names, (round(v, 4) for v in values), strict=True)) | {"n": 32 * batches}


@torch.no_grad()
def evaluate_on_hand_labels(network: torch.nn.Module, faces: FaceSet, hand: HandLabels) -> dict[str, dict[str, float]]:
    """How well glasses and facial hair are estimated on the crops that a person labelled as hold-out.

    Args:
        network: the face estimator; set to evaluation.
        faces: crops with labels.
        hand: labels by hand, with their split.

    Returns:
        scores by attribute, see `hand_labels.score`.
    """
    network.eval()
    rows = hand.rows_of(faces.keys)
    kept = hand.holdout & (rows >= 0)
    parts = []
    for numbers in torch.from_numpy(rows[kept]).split(64):
        crops = faces.images[numbers].float() / 127.5 - 1
        parts.append(network(shrink(crops)).logits.cpu())
    predicted = split_outputs(torch.cat(parts))
    logits = {"glasses": predicted.glasses, "facial_hair": predicted.facial_hair}
    return {name: score(row.sigmoid().numpy(), hand.values[name][kept]) for name, row in logits.items()}


def load_labelled_faces(options: Options, device: torch.device) -> tuple[FaceSet, HandLabels | None]:
    """The crops, and the hand labels if the options name some, whose hold-out is then never drawn.

    Args:
        options: data, labels and limit.
        device: where to hold the crops.
    """
    faces = load_faces(options.data, device=device, limit=options.limit, labels=options.labels)
    hand = HandLabels.load(options.hand) if options.hand else None
    if hand:
        hand.leave_out(faces)
    return faces, hand


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged network in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces, hand = load_labelled_faces(options, accelerator.device)
    if options.start:
        network = widened(ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32)).train()
    else:
        network = build_resnet(integers(options.widths), OUTPUTS)
        start_at_mean_face(network, faces)

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        jitter = ALIGNED if step % 3 else JITTER
        batch = augmented_batch(faces, faces.draw(options.batch, generator), jitter, generator)
        return estimator_loss(model(batch.image).logits, batch)

    done = run_training(network, loss_of, options, accelerator)
    metrics = done | evaluate_estimator(network, faces, options.seed) | {"options": recipe(options)}
    if hand:
        metrics |= evaluate_on_hand_labels(network, faces, hand)
    if accelerator.is_main_process:
        save_trained(network, out / "network", metrics)
        faces.shape.save(out / "face_shape.safetensors")
    return metrics


@torch.no_grad()
def widened(network: ResNetForImageClassification) -> ResNetForImageClassification:
    """The same network with a head for all of OUTPUTS; the new ones start at 0, a probability of a half."""
    old = network.classifier[-1]
    if old.out_features < OUTPUTS:
        head = torch.nn.Linear(old.in_features, OUTPUTS)
        for new, known in ((head.weight, old.weight), (head.bias, old.bias)):
            new.zero_()
            new[: old.out_features] = known
        network.classifier[-1] = head
        network.config.num_labels = network.num_labels = OUTPUTS
    return network


@torch.no_grad()
def start_at_mean_face(network: ResNetForImageClassification, faces: FaceSet) -> None:
    """Sets the bias of the head's landmarks to the mean face, so that the first steps do not have to find it.

    Args:
        network: a new one; changed.
        faces: whose training split is averaged.
    """
    head = network.classifier[-1]
    head.weight.mul_(0.1)
    head.bias.zero_()
    mean = split_outputs(head.bias[None])
    mean.landmarks.copy_(faces.landmarks[faces.train].mean(0, keepdim=True) / 256)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
