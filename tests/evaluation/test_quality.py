import numpy as np
import pytest

from deid_diffusion.evaluation.quality import (
    frechet_distance,
    kernel_distance,
    mean_abs_difference,
    outside,
    psnr,
    seam_step,
    sharpness_gap,
    squared_error,
    ssim,
)

FACE, SQUARE = np.array([40.0, 40, 80, 80]), np.array([20.0, 20, 100, 100])


def _picture(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    smooth = np.linspace(60, 180, 120)[None, :, None] + np.zeros((120, 120, 3))
    return np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, (40000, 2)), generator.normal(3, 2, (40000, 2))
    # |mean gap|² + sum (s1 - s2)² = 2 * 9 + 2 * 1
    assert frechet_distance(first, second) == pytest.approx(20, rel=0.03)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_in_one_dimension():
    assert frechet_distance(np.array([[0.0], [2.0]]), np.array([[5.0], [7.0]])) == pytest.approx(25)


def test_kernel_distance_is_unbiased():
    generator = np.random.default_rng(0)
    same = [kernel_distance(generator.normal(size=(60, 8)), generator.normal(size=(60, 8))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    assert kernel_distance(generator.normal(size=(60, 8)), generator.normal(2, 1, (60, 8))) > 10 * np.std(same)


def test_pixels_off_the_face_are_perfect_when_only_the_face_changed():
    before, after = _picture(), _picture()
    after[40:80, 40:80] = 0
    off = outside(before.shape, [FACE])
    assert psnr(squared_error(before, after, off)) == float("inf")
    assert ssim(before, after, off) == pytest.approx(1.0, abs=1e-5)
    assert mean_abs_difference(before, after, FACE) > 50


def test_one_level_everywhere_is_48_decibels():
    before = _picture()
    everywhere = np.ones(before.shape[:2], bool)
    assert psnr(squared_error(before, before + 1, everywhere)) == pytest.approx(48.13, abs=0.01)
    assert ssim(before, _picture(1), everywhere) < 0.9


def test_a_face_that_fills_the_picture_leaves_nothing_to_compare():
    nowhere = outside((50, 50, 3), [np.array([-5.0, -5, 60, 60])])
    assert not nowhere.any()
    assert np.isnan(ssim(_picture()[:50, :50], _picture()[:50, :50], nowhere))
    assert np.isnan(squared_error(_picture()[:50, :50], _picture()[:50, :50], nowhere))


@pytest.mark.parametrize("step", [20, 60])
def test_a_hard_edge_is_a_seam_of_its_height(step):
    flat = np.full((120, 120, 3), 100, np.uint8)
    pasted = flat.copy()
    pasted[40:80, 40:80] += np.uint8(step)
    # The rim is the pixels on both sides of the edge; the step lies on one of them.
    assert step / 3 < seam_step(flat, pasted, SQUARE) <= step
    assert np.isnan(seam_step(flat, flat, SQUARE))


def test_a_feathered_edge_is_less_of_a_seam():
    flat = np.full((120, 120, 3), 100, np.uint8)
    y, x = np.mgrid[:120, :120]
    ramp = np.clip(1.5 - np.hypot(y - 60, x - 60) / 25, 0, 1)[..., None]
    assert seam_step(flat, (flat + 60 * ramp).astype(np.uint8), SQUARE) < 5


def test_a_blurred_face_is_less_sharp_than_its_surroundings():
    before = _picture()
    soft = before.copy()
    soft[40:80, 40:80] = before[40:80, 40:80].mean(axis=(0, 1))
    assert sharpness_gap(before, before, FACE, SQUARE) == 0.0
    assert sharpness_gap(before, soft, FACE, SQUARE) < -2
