import pytest
import torch

from deid_diffusion.pipelines.repulsion import Energy, Repulsion, as_energies, as_repulsion, guidance_step, smooth


@pytest.mark.parametrize(
    ("similarity", "margin", "energy"),
    [(1.0, 0.0, 1.0), (1.0, 0.4, 0.6), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0)],
)
def test_energy_is_what_is_left_above_the_margin(similarity, margin, energy):
    source = torch.tensor([[1.0, 0.0]])
    face = torch.tensor([[similarity, (1 - similarity**2) ** 0.5]])
    assert Repulsion(margin=margin).energy(face, source).item() == pytest.approx(energy)


@pytest.mark.parametrize(
    ("start", "stop", "active"), [(0.0, 1.0, [0, 1, 2, 3]), (0.5, 1.0, [2, 3]), (0.0, 0.5, [0, 1]), (0.5, 0.5, []),
     (0.0, 0.9, [0, 1, 2]), (0.9, 1.0, [3]), (0.3, 0.4, [1])],
)  # fmt: skip
def test_the_window_is_in_fractions_of_the_steps(start, stop, active):
    repulsion = Repulsion(start=start, stop=stop)
    assert [step for step in range(4) if repulsion.active(step, 4)] == active


@pytest.mark.parametrize("rule", [Repulsion(), Repulsion(stop=0.1), Repulsion(start=0.7, stop=0.75), Energy(abs)])
@pytest.mark.parametrize("steps", [1, 2, 3, 25])
def test_what_is_on_acts_at_one_step_at_least(rule, steps):
    assert rule.steps(steps)
    assert all(0 <= step < steps for step in rule.steps(steps))


def test_a_change_on_the_last_step_of_many_would_stay_in_the_picture():
    assert not Repulsion(stop=0.99).active(3, 4)
    assert Repulsion(stop=1.0).active(3, 4)


def test_scale_zero_is_off():
    assert not Repulsion(scale=0).active(0, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 0.9, "stop": 0.1}, "start <= stop"),
        ({"stop": 1.5}, "stop=1.5"),
        ({"scale": -1}, "scale must be >= 0"),
        ({"margin": 2}, "cosine"),
        ({"views": 0}, "views"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Repulsion(**values)


def test_a_step_is_as_long_as_asked_whatever_the_gradients_size():
    torch.manual_seed(0)
    x0, noise, mask = torch.zeros(1, 3, 8, 8), torch.randn(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    gradient = torch.randn(1, 3, 8, 8)
    for size in (1e-3, 1.0, 1e3):
        moved = guidance_step(x0, gradient * size, torch.tensor([0.5]), noise, mask, step_size=0.04)
        assert float((moved * mask).norm() / (noise * mask).norm()) == pytest.approx(0.02, rel=1e-4)
        assert not (moved * (1 - mask)).any()
        assert (moved * gradient).sum() < 0


def test_a_step_is_clamped():
    one = torch.ones(1, 1, 4, 4)
    moved = guidance_step(one * 0, one, torch.tensor([1.0]), one, one, step_size=1e3, clamp=0.25)
    assert torch.allclose(moved, -0.25 * one)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_all_steps_together_are_as_long_at_any_number_of_steps(steps):
    repulsion = Repulsion(scale=20, stop=0.8)
    active = sum(repulsion.active(step, steps) for step in range(steps))
    assert active * repulsion.step_size(steps) == pytest.approx(1)


def test_a_window_without_a_step_moves_nowhere_and_divides_by_nothing():
    assert Repulsion(start=0.5, stop=0.5).step_size(4) == pytest.approx(30 / 20)


def test_a_mapping_is_a_repulsion_and_none_is_off():
    assert as_repulsion({"scale": 60, "views": 2}) == Repulsion(scale=60, views=2)
    assert as_repulsion(Repulsion(margin=0.1)) == Repulsion(margin=0.1)
    assert as_repulsion(None).steps(4) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"strength": 3}, "repulsion takes scale, margin, start, stop, through_unet, views; got 'strength'"),
        ({"scale": -1}, "scale must be >= 0"),
        ({"scale": float("nan")}, "scale must be >= 0 and finite, got nan"),
        ({"scale": float("inf")}, "and finite, got inf"),
        ({"scale": "much"}, "repulsion takes numbers"),
        (30.0, "repulsion must be a Repulsion, a mapping of its fields, or None, got float"),
    ],
)
def test_what_is_no_repulsion_says_so(value, message):
    with pytest.raises(ValueError, match=message):
        as_repulsion(value)


def test_bare_functions_become_energies_with_the_default_window():
    own = Energy(abs, scale=1.0, stop=1.0)
    assert as_energies([abs, own]) == [Energy(abs), own]


def test_smoothing_keeps_what_is_coarse_and_drops_what_is_fine():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    fine, coarse = torch.sin(x * torch.pi * 0.9) + torch.cos(y * 2.5), torch.sin(x / 12)
    found = smooth(torch.stack([fine, coarse])[None], sigma=2)
    inner = (slice(8, -8), slice(8, -8))
    assert found[0, 0][inner].abs().max() < 0.01
    assert torch.allclose(found[0, 1][inner], coarse[inner], atol=0.03)
