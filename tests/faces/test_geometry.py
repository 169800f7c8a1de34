import numpy as np
import pytest

from deid_diffusion.faces.geometry import apply, compose, crop_from_image, fit_similarity, hull_distance, invert


def some_map(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(2, 2)) + 2 * np.eye(2), rng.normal(size=(2, 1)) * 50], axis=1)


def test_invert_returns_the_points():
    points = np.random.default_rng(1).uniform(0, 500, (20, 2))
    matrix = some_map()
    assert np.allclose(apply(invert(matrix), apply(matrix, points)), points)


def test_compose_is_one_map_after_the_other():
    points = np.random.default_rng(1).uniform(0, 500, (20, 2))
    assert np.allclose(
        apply(compose(some_map(1), some_map(2)), points), apply(some_map(1), apply(some_map(2), points))
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_fit_similarity_finds_the_planted_map(dims):
    rng = np.random.default_rng(dims)
    rotation = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    points = rng.normal(size=(12, dims))
    scale, got, shift = fit_similarity(points, 3.5 * points @ rotation.T + 7)
    assert scale == pytest.approx(3.5)
    assert np.allclose(got, rotation)
    assert np.allclose(shift, 7)


def test_fit_similarity_never_mirrors():
    points = np.random.default_rng(0).normal(size=(12, 2))
    _, rotation, _ = fit_similarity(points, points * [-1, 1])
    assert np.linalg.det(rotation) == pytest.approx(1)


FIVE = np.array([[40, 50], [60, 50], [50, 60], [43, 72], [57, 72]], float)


@pytest.mark.parametrize("turn_deg", [0, 30, 90, 180, -90, 270])
@pytest.mark.parametrize("zoom", [0.1, 1, 20])
def test_a_crop_stands_upright_whatever_the_roll(turn_deg, zoom):
    angle = np.radians(turn_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    five = zoom * FIVE @ rotation.T + [300, 200]
    got = apply(crop_from_image(five, 256), five)
    want = apply(crop_from_image(FIVE, 256), FIVE)
    assert np.allclose(got, want, atol=1e-6)
    assert got[0, 1] == pytest.approx(got[1, 1])
    assert got[3, 1] > got[0, 1]


def test_the_crop_is_the_square_of_the_training_data():
    matrix = crop_from_image(FIVE, 256)
    side = 2 * max(2 * 20, 1.8 * 22)
    assert np.sqrt(np.linalg.det(matrix[:, :2])) == pytest.approx(256 / side)
    assert np.allclose(apply(matrix, np.array([50, 50 + 0.1 * 22])), 128)


def test_a_profile_whose_eyes_coincide_still_gets_a_crop():
    five = np.array([[50, 50], [50, 50], [40, 60], [44, 72], [46, 72]], float)
    matrix = crop_from_image(five, 256)
    assert np.isfinite(matrix).all()
    assert apply(matrix, five)[3, 1] > 128


def test_hull_distance_is_the_distance_to_a_square():
    square = np.array([[10, 10], [30, 10], [30, 30], [10, 30]], float)
    distance = hull_distance(square, 40)
    assert distance[20, 20] == pytest.approx(-9.5)
    assert distance[20, 35] == pytest.approx(5.5)
    assert ((distance < 0).sum()) == 400
