"""Distils the inpainter to few steps, with a critic that asks for texture.

    deid train distill --data faces/ --start runs/inpaint/unet --perceptual features.ts.pt --out runs/distill

At noise levels of a few-step schedule the student paints in one step what the teacher paints in several, and a critic
on frozen features judges what it painted beside photographed faces (Sauer et al. 2023, "Adversarial diffusion
distillation"). Without teacher steps it learns from the crops themselves: the adversarial fine-tune alone. With a
reader and a guide, every other step asks for a face that no crop shows (see `wishes.py`).
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from deid_diffusion.likeness import STAGES
from deid_diffusion.pipelines.precondition import x0_from_output
from deid_diffusion.training.critic import Critic, critic_loss, painter_loss
from deid_diffusion.training.data import Batch, Jitter, cut, load_faces
from deid_diffusion.training.inpaint import Examples, examples, noised, paint, velocity_error
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.rollout import roll, schedule, shifted, tone
from deid_diffusion.training.run import RunOptions, begin, fit, option, parse_options, recipe, write_json
from deid_diffusion.training.wishes import Crowd, Wish, Witnesses, disobedience, make_wish

log = logging.getLogger(__name__)
# Feature maps that the critic sees, from pores to the whole face.
MAPS = (0, 2, 5, 7)
CRITIC = "critic.safetensors"
COOLEST = 0.6  # temperature of the noise that a rollout starts from, at least; pictures are painted at 0.8


@dataclass(frozen=True)
class Options(RunOptions):
    """What `deid train distill` takes; `--start` is the teacher's folder, and the student's first weights."""

    out: str = option("runs/distill", "folder for the unet, the checkpoint and the metrics")
    start: str = option("runs/inpaint/unet", "the teacher: folder of an inpainter's unet")
    perceptual: str = option("features.ts.pt", "TorchScript feature network for the perceptual loss and the critic")
    batch: int = option(4, "crops a step and process")
    lr: float = option(3e-4, "peak learning rate")
    weight_decay: float = option(0.01, "weight decay")
    ema: float = option(0.995, "decay of the averaged weights, which are what is saved")
    window: int = option(256, "train on windows of this many pixels, a multiple of 32; 256 is the whole crop")
    student_steps: int = option(4, "steps that the student is made for")
    teacher_steps: int = option(4, "steps of the teacher from each noise level to a clean face; 0 learns from crops")
    shift: float = option(3.0, "shift of the schedule (Esser et al. 2024, eq. 23)")
    perceptual_weight: float = option(0.03, "weight of the perceptual distance beside the squared error")
    critic_weight: float = option(0.01, "weight of the critic beside the squared error; 0 for none")
    critic: str = option("", "weights of an earlier run's critic to go on from; empty for a new one")
    reader: str = option("", "folder of a trained reader: every other step is a wish; empty for none")
    guide: str = option("", "folder of a trained id_encoder, which goes with --reader")
    teacher: str = option("", "TorchScript recogniser that made the `embedding` labels: a second say on who it is")
    wish_weight: float = option(0.05, "weight of what was wished for and is not there")
    wish_batch: int = option(4, "whole crops a wish")
    rollout_batch: int = option(
        4, "whole crops a step that it samples itself, as far as it is then judged; 0 for none"
    )
    tone_weight: float = option(0.1, "weight of the colours of patches that it sampled itself")
    compile: bool = option(False, "torch.compile the unet")


class Pair(torch.nn.Module):
    """Student and critic, trained side by side: one optimiser, one checkpoint, one set of gradients to average."""

    def __init__(self, student: torch.nn.Module, critic: torch.nn.Module):
        super().__init__()
        self.student, self.critic = student, critic

    def forward(self, loss_of):
        """Calls `loss_of(student, critic)`, so that wrappers for several processes see the whole step."""
        # Processes wait for every gradient, also for those of heads that a step has no use for.
        return loss_of(self.student, self.critic) + 0 * sum(weight.sum() for weight in self.critic.parameters())


def levels(options: Options, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) noise levels in (0, 1]: spread like the student's schedule, pure noise as often as its first step."""
    even = torch.rand(count, generator=generator)
    first = torch.rand(count, generator=generator) < 1 / options.student_steps
    even = torch.where(first, torch.ones(()), even.clamp_min(0.5 / options.student_steps))
    return shifted(even, options.shift)


@torch.no_grad()
def teach(teacher, x_t: torch.Tensor, t: torch.Tensor, told: Examples, steps: int) -> torch.Tensor:
    """(B, 3, W, W) where the teacher's deterministic path from x_t at t ends."""
    for left in range(steps, 0, -1):
        x0 = x0_from_output(paint(teacher, x_t, t, told))
        x0 = torch.lerp(told.x0, x0, told.mask)
        after = t * (left - 1) / left
        ratio = (after / t)[:, None, None, None]
        x_t, t = x0 + (x_t - x0) * ratio, after
    return x_t


