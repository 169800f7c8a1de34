"""Distils the inpainter to few steps, with a critic that asks for texture.

    deid train distill --data faces/ --start runs/inpaint/unet --perceptual features.ts.pt --out runs/distill

At noise levels of a few-step schedule the student generates in one step what the teacher generates in several, and a
critic on frozen features tells the result from photographed faces (Sauer et al. 2023, "Adversarial diffusion
distillation"). Without teacher steps it learns from the crops themselves: the adversarial fine-tune alone. With an
estimator and an identity encoder, every other step has a condition that no crop shows (see `counterfactual.py`).

With `--keep-batch` it learns new kinds of people instead, and goes on answering as before to all else (Li and Hoiem
2016, "Learning without forgetting"): crops teach at high noise, where it is decided what a face is, and on
counterfactual conditions the student is held to what the weights that it started from make of them, at each of its
own steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

from deid_diffusion.pipelines.precondition import x0_from_output
from deid_diffusion.training.adversarial import adversarial_loss, build_critic, critic_maps, estimator_maps
from deid_diffusion.training.counterfactual import (
    AGE,
    CounterfactualCondition,
    SimilarityMemory,
    condition_consistency,
    make_counterfactual,
)
from deid_diffusion.training.critic import Critic
from deid_diffusion.training.data import Batch, Jitter, augmented_batch, load_faces
from deid_diffusion.training.identity import decorrelate
from deid_diffusion.training.inpaint import Examples, load_unet, make_examples, noised, predict, velocity_error
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.rollout import patch_colour_error, sample_rollout, shifted
from deid_diffusion.training.run import RunOptions, begin, option, recipe, run_command, run_training, save_trained
from deid_diffusion.training.teachers import FrozenTeachers

CRITIC = "critic.safetensors"
KNOWN_AGES = 18, 65  # years, of those that earlier weights draw as they are


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
    estimator: str = option(
        "", "folder of a trained estimator: every other step has a counterfactual condition; empty for none"
    )
    id_encoder: str = option("", "folder of a trained id_encoder, which goes with --estimator")
    recogniser: str = option(
        "", "TorchScript recogniser that made the `embedding` labels: a second opinion on identity"
    )
    counterfactual_weight: float = option(0.05, "weight of the condition-consistency loss")
    counterfactual_batch: int = option(4, "whole crops a step with counterfactual conditions")
    rollout_batch: int = option(4, "whole crops a step that the student samples itself before its loss; 0 for none")
    colour_weight: float = option(0.1, "weight of the colours of patches that it sampled itself")
    keep_batch: int = option(
        0, "crops a step whose counterfactual conditions are answered as by --start; no critic then. 0 for none"
    )
    least_noise: float = option(0.0, "noise level in [0, 1) that crops have at least")
    compile: bool = option(False, "torch.compile the unet")


class Pair(torch.nn.Module):
    """Student and critic, trained side by side: one optimiser, one checkpoint, one set of gradients to average.

    Args:
        student: the unet.
        critic: its critic.
    """

    def __init__(self, student: torch.nn.Module, critic: Critic) -> None:
        super().__init__()
        self.student, self.critic = student, critic

    def forward(self, loss_of: Callable[[torch.nn.Module, Critic], torch.Tensor]) -> torch.Tensor:
        """Calls `loss_of(student, critic)`, a scalar, so that wrappers for several processes see the whole step."""
        # Processes wait for every gradient, also for those of heads that a step has no use for.
        return loss_of(self.student, self.critic) + 0 * sum(weight.sum() for weight in self.critic.parameters())


def sample_noise_levels(options: Options, count: int, generator: torch.Generator) -> torch.Tensor:
    """(B,) noise levels in (0, 1]: spread like the student's schedule, pure noise as often as its first step.

    Args:
        options: steps and shift of that schedule.
        count: B.
        generator: on the CPU.
    """
    even = torch.rand(count, generator=generator)
    first = torch.rand(count, generator=generator) < 1 / options.student_steps
    even = torch.where(first, torch.ones(()), even.clamp_min(0.5 / options.student_steps))
    return shifted(even, options.shift)


@torch.no_grad()
def teacher_target(
    teacher: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, examples: Examples, steps: int
) -> torch.Tensor:
    """(B, 3, W, W) where the teacher's deterministic path from x_t ends.

    Args:
        teacher: the unet that is followed.
        x_t: (B, 3, W, W) noisy crops.
        t: (B,) their noise levels.
        examples: what it is conditioned on, and the pixels around the mask.
        steps: how many it takes.
    """
    for left in range(steps, 0, -1):
        x0 = x0_from_output(predict(teacher, x_t, t, examples))
        x0 = torch.lerp(examples.x0, x0, examples.mask)
        after = t * (left - 1) / left
        ratio = (after / t)[:, None, None, None]
        x_t, t = x0 + (x_t - x0) * ratio, after
    return x_t


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of student and critic together, a scalar for one step, and the frozen networks that they need.

    Attributes:
        options: weights and steps.
        network: features for the perceptual distance and the critic.
        teacher: the unet that the student started from; needed with teacher steps alone.
        teachers: judge what was generated on counterfactual conditions; None for none of those.
        memories: see `condition_consistency`.
    """

    options: Options
    network: PerceptualLoss
    teacher: torch.nn.Module | None = None
    teachers: FrozenTeachers | None = None
    memories: dict[str, SimilarityMemory] | None = field(
        default_factory=lambda: {name: SimilarityMemory() for name in ("similarity", "similarity_recogniser")}
    )

    def on_crops(
        self, student: torch.nn.Module, critic: Critic | None, batch: Batch, generator: torch.Generator
    ) -> torch.Tensor:
        """One step from noised crops towards them, or towards what the teacher makes of them; a scalar.

        Args:
            student: the unet.
            critic: None for no adversarial loss.
            batch: B crops.
            generator: on the CPU.
        """
        examples = make_examples(batch, self.options.window, generator)
        t = sample_noise_levels(self.options, len(examples.x0), generator).to(examples.x0)
        t = t.clamp_min(self.options.least_noise)
        x_t, target = noised(examples.x0, t, generator), examples.x0
        if self.teacher is not None and self.options.teacher_steps:
            target = teacher_target(self.teacher, x_t, t, examples, self.options.teacher_steps)
        raw = predict(student, x_t, t, examples)
        loss = velocity_error(raw, target, t, examples.mask)
        if self.options.rollout_batch or self.options.keep_batch:
            return loss  # what it looks like is judged where the student samples on its own
        generated = torch.lerp(examples.x0, x0_from_output(raw), examples.mask)
        with torch.no_grad():
            photographed = self.network.features(examples.x0)
            wanted = photographed if target is examples.x0 else self.network.features(target)
        found = self.network.features(generated)
        loss = loss + self.options.perceptual_weight * self.network.distance(found, wanted).mean()
        if critic is not None and self.options.critic_weight:
            maps, weight = (critic_maps(found), critic_maps(photographed)), self.options.critic_weight
            loss = loss + adversarial_loss(critic, *maps, examples.mask, weight)
        return loss

    def on_kept(
        self, student: torch.nn.Module, condition: CounterfactualCondition, generator: torch.Generator
    ) -> torch.Tensor:
        """One step towards what the teacher makes of conditions that no crop shows, where it samples; a scalar.

        Args:
            student: the unet.
            condition: what is asked of B crops; of children and the very old the teacher knows too little, and is
                not followed.
            generator: on the CPU.

        Raises:
            ValueError: there is no teacher.
        """
        if self.teacher is None:
            raise ValueError("answers are kept of a teacher; give --start")
        examples = make_examples(condition.batch, self.options.window, generator)
        age = condition.batch.attributes[:, AGE]
        known = ((age >= KNOWN_AGES[0]) & (age <= KNOWN_AGES[1])).to(examples.mask)[:, None, None, None]
        x_t, t = sample_rollout(self.teacher, examples, self.options.student_steps, self.options.shift, generator)
        with torch.no_grad():
            target = x0_from_output(predict(self.teacher, x_t, t, examples))
        return velocity_error(predict(student, x_t, t, examples), target, t, examples.mask * known, elsewhere=0.0)

    def on_rollout(
        self, student: torch.nn.Module, critic: Critic | None, batch: Batch, generator: torch.Generator
    ) -> torch.Tensor:
        """One step on faces that the student sampled from noise by its own steps; a scalar.

        Args:
            student: the unet.
            critic: None for no adversarial loss.
            batch: B crops.
            generator: on the CPU.
        """
        examples = make_examples(batch, batch.image.shape[-1], generator)
        x_t, t = sample_rollout(student, examples, self.options.student_steps, self.options.shift, generator)
        raw = predict(student, x_t, t, examples)
        generated = torch.lerp(examples.x0, x0_from_output(raw), examples.mask)
        with torch.no_grad():
            photographed = self.network.features(examples.x0)
        found = self.network.features(generated)
        loss = self.options.perceptual_weight * self.network.distance(found, photographed).mean()
        colours = patch_colour_error(generated, examples.x0, examples.mask)
        loss = loss + self.options.colour_weight * colours.mean()
        return loss + self._adversarial(critic, found, photographed, generated, examples)

    def on_counterfactual(
        self,
        student: torch.nn.Module,
        critic: Critic | None,
        condition: CounterfactualCondition,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """One step where no picture says what the face is: condition consistency, and the critic's score; a scalar.

        Around the face the picture does say: whoever is in it, hair goes on as it was.

        Args:
            student: the unet.
            critic: None for no adversarial loss.
            condition: what is asked of B crops.
            generator: on the CPU.

        Raises:
            ValueError: there are no frozen teachers.
        """
        if self.teachers is None:
            raise ValueError("counterfactual conditions need frozen teachers; give --estimator and --id-encoder")
        examples = make_examples(condition.batch, condition.batch.image.shape[-1], generator)
        ring = examples.mask * condition.context
        # The noisy crop must hold no trace of the source's face, so it is made of what the student generated itself.
        if self.options.rollout_batch:
            x_t, t = sample_rollout(student, examples, self.options.student_steps, self.options.shift, generator)
        else:
            ones = torch.ones(len(examples.x0)).to(examples.x0)
            with torch.no_grad():
                first = x0_from_output(predict(student, noised(examples.x0, ones, generator), ones, examples))
            t = sample_noise_levels(self.options, len(examples.x0), generator).to(examples.x0)
            x_t = noised(torch.lerp(examples.x0, first, examples.mask - ring), t, generator)
        with torch.no_grad():
            photographed = self.network.features(examples.x0)
        raw = predict(student, x_t, t, examples)
        generated = torch.lerp(examples.x0, x0_from_output(raw), examples.mask)
        parts = condition_consistency(generated, condition, examples.vector, self.teachers, generator, self.memories)
        loss = torch.stack(list(parts.values())).sum() * self.options.counterfactual_weight
        loss = loss + velocity_error(raw, examples.x0, t, ring, elsewhere=0.0)
        hair = self.network.features(torch.lerp(examples.x0, generated, ring))
        loss = loss + self.options.perceptual_weight * self.network.distance(hair, photographed).mean()
        found = self.network.features(generated) if self.options.critic_weight else []
        return loss + self._adversarial(critic, found, photographed, generated, examples)

    def _adversarial(
        self,
        critic: Critic | None,
        found: list[torch.Tensor],
        photographed: list[torch.Tensor],
        generated: torch.Tensor,
        examples: Examples,
    ) -> torch.Tensor:
        """On whole crops: by maps of the network, of the estimator if there is one, and pixels; 0 without a critic."""
        if critic is None or not self.options.critic_weight:
            return generated.new_zeros(())
        fake, real = critic_maps(found), critic_maps(photographed)
        if self.teachers is not None:
            fake = fake + estimator_maps(self.teachers, generated)
            with torch.no_grad():
                real = real + estimator_maps(self.teachers, examples.x0)
        images = generated, examples.x0
        return adversarial_loss(critic, fake, real, examples.mask, self.options.critic_weight, images)


def load_teachers(options: Options, device: torch.device) -> FrozenTeachers | None:
    """The frozen teachers that the options name, None for none.

    Args:
        options: the files.
        device: where they run.

    Raises:
        ValueError: some are named without those that they go with.
    """
    if bool(options.estimator) != bool(options.id_encoder):
        raise ValueError(
            f"--estimator and --id-encoder go together; got {options.estimator!r} and {options.id_encoder!r}"
        )
    if options.recogniser and not options.estimator:
        raise ValueError("--recogniser goes with --estimator and --id-encoder; give those, too")
    if not options.estimator:
        return None
    classifiers = Path(options.labels).with_suffix(".safetensors") if options.labels else ""
    return FrozenTeachers.load(options.estimator, options.id_encoder, device, options.recogniser, classifiers)


def train(options: Options) -> dict[str, Any]:
    """Trains, checkpoints, saves the averaged student in half precision; returns the metrics it wrote.

    Raises:
        ValueError: counterfactual conditions without the networks that they need.
    """
    accelerator, out = begin(options), Path(options.out)
    teachers = load_teachers(options, accelerator.device)
    if options.keep_batch and teachers is None:
        raise ValueError("--keep-batch needs counterfactual conditions; give --estimator and --id-encoder")
    faces = load_faces(options.data, device=accelerator.device, limit=options.limit, labels=options.labels)
    teacher = load_unet(options.start).to(accelerator.device)
    network = PerceptualLoss(options.perceptual, accelerator.device)
    teacher.eval().requires_grad_(False)
    critic = build_critic(network, teachers, options.critic)
    pair = Pair(copy.deepcopy(teacher).requires_grad_(True).train(), critic)
    if options.compile:
        pair.student.compile()
    losses = Losses(options, network, teacher, teachers)

    mean = faces.embedding.mean(0)

    def drawn(count: int, generator: torch.Generator) -> Batch:
        return augmented_batch(faces, faces.draw(count, generator), Jitter(degrade=0.0), generator)

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        if teachers and options.keep_batch:
            batch, others = drawn(options.batch, generator), drawn(options.keep_batch, generator)
            # As far from the mean as people of the bank, or nearer: crops alone would teach faces of embeddings that
            # no target has.
            share = torch.rand(options.batch, 1, generator=generator).to(mean)
            batch = replace(batch, embedding=decorrelate(batch.embedding, mean, share))
            condition = make_counterfactual(others, faces, teachers.id_encoder, generator)
            return model(
                lambda student, critic: (
                    losses.on_crops(student, critic, batch, generator) + losses.on_kept(student, condition, generator)
                )
            )
        if teachers and step % 2:
            batch = drawn(options.counterfactual_batch, generator)
            condition = make_counterfactual(batch, faces, teachers.id_encoder, generator)
            return model(lambda student, critic: losses.on_counterfactual(student, critic, condition, generator))
        batch = drawn(options.batch, generator)
        if not options.rollout_batch:
            return model(lambda student, critic: losses.on_crops(student, critic, batch, generator))
        sampled = drawn(options.rollout_batch, generator)
        return model(
            lambda student, critic: (
                losses.on_crops(student, critic, batch, generator)
                + losses.on_rollout(student, critic, sampled, generator)
            )
        )

    metrics = run_training(pair, loss_of, options, accelerator) | {"options": recipe(options)}
    if accelerator.is_main_process:
        save_trained(pair.student, out / "unet", metrics)
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=options.shift)
        scheduler.save_pretrained(out / "scheduler")
        save_file(pair.critic.state_dict(), out / CRITIC)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
