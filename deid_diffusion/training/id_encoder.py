"""Distils the guide: a small differentiable recogniser that agrees with a teacher's embeddings.

deid train id_encoder --data faces/ --out weights/face256/id_encoder --minutes 60
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import ResNetConfig, ResNetForImageClassification

from deid_diffusion.pipelines.recognise import embed
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
# Half-finished samples are soft and noisy; the guide must read them as well as photos.
JITTER = Jitter(size=176, zoom=0.08, turn_deg=8, shift=5, colour=0.2, degrade=0.5)


@dataclass(frozen=True)
class Options:
    """What `deid train id_encoder` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz (with the teacher's embeddings)")
    out: str = option("runs/id_encoder", "folder for the guide, the checkpoint and the metrics")
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


def train(options: Options) -> dict[str, float]:
    """Trains, checkpoints, saves the averaged guide in half precision; returns the metrics it wrote."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    accelerator = Accelerator()
    faces = load_faces(Path(options.data), device=str(accelerator.device), limit=options.limit or None)
    guide = build_guide(tuple(int(w) for w in options.widths.split(",")), faces.embedding.shape[1])
    optimiser = torch.optim.AdamW(guide.parameters(), lr=options.lr, weight_decay=0.05)
    out, generator = Path(options.out), torch.Generator()
    saved = load_checkpoint(out / "id_encoder.ckpt", options.resume)
    done = saved["done"] if saved else {"step": 0, "samples": 0}
    if saved:
        guide.load_state_dict(saved["guide"])
        optimiser.load_state_dict(saved["optimiser"])
    guide, optimiser = accelerator.prepare(guide, optimiser)
    plain = accelerator.unwrap_model(guide)
    average = Average(plain, options.ema)
    # Processes draw different crops, and a resumed run new ones.
    generator.manual_seed(options.seed + done["step"] + 1_000_003 * accelerator.process_index)
    clock, due, step = Clock(options.minutes), every(options.save_every), 0
    while clock.progress() < 1 and (not options.steps or step < options.steps):
        progress = max(clock.progress(), step / options.steps if options.steps else 0)
        for group in optimiser.param_groups:
            group["lr"] = options.lr * min(1, (step + 1) / 50) * (1 - progress)
        batch = cut(faces, faces.draw(options.batch, generator), JITTER, generator)
        with accelerator.autocast():
            loss = loss_on(guide, batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(guide.parameters(), 2.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(plain)
        step, done = step + 1, {"step": done["step"] + 1, "samples": done["samples"] + options.batch}
        if step % 50 == 0:
            log.info(
                "step %d  loss %.4f  %.1f crops/s", done["step"], loss, step * options.batch / 60 / clock.elapsed()
            )
        if next(due) and accelerator.is_main_process:
            state = {"guide": plain.state_dict(), "optimiser": optimiser.state_dict(), "done": done}
            save_atomically(state, out / "id_encoder.ckpt")
    if not accelerator.is_main_process:
        return done
    save_atomically(
        {"guide": plain.state_dict(), "optimiser": optimiser.state_dict(), "done": done}, out / "id_encoder.ckpt"
    )
    average.copy_to(plain)
    metrics = done | measure(plain, faces, options.seed) | {"options": asdict(options)}
    plain.half().save_pretrained(out / "id_encoder", max_shard_size="15MB")
    write_json(metrics, out / "training.json")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(train(parse_options(Options, argv, __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