def loss_on(student, critic, teacher, batch: Batch, options: Options, network: PerceptualLoss, generator):
    """One step's loss of student and critic together."""
    told = examples(batch, options.window, generator)
    t = levels(options, len(told.x0), generator).to(told.x0)
    x_t = noised(told.x0, t, generator)
    target = teach(teacher, x_t, t, told, options.teacher_steps) if options.teacher_steps else told.x0
    raw = paint(student, x_t, t, told)
    loss = velocity_error(raw, target, t, told.mask)
    if options.rollout_batch:
        return loss  # what it looks like is seen where it paints on its own
    painted = torch.lerp(told.x0, x0_from_output(raw), told.mask)
    with torch.no_grad():
        photographed = network.features(told.x0)
        wanted = network.features(target) if options.teacher_steps else photographed
    found = network.features(painted)
    loss = loss + options.perceptual_weight * network.distance(found, wanted).mean()
    if options.critic_weight:
        loss = loss + judged(critic, chosen(found), chosen(photographed), told.mask, options.critic_weight)
    return loss


def rolled_out(student, told: Examples, options: Options, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, W, W) and (B,): where the student stands after some of its own steps, and the noise level there."""
    levels = schedule(options.student_steps, options.shift)
    # The last step as often as all others together: what it paints is what people see.
    weight = torch.ones(options.student_steps)
    weight[-1] = options.student_steps - 1 or 1
    stop = int(torch.multinomial(weight, 1, generator=generator))
    temperature = float(COOLEST + (1 - COOLEST) * torch.rand((), generator=generator))
    x_t = roll(student, told, levels, stop, temperature, generator)
    return x_t, torch.full((len(x_t),), levels[stop]).to(x_t)


def loss_on_rollout(student, critic, batch: Batch, witnesses: Witnesses | None, options: Options,
                    network: PerceptualLoss, generator):  # fmt: skip
    """One step's loss on faces that the student painted from noise by its own steps."""
    told = examples(batch, batch.image.shape[-1], generator)
    x_t, t = rolled_out(student, told, options, generator)
    painted = torch.lerp(told.x0, x0_from_output(paint(student, x_t, t, told)), told.mask)
    with torch.no_grad():
        photographed = network.features(told.x0)
    found = network.features(painted)
    loss = options.perceptual_weight * network.distance(found, photographed).mean()
    loss = loss + options.tone_weight * tone(painted, told.x0, told.mask).mean()
    if options.critic_weight:
        loss = loss + judged_whole(critic, found, photographed, painted, told, witnesses, options.critic_weight)
    return loss


def loss_on_wish(student, critic, wish: Wish, witnesses: Witnesses, options: Options, network: PerceptualLoss,
                 generator, crowds=None):  # fmt: skip
    """One step's loss where no picture says what the face is: obedience, and the critic's word that it is a face.

    Around the face the picture does say: whoever is in it, hair goes on as it came.
    """
    told = examples(wish.batch, wish.batch.image.shape[-1], generator)
    ring = told.mask * wish.context
    # The noisy crop must hold no trace of the source's face, so that is what the student painted itself.
    if options.rollout_batch:
        x_t, t = rolled_out(student, told, options, generator)
    else:
        ones = torch.ones(len(told.x0)).to(told.x0)
        with torch.no_grad():
            first = x0_from_output(paint(student, noised(told.x0, ones, generator), ones, told))
        t = levels(options, len(told.x0), generator).to(told.x0)
        x_t = noised(torch.lerp(told.x0, first, told.mask - ring), t, generator)
    with torch.no_grad():
        photographed = network.features(told.x0)
    raw = paint(student, x_t, t, told)
    painted = torch.lerp(told.x0, x0_from_output(raw), told.mask)
    loss = sum(disobedience(painted, wish, told.vector, witnesses, generator, crowds).values()) * options.wish_weight
    loss = loss + velocity_error(raw, told.x0, t, ring, elsewhere=0.0)
    hair = network.features(torch.lerp(told.x0, painted, ring))
    loss = loss + options.perceptual_weight * network.distance(hair, photographed).mean()
    if options.critic_weight:
        found = network.features(painted)
        loss = loss + judged_whole(critic, found, photographed, painted, told, witnesses, options.critic_weight)
    return loss


