"""Trains the reader: 478 landmarks, age, presented gender and expression from one small crop.

    deid train reader --data faces/ --out weights/reader --minutes 60

Distilled from the labels beside the crops. It also fits the face-shape model (average face, expression, person) that
makes landmarks identity-free, and saves it beside the network.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import ResNetConfig, ResNetForImageClassification

from deid_diffusion.attributes import OUTPUTS, SIDE, split_outputs
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.data import Batch, FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.run import (
    Average,
    Clock,
    every,
    load_checkpoint,
    option,
    parse_options,
    save_atomically,
    write_json,
)

log = logging.getLogger(__name__)
AGE, MALE = ATTRIBUTE_NAMES.index("age"), ATTRIBUTE_NAMES.index("male")
# Wider than the detector's five points err, after turning the crop upright by them.
JITTER = Jitter(size=SIDE, zoom=0.25, turn_deg=25, shift=9, colour=0.2, degrade=0.4)
# The second look at a face is at a crop that the first look aligned; attributes are read from that one.
ALIGNED = Jitter(size=SIDE, zoom=0.08, turn_deg=8, shift=4, colour=0.2, degrade=0.4)


@dataclass(frozen=True)
class Options:
    """What `deid train reader` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    out: str = option("runs/reader", "folder for the reader, the checkpoint and the metrics")
    minutes: float = option(60.0, "how long this call trains; the learning rate falls to 0 over it")
    steps: int = option(0, "stop after this many steps, 0 for no limit")
    resume: bool = option(False, "go on from the checkpoint in --out")
    batch: int = option(32, "crops a step")
    lr: float = option(1.5e-3, "peak learning rate of AdamW")
    widths: str = option("32,64,128,256", "channels of the four stages")
    ema: float = option(0.998, "decay of the averaged weights, which are what is saved")
    threads: int = option(0, "CPU threads, 0 for torch's choice")
    limit: int = option(0, "use only this many crops, 0 for all")
    seed: int = option(0, "seed of weights and draws")
    save_every: float = option(120.0, "seconds between checkpoints")


def build_reader(widths: tuple[int, ...]) -> ResNetForImageClassification:
    """A stock residual network with one linear head for everything that is read."""
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=[2, 2, 2, 2], layer_type="basic",
        num_labels=OUTPUTS,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def loss_on(reader, batch: Batch) -> torch.Tensor:
    """Robust landmark error plus age, gender and expression against the teachers' labels."""
    read = split_outputs(reader(batch.image).logits)
    size = batch.image.shape[-1]
    target = batch.landmarks / size
    # Eyes and mouth are dense in FaceMesh and matter most; the linear tail keeps hard poses from ruling.
    landmarks = F.smooth_l1_loss(read.landmarks, target, beta=0.01, reduction="none").mean((1, 2)) * 20
    age = F.smooth_l1_loss(read.age / 20, batch.attributes[:, AGE] / 20, reduction="none")
    male = F.binary_cross_entropy_with_logits(read.male, batch.attributes[:, MALE], reduction="none")
    expression = -(batch.expression * F.log_softmax(read.expression, -1)).sum(-1)
    # Landmarks come 1,434 at a time and would drown the rest at equal weight.
    return (2 * landmarks + age + male + 0.7 * expression).mean()


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


def train(options: Options) -> dict[str, float]:
    """Trains, checkpoints, saves the averaged reader in half precision; returns the metrics it wrote."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    accelerator = Accelerator()
    faces = load_faces(Path(options.data), device=str(accelerator.device), limit=options.limit or None)
    reader = build_reader(tuple(int(w) for w in options.widths.split(",")))
    start_at_mean_face(reader, faces)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=options.lr, weight_decay=0.02)
    out, generator = Path(options.out), torch.Generator()
    saved = load_checkpoint(out / "reader.ckpt", options.resume)
    done = saved["done"] if saved else {"step": 0, "samples": 0}
    if saved:
        reader.load_state_dict(saved["reader"])
        optimiser.load_state_dict(saved["optimiser"])
    reader, optimiser = accelerator.prepare(reader, optimiser)
    plain = accelerator.unwrap_model(reader)
    average = Average(plain, options.ema)
    # Processes draw different crops, and a resumed run new ones.
    generator.manual_seed(options.seed + done["step"] + 1_000_003 * accelerator.process_index)
    clock, due, step = Clock(options.minutes), every(options.save_every), 0
    while clock.progress() < 1 and (not options.steps or step < options.steps):
        progress = max(clock.progress(), step / options.steps if options.steps else 0)
        for group in optimiser.param_groups:
            group["lr"] = options.lr * min(1, (step + 1) / 50) * (1 - progress)
        jitter = ALIGNED if step % 3 else JITTER
        batch = cut(faces, faces.draw(options.batch, generator), jitter, generator)
        with accelerator.autocast():
            loss = loss_on(reader, batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(reader.parameters(), 2.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(plain)
        step, done = step + 1, {"step": done["step"] + 1, "samples": done["samples"] + options.batch}
        if step % 50 == 0:
            log.info(
                "step %d  loss %.4f  %.1f crops/s", done["step"], loss, step * options.batch / 60 / clock.elapsed()
            )
        if next(due) and accelerator.is_main_process:
            state = {"reader": plain.state_dict(), "optimiser": optimiser.state_dict(), "done": done}
            save_atomically(state, out / "reader.ckpt")
    if not accelerator.is_main_process:
        return done
    save_atomically(
        {"reader": plain.state_dict(), "optimiser": optimiser.state_dict(), "done": done}, out / "reader.ckpt"
    )
    average.copy_to(plain)
    metrics = done | measure(plain, faces, options.seed) | {"options": asdict(options)}
    plain.half().save_pretrained(out / "network", max_shard_size="15MB")
    faces.shape.save(out / "face_shape.safetensors")
    write_json(metrics, out / "training.json")
    return metrics


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
