import numpy as np
import pytest

from deid_diffusion.evaluation.warp import (
    ARCFACE,
    crop_box,
    face_square,
    similarity_matrix,
    square_box,
    warp_to_template,
)


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1, (0, 0)), (30, 2.5, (10, -4)), (-170, 0.2, (300, 20))])
def test_a_similarity_is_recovered(angle, scale, shift):
    a, b = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    expected = np.array([[a, -b, shift[0]], [b, a, shift[1]]])
    moved = ARCFACE @ expected[:, :2].T + expected[:, 2]
    assert similarity_matrix(ARCFACE, moved) == pytest.approx(expected)


def test_landmarks_land_on_the_template():
    picture = np.zeros((300, 300, 3), np.uint8)
    points = ARCFACE * 150 + (60, 40)
    for x, y in points:
        picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 255
    crop = warp_to_template(picture, points, ARCFACE, 112)
    for x, y in ARCFACE * 112:
        assert crop[int(y), int(x)].min() > 200


@pytest.mark.parametrize("size", [200, 50, 10])
def test_cutting_the_whole_picture_keeps_its_mean_at_any_size(size):
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    crop = crop_box(picture, np.array([0.0, 0, 200, 200]), size)
    assert crop.shape == (size, size, 3)
    assert crop.mean() == pytest.approx(picture.mean(), abs=6)
    if size == 200:
        assert (crop == picture).all()


def test_squares_are_square_and_centred():
    assert square_box(np.array([10.0, 20, 30, 60]), 2.0).tolist() == [-20, 0, 60, 80]
    box = face_square(ARCFACE * 112)
    assert box[2] - box[0] == pytest.approx(box[3] - box[1])
    assert box[2] - box[0] > 4 * 35
