"""Trains what reads how far eyes and mouth are open, for clips.

    deid train apertures --data faces/ --out runs/apertures --minutes 10

Close-ups of crops with landmarks. Portraits keep their eyes open and do not speak, so lids and lips are moved
(`faces.lids`, `training.lips`) to whatever is wanted, and what they were moved to is the label.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ResNetForImageClassification

from deid_diffusion.faces.apertures import FOLDER, OUTPUTS, SIDE, close_ups
from deid_diffusion.faces.face_shape import FaceShape
from deid_diffusion.faces.geometry import EYES
from deid_diffusion.faces.lids import SHUT, move_lids
from deid_diffusion.training.data import FaceSet, load_faces
from deid_diffusion.training.lips import part_lips
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

log = logging.getLogger(__name__)
WIDER = 1.3  # than what the network sees: room to shift, turn and zoom in
WIDE = round(SIDE * WIDER)
EYE, MOUTH = 0, 1


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train apertures` takes."""

    out: str = option("runs/apertures", "folder for the network, the checkpoint and the metrics")
    widths: str = option("16,32,64", "channels of the three stages")
    moves: int = option(3, "times that each face's lids and lips are moved")
    batch: int = option(128, "close-ups a step and process")
    minutes: float = option(10.0, "how long this call trains; the learning rate falls over it")


@dataclass(eq=False)
class CloseUps:
    """Close-ups with what they show.

    Attributes:
        image: (N, 3, WIDE, WIDE) uint8.
        opening: (N,) float32 in the units of eyes_open and mouth_open.
        kind: (N,) int64, `EYE` or `MOUTH`.
        train: (N,) bool.
    """

    image: torch.Tensor
    opening: torch.Tensor
    kind: torch.Tensor
    train: torch.Tensor


def openings(shape: FaceShape, landmarks: np.ndarray) -> np.ndarray:
    """(478, 3) crop pixels -> (3,) both eyes, in units of eyes_open, and the mouth, in units of mouth_open."""
    face = shape.locate(landmarks).unplace(landmarks)

    def gap(a: int, b: int) -> float:
        return float(np.linalg.norm(face[a] - face[b]))

    eyes = [gap(upper, lower) / max(gap(a, b), 1e-6) / 0.45 for a, b, upper, lower in EYES]
    return np.array([*eyes, gap(13, 14) / 0.5], np.float32)


def cut_close_ups(faces: FaceSet, moves: int, seed: int) -> CloseUps:
    """All faces' close-ups, with their lids and lips as they are and moved.

    Args:
        faces: crops with landmarks, on the CPU.
        moves: how often each face's lids and lips are moved.
        seed: of how far.
    """
    rng, images, values, kinds, train = np.random.default_rng(seed), [], [], [], []
    for number in range(len(faces.images)):
        crop, points = faces.images[number].permute(1, 2, 0).numpy(), faces.landmarks[number].numpy()
        known, unit = openings(faces.shape, points), 0.5 * faces.shape.locate(points).scale
        crop = np.ascontiguousarray(crop)
        for turn in range(moves + 1):
            # As they are; shut, as they are in one frame of twenty; and everything between.
            opening = 1.0 if turn == 0 else SHUT if turn == 1 else rng.uniform(SHUT, 1.15)
            # Lips from shut to half as wide again as they are ever open when somebody speaks.
            more = 0.0 if turn == 0 else max(rng.uniform(-0.25, 0.9), -float(known[2])) * rng.uniform()
            moved = part_lips(move_lids(crop, points, opening), points, more * unit, rng)
            picture = torch.from_numpy(moved).permute(2, 0, 1)[None].float()
            views = close_ups(picture, torch.from_numpy(points[None]), WIDER, WIDE)[0]
            images.append(views.round().clamp(0, 255).to(torch.uint8))
            # What is left of an eye that is shut is its lashes: to a viewer nothing.
            share = (opening - SHUT) / (1 - SHUT)
            values.extend([*(known[:2] * share), known[2] + more])
            kinds.extend([EYE, EYE, MOUTH])
            train.extend([bool(faces.train[number])] * 3)
    log.info("%d close-ups of %d faces", len(values), len(faces.images))
    return CloseUps(torch.cat(images), torch.tensor(values).float(), torch.tensor(kinds), torch.tensor(train))


