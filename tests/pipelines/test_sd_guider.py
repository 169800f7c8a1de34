import pytest
import torch

from deid_diffusion.pipelines.sd_guider import IdentityBranchGuidance

COND, UNCOND, SOURCE = torch.tensor(3.0), torch.tensor(1.0), torch.tensor(2.0)


def combine(guider, step: int = 0, steps: int = 10) -> tuple[float, int]:
    guider.set_state(step, steps, torch.tensor(0))
    blocks = guider.prepare_inputs({"value": (COND, UNCOND, SOURCE)})
    for block in blocks:
        guider.prepare_models(None)
        block.noise_pred = block.value
    return guider(blocks).pred.item(), len(blocks)


@pytest.mark.parametrize(
    ("options", "step", "value", "branches"),
    [
        ({"guidance_scale": 2.0, "identity_scale": 0.5}, 0, 1 + 2 * 2 - 0.5 * 1, 3),
        ({"guidance_scale": 2.0, "identity_scale": 0.0}, 0, 5.0, 2),
        ({"guidance_scale": 1.0, "identity_scale": 0.0}, 0, 3.0, 1),
        ({"guidance_scale": 1.0, "identity_scale": 1.0}, 0, 2.0, 3),
        ({"guidance_scale": 2.0, "identity_scale": 0.5, "stop": 0.5}, 5, 5.0, 2),
        ({"guidance_scale": 2.0, "identity_scale": 0.5, "start": 0.5}, 5, 4.5, 3),
        ({"guidance_scale": 2.0, "enabled": False}, 0, 3.0, 1),
    ],
)
def test_branches_are_combined_as_the_formula_says(options, step, value, branches):
    assert combine(IdentityBranchGuidance(**options), step) == (pytest.approx(value), branches)


def test_is_a_diffusers_guider_that_saves_and_loads(tmp_path):
    IdentityBranchGuidance(guidance_scale=3.0, identity_scale=1.5).save_pretrained(tmp_path)
    loaded = IdentityBranchGuidance.from_pretrained(tmp_path)
    assert (loaded.guidance_scale, loaded.identity_scale) == (3.0, 1.5)
    assert loaded.new(identity_scale=0.0).identity_scale == 0.0


def test_a_negative_scale_is_refused():
    with pytest.raises(ValueError, match="identity_scale must be >= 0"):
        IdentityBranchGuidance(identity_scale=-1.0)
