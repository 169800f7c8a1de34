"""What a generator is trained on by its own steps is what the pipeline meets."""

import pytest
import torch

from deid_diffusion.training.critic import Critic, critic_loss, generator_loss
from deid_diffusion.training.inpaint import Examples
from deid_diffusion.training.rollout import COLOUR_PATCH, noise_schedule, patch_colour_error, rollout, sample_rollout
from tests.tiny import DIM, tiny_pipeline

SIZE = 64


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_noise_levels_are_those_of_the_pipeline(steps):
    pipe = tiny_pipeline(SIZE)
    mask = torch.ones(1, 1, SIZE, SIZE)
    pipe(torch.zeros(1, 3, SIZE, SIZE), mask, num_inference_steps=steps, output_type="pt")
    levels = noise_schedule(steps, pipe.scheduler.config.shift)
    assert pipe.scheduler.sigmas.tolist() == pytest.approx(levels, abs=1e-5)
    assert levels[-2] >= 1 / steps  # no step is wasted on a face that is finished


def test_a_rollout_stands_where_the_pipeline_stands_at_that_step():
    pipe = tiny_pipeline(SIZE)
    crop = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 16:52, 14:50] = 1
    given = {
        "landmarks": torch.full((1, 478, 2), 30.0),
        "attributes": {"age": 30.0},
        "identity": torch.ones(1, DIM) / DIM**0.5,
    }
    stood: list[torch.Tensor] = []
    pipe(
        crop, mask, **given, num_inference_steps=4, noise_scale=0.7, generator=torch.Generator().manual_seed(5),
        callback_on_step_end=lambda pipe, step, timestep, tensors: stood.append(tensors["latents"].clone()),
    )  # fmt: skip
    examples = Examples(crop, mask, *pipe.prepare_condition(crop, mask, *given.values()))
    levels = [float(sigma) for sigma in pipe.scheduler.sigmas]
    for stop in range(1, 4):
        x_t = rollout(pipe.unet, examples, levels, stop, 0.7, torch.Generator().manual_seed(5))
        assert torch.allclose(x_t, stood[stop - 1], atol=1e-4)
        assert not x_t.requires_grad


def test_a_rollout_of_no_steps_is_noise_of_the_given_scale():
    examples = Examples(torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, 1, SIZE, SIZE), torch.zeros(0), torch.zeros(0))
    noise = rollout(None, examples, noise_schedule(4, 3.0), 0, 0.6, torch.Generator().manual_seed(0))
    assert float(noise.std()) == pytest.approx(0.6, rel=0.02)


def test_the_last_step_is_trained_as_often_as_all_others():
    examples = Examples(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.zeros(1, 76, 2, 2), torch.zeros(1, 1))
    generator = torch.Generator().manual_seed(0)
    drawn = [
        float(sample_rollout(lambda x, *_, **__: (x[:, :48],), examples, 4, 3.0, generator)[1]) for _ in range(400)
    ]
    levels = noise_schedule(4, 3.0)
    counts = [sum(level == pytest.approx(one, abs=1e-6) for one in drawn) for level in levels[:4]]
    assert sum(counts) == 400
    assert counts[3] / 400 == pytest.approx(0.5, abs=0.1)
    assert min(counts) > 40


def test_colour_error_is_how_far_off_patches_are_under_the_mask():
    wanted = torch.zeros(2, 3, 32, 32)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., :16] = 1
    generated = wanted.clone()
    generated[0, :, :, :16] = 0.2
    generated[:, :, :, 16:] = 1  # off the mask nothing counts
    assert patch_colour_error(generated, wanted, mask).tolist() == pytest.approx([0.2, 0.0])
    # Texture within a patch is no colour.
    checks = torch.ones(1, 1, 32, 32)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = -1
    assert COLOUR_PATCH % 2 == 0
    assert patch_colour_error(checks.expand(2, 3, -1, -1), wanted, mask).tolist() == pytest.approx(
        [0.0, 0.0], abs=1e-6
    )


def test_the_critic_sees_grain_that_no_frozen_feature_shows():
    """Its maps are equal, its pixels are not."""
    torch.manual_seed(0)
    critic, maps = Critic((4,)), [torch.ones(4, 4, 16, 16)]
    mask = torch.ones(4, 1, SIZE, SIZE)
    optimiser = torch.optim.AdamW(critic.parameters(), lr=3e-3)

    def lost(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return critic_loss(critic(maps, image), critic(maps, other), mask)

    for _ in range(40):
        real = 0.1 * torch.randn(4, 3, SIZE, SIZE)
        loss = lost(real, torch.zeros_like(real))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    critic.eval()
    assert lost(0.1 * torch.randn(4, 3, SIZE, SIZE), torch.zeros(4, 3, SIZE, SIZE)) < 1.8  # 2: cannot tell
    assert len(critic(maps)) == 1
    flat = torch.zeros(4, 3, SIZE, SIZE, requires_grad=True)
    generator_loss(critic, maps, mask, flat).backward()
    assert flat.grad.abs().max() > 0
    assert all(weight.grad is None for weight in critic.parameters())