def chosen(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """All feature maps -> those that the critic sees."""
    return [maps[number] for number in MAPS]


def face_states(witnesses: Witnesses, images: torch.Tensor) -> list[torch.Tensor]:
    """(B, 3, S, S) whole crops -> what the reader's middle makes of them: there a brow is a brow, not an edge."""
    states = witnesses.states(images)
    return [states[stage] for stage in STAGES]


def judged(
    critic,
    found: list[torch.Tensor],
    photographed: list[torch.Tensor],
    mask: torch.Tensor,
    weight: float,
    images: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
):
    """What the painter loses by the critic's word, times the weight, and what the critic loses by being wrong.

    Args:
        critic: judges.
        found, photographed: its maps of what was painted and of the crops.
        mask: (B, 1, W, W), where it was painted.
        weight: of the painter's part.
        images: (B, 3, W, W) painted and photographed, for patches of pixels; None for no look at those.
    """
    painted, crops = images
    real = critic(photographed, crops)
    fake = critic([one.detach() for one in found], None if painted is None else painted.detach())
    return weight * painter_loss(critic, found, mask, painted) + critic_loss(real, fake, mask)


def judged_whole(critic, found, photographed, painted, told: Examples, witnesses: Witnesses | None, weight: float):
    """`judged` on whole crops: by all maps of the network, the reader's if there is one, and the pixels."""
    seen, real = chosen(found), chosen(photographed)
    if witnesses is not None:
        seen = seen + face_states(witnesses, painted)
        with torch.no_grad():
            real = real + face_states(witnesses, told.x0)
    return judged(critic, seen, real, told.mask, weight, (painted, told.x0))


def build_critic(network: PerceptualLoss, witnesses: Witnesses | None = None, start: str = "") -> Critic:
    """A critic for the maps of this network, and for the reader's if there is one.

    Args:
        network: gives feature maps of windows.
        witnesses: give feature maps of whole faces.
        start: safetensors of a critic to go on from; heads that it does not hold start anew.
    """
    device = network.mean.device
    maps = network.features(torch.zeros(1, 3, 64, 64, device=device))
    if len(maps) <= max(MAPS):
        raise ValueError(f"the critic needs feature maps {MAPS}; the network gives {len(maps)}")
    seen = chosen(maps)
    if witnesses is not None:
        with torch.no_grad():
            seen += face_states(witnesses, torch.zeros(1, 3, 256, 256, device=device))
    critic = Critic(tuple(one.shape[1] for one in seen)).to(device)
    if start:
        missing, unknown = critic.load_state_dict(load_file(start), strict=False)
        if unknown:
            raise ValueError(f"{start} is of another critic: it holds {', '.join(unknown)}")
        log.info("critic from %s, %d arrays new", start, len(missing))
    return critic


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged student in half precision; returns the metrics it wrote."""
    accelerator, out = begin(options), Path(options.out)
    faces = load_faces(
        Path(options.data), device=str(accelerator.device), limit=options.limit or None, labels=options.labels
    )
    teacher = UNet2DConditionModel.from_pretrained(options.start, dtype=torch.float32).to(accelerator.device)
    network = PerceptualLoss(Path(options.perceptual), accelerator.device)
    teacher.eval().requires_grad_(False)
    if bool(options.reader) != bool(options.guide):
        raise ValueError(f"--reader and --guide go together; got reader={options.reader!r}, guide={options.guide!r}")
    if options.teacher and not options.reader:
        raise ValueError("--teacher goes with --reader and --guide")
    witnesses = None
    if options.reader:
        probes = Path(options.labels).with_suffix(".safetensors") if options.labels else ""
        witnesses = Witnesses.load(options.reader, options.guide, accelerator.device, options.teacher, probes)
    critic = build_critic(network, witnesses, options.critic)
    pair = Pair(copy.deepcopy(teacher).requires_grad_(True).train(), critic)
    if options.compile:
        pair.student.compile()

    crowds = {"crowd": Crowd(), "teacher_crowd": Crowd()}

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        if witnesses and step % 2:
            batch = cut(faces, faces.draw(options.wish_batch, generator), Jitter(degrade=0.0), generator)
            wish = make_wish(batch, faces, witnesses.guide, generator)
            return model(
                lambda student, critic: loss_on_wish(
                    student, critic, wish, witnesses, options, network, generator, crowds
                )
            )
        batch = cut(faces, faces.draw(options.batch, generator), Jitter(degrade=0.0), generator)
        if not options.rollout_batch:
            return model(lambda student, critic: loss_on(student, critic, teacher, batch, options, network, generator))
        sampled = cut(faces, faces.draw(options.rollout_batch, generator), Jitter(degrade=0.0), generator)
        return model(
            lambda student, critic: (
                loss_on(student, critic, teacher, batch, options, network, generator)
                + loss_on_rollout(student, critic, sampled, witnesses, options, network, generator)
            )
        )

    metrics = fit(pair, loss_of, options, accelerator) | {"options": recipe(options)}
    if accelerator.is_main_process:
        pair.student.half().save_pretrained(out / "unet", max_shard_size="15MB")
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=options.shift)
        scheduler.save_pretrained(out / "scheduler")
        save_file(pair.critic.state_dict(), out / CRITIC)
        write_json(metrics, out / "training.json")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(parse_options(Options, argv, __doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
