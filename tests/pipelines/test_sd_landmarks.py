import pytest
import torch

from deid_diffusion.pipelines.conditioning import POINTS
from deid_diffusion.pipelines.sd_landmarks import CONTOURS, INNER_68, JAW_68, OUTLINE, draw_landmarks


def oval(batch: int = 1) -> torch.Tensor:
    angle = torch.linspace(0, 6.28, 478)
    one = torch.stack([256 + 150 * angle.cos(), 256 + 200 * angle.sin()], -1)
    return one.expand(batch, 478, 2).clone()


def test_sixty_eight_points_each_once():
    numbers = JAW_68 + INNER_68
    assert len(numbers) == len(set(numbers)) == 68


def test_contours_know_only_facemesh_points():
    assert all(0 <= number < 468 for _, path in (*CONTOURS, OUTLINE) for number in path)
    assert OUTLINE[1][0] == OUTLINE[1][-1]


@pytest.mark.parametrize("style", ["mediapipe", "dlib68"])
def test_draws_in_range_and_leaves_the_outline_out_when_told(style):
    full = draw_landmarks(oval(2), 512, style)
    bare = draw_landmarks(oval(2), 512, style, outline=False)
    assert full.shape == (2, 3, 512, 512)
    assert full.min() == 0
    assert full.max() <= 1
    assert 0 < (bare > 0).sum() < (full > 0).sum()


def test_a_dot_lies_where_its_point_is():
    points = torch.full((1, 478, 2), float("nan"))
    points[0, 33] = torch.tensor([100.5, 40.5])
    picture = draw_landmarks(points, 512, "dlib68")[0, 0]
    y, x = picture.nonzero().float().mean(0).tolist()
    assert (x + 0.5, y + 0.5) == pytest.approx((100.5, 40.5), abs=0.5)


def test_colours_tell_left_from_right():
    points = torch.full((1, 478, 2), float("nan"))
    points[0, [468, 473]] = torch.tensor([[100.0, 100.0], [300.0, 100.0]])
    picture = draw_landmarks(points, 512)[0] * 255
    assert picture[:, 100, 100].tolist() == [250, 200, 10]
    assert picture[:, 100, 300].tolist() == [10, 200, 250]


@pytest.mark.parametrize("style", ["mediapipe", "dlib68"])
def test_unknown_points_draw_nothing(style):
    assert draw_landmarks(torch.full((1, 478, 2), float("nan")), 64, style).max() == 0


def test_sparse_points_draw_sparse_lines_without_an_outline():
    sparse = draw_landmarks(oval()[:, list(POINTS)], 512)
    assert 0 < (sparse > 0).sum() < (draw_landmarks(oval(), 512, outline=False) > 0).sum()


def test_depth_is_ignored():
    deep = torch.cat([oval(), torch.ones(1, 478, 1)], -1)
    assert draw_landmarks(deep, 128).equal(draw_landmarks(oval(), 128))


@pytest.mark.parametrize("shape", [(478, 2), (1, 68, 2), (1, 478, 4)])
def test_wrong_shapes_say_what_was_wanted(shape):
    with pytest.raises(ValueError, match=r"landmarks must be \(B, 478, 2\)"):
        draw_landmarks(torch.zeros(shape), 64)


def test_unknown_style():
    with pytest.raises(ValueError, match="landmark_style must be one of"):
        draw_landmarks(oval(), 64, "openpose")
