import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from deid_diffusion.pipelines.schedule import KINDS, levels, output_from, prediction_kind, x0_from

SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
]


@pytest.mark.parametrize("name", [*SCHEDULERS, "FlowMatchEulerDiscreteScheduler"])
def test_levels_are_the_schedulers_own_noise(name):
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(5)
    x0, noise = torch.randn(2, 1, 4, 4, 4).unbind(0)
    for t in scheduler.timesteps:
        a, s = levels(scheduler, t, x0)
        add = getattr(scheduler, "add_noise", None) or (lambda x, n, at, f=scheduler: f.scale_noise(x, at, n))
        assert torch.allclose(add(x0, noise, t.reshape(1)), a * x0 + s * noise, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "s"), [(0.8, 0.6), (1.0, 14.6), (0.3, 0.7)])
def test_output_and_x0_are_inverse(kind, a, s):
    x, output = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    a, s = torch.tensor(a), torch.tensor(s)
    x0 = x0_from(output, x, a, s, kind)
    assert torch.allclose(output_from(x0, x, a, s, kind), output, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_x0_is_the_schedulers_own(name, kind):
    options = {"clip_sample": False} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(prediction_type=kind, **options)
    if name == "EulerDiscreteScheduler" and kind == "sample":
        pytest.skip("Euler has no sample prediction")
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[2]
    x, output = torch.randn(2, 1, 4, 4, 4).unbind(0)
    scheduler.scale_model_input(x, t)
    ours = x0_from(output, x, *levels(scheduler, t, x), kind)
    assert torch.allclose(scheduler.step(output, t, x).pred_original_sample, ours, atol=1e-4)


def test_flow_x0_is_where_one_straight_step_ends():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(1)
    x, output = torch.randn(2, 1, 4, 4, 4).unbind(0)
    t = scheduler.timesteps[0]
    x0 = x0_from(output, x, *levels(scheduler, t, x), "flow_prediction")
    assert torch.allclose(scheduler.step(output, t, x).prev_sample, x0, atol=1e-5)


def test_a_first_step_without_signal_stays_finite():
    x, output = torch.randn(2, 1, 4, 4, 4).unbind(0)
    assert x0_from(output, x, torch.tensor(0.0), torch.tensor(1.0), "epsilon").isfinite().all()


@pytest.mark.parametrize(
    "scheduler",
    [EDMEulerScheduler(), DDIMScheduler.from_config({"prediction_type": "noise"})],
    ids=["preconditions", "unknown kind"],
)
def test_a_scheduler_whose_x0_cannot_be_told_is_refused(scheduler):
    with pytest.raises(ValueError, match=r"needs a scheduler .* got .*Scheduler.*; take"):
        prediction_kind(scheduler)