def draw(data: CloseUps, count: int, generator: torch.Generator, train: bool = True) -> tuple[torch.Tensor, ...]:
    """A batch as a hand-held camera and a coarse estimator would give it.

    Args:
        data: to draw from.
        count: B, a third of them mouths.
        generator: of all draws.
        train: from the training split; False for the hold-out.

    Returns:
        (B, 3, SIDE, SIDE) in [-1, 1]; (B,) openings; (B,) kinds.
    """

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    numbers = []
    for kind, share in ((EYE, 2 * count // 3), (MOUTH, count - 2 * count // 3)):
        rows = torch.nonzero((data.kind == kind) & (data.train == train))[:, 0]
        numbers.append(rows[torch.randint(len(rows), (share,), generator=generator)])
    chosen = torch.cat(numbers)
    image, opening = data.image[chosen].float() / 127.5 - 1, data.opening[chosen]
    turn, zoom = torch.deg2rad(uniform(-10, 10, count)), uniform(0.85, 1.2, count) / WIDER
    # Taller by so much, all that is open in it is, too: the network is to measure, not to guess from the rest.
    tall = uniform(0.8, 1.25, count)
    cos, sin = torch.cos(turn), torch.sin(turn)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    flip = torch.where(data.kind[chosen] == MOUTH, flip, 1.0)
    theta = torch.stack(
        [
            torch.stack([cos * zoom * flip, -sin * zoom / tall, uniform(-0.13, 0.13, count)], -1),
            torch.stack([sin * zoom * flip, cos * zoom / tall, uniform(-0.13, 0.13, count)], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [count, 3, SIDE, SIDE], align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    gain, shade = uniform(0.6, 1.3, count, 1, 1, 1) * uniform(0.9, 1.1, count, 3, 1, 1), uniform(-0.3, 0.3, count)
    image = image * gain + shade[:, None, None, None]
    return _degraded(image.clamp(-1, 1), generator), opening * tall, data.kind[chosen]


def _degraded(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of them as small or moving faces come out."""
    half = len(image) // 2
    order = torch.randperm(len(image), generator=generator)
    out = image.clone()
    for rows, kernel in ((order[: half // 2], (5, 5)), (order[half // 2 : half], (1, 9))):
        padded = F.pad(image[rows], (kernel[1] // 2,) * 2 + (kernel[0] // 2,) * 2, mode="replicate")
        out[rows] = F.avg_pool2d(padded, kernel, stride=1)
    return out + 0.03 * torch.randn(out.shape, generator=generator)


def loss_on(network: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Robust error of each close-up's own opening.

    Args:
        network: gives (B, OUTPUTS).
        batch: of `draw`.
    """
    image, opening, kind = batch
    found = network(image).logits.gather(1, kind[:, None])[:, 0]
    return F.smooth_l1_loss(found, opening, beta=0.02)


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: CloseUps, seed: int) -> dict[str, float]:
    """Correlation and slope of what is read on what is there, on the hold-out.

    Args:
        network: set to evaluation.
        data: all close-ups.
        seed: of the draw.
    """
    network.eval()
    image, opening, kind = draw(data, 3000, torch.Generator().manual_seed(seed), train=False)
    found = torch.cat([network(part).logits for part in image.split(250)]).gather(1, kind[:, None])[:, 0]
    metrics = {}
    for name, number in (("eyes", EYE), ("mouth", MOUTH)):
        read, there = found[kind == number], opening[kind == number]
        both = torch.cov(torch.stack([there, read]))
        metrics[f"{name}_slope"] = float(both[0, 1] / both[0, 0])
        metrics[f"{name}_correlation"] = float(both[0, 1] / (both[0, 0] * both[1, 1]).sqrt())
        metrics[f"{name}_error"] = float((read - there).abs().mean())
    return {name: round(value, 4) for name, value in metrics.items()}


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged network in half precision; returns the metrics it wrote."""
    accelerator = begin(options)
    data = cut_close_ups(load_faces(options.data, limit=options.limit), options.moves, options.seed)
    if options.start:
        network = ResNetForImageClassification.from_pretrained(options.start, dtype=torch.float32).train()
    else:
        network = build_resnet(integers(options.widths), OUTPUTS)

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        return loss_on(model, draw(data, options.batch, generator))

    done = run_training(network, loss_of, options, accelerator)
    metrics = done | evaluate(network, data, options.seed) | {"options": recipe(options)}
    if accelerator.is_main_process:
        save_trained(network, Path(options.out) / FOLDER, metrics)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """The command-line entry point."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
