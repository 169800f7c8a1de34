"""Photos are not odd; what shifts their features is."""

import numpy as np
import pytest
import torch

from deid_diffusion.faces.estimator import FaceEstimator
from deid_diffusion.faces.ood_score import STAGES, OODScore, pooled
from tests.tiny import tiny_estimator


def states(count: int, shift: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    """Five hidden states of correlated channels."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    return [torch.randn(count, 8, 4, 4, generator=generator).transpose(1, 3) @ mix + shift for _ in range(5)]


def nchw(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    return [one.transpose(1, 3) for one in rows]


@pytest.fixture(scope="module")
def fitted() -> OODScore:
    return OODScore.fit(pooled(nchw(states(400))))


def test_what_it_was_fitted_on_is_odd_by_one(fitted):
    assert fitted.ood_score(nchw(states(300, seed=2))).mean() == pytest.approx(1, abs=0.1)


def test_the_further_off_the_odder(fitted):
    odd = [float(fitted.ood_score(nchw(states(50, shift, seed=3))).mean()) for shift in (0, 2, 4)]
    assert odd[0] < odd[1] < odd[2]


def test_it_survives_its_file(fitted, tmp_path):
    fitted.save(tmp_path / "ood_score.safetensors")
    again = OODScore.load(tmp_path / "ood_score.safetensors")
    some = nchw(states(10, 1.0, seed=4))
    assert again.ood_score(some) == pytest.approx(fitted.ood_score(some), rel=0.01)


def test_an_estimator_with_it_says_how_odd_each_face_is():
    plain = tiny_estimator()
    crops = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    assert [one.ood_score for one in plain.analyze(crops)] == [0.0] * 3
    widths = [state.shape[1] for state in plain.states(torch.zeros(1, 3, 64, 64))]
    known = OODScore(tuple(torch.zeros(widths[n]) for n in STAGES), tuple(torch.eye(widths[n]) for n in STAGES))
    odd = [one.ood_score for one in FaceEstimator(plain.network, plain.shape, None, known).analyze(crops)]
    assert len(odd) == 3
    assert min(odd) > 0
    assert len(set(odd)) == 3
