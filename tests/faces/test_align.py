import numpy as np
import pytest

from deid_diffusion.faces.align import MOST_HELD, cut, disagreement, first_crop, holding, make_crop, steadied
from deid_diffusion.faces.geometry import SIZE, apply, invert
from deid_diffusion.faces.masks import GROWTH, box_ellipse, face_mask
from deid_diffusion.types import Face
from tests.tiny import tiny_shape


def ramp(height: int = 400, width: int = 500) -> np.ndarray:
    """A picture whose red is x / 2 and whose green is y / 2."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x / 2, y / 2, np.full_like(x, 100)], -1).clip(0, 255).astype(np.uint8)


def face_at(x: float, y: float, eyes: float = 40.0) -> Face:
    five = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.1], [0.4, 1.1]]) * eyes + [x, y]
    return Face(np.array([x - 1.1 * eyes, y - 0.9 * eyes, x + 1.1 * eyes, y + 1.7 * eyes]), five)


def landmarks_of(face: Face) -> np.ndarray:
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    return tiny_shape().mean[:, :2] * eyes + face.landmarks[:2].mean(0)


@pytest.mark.parametrize("eyes", [12, 40, 90])
def test_a_crop_shows_what_its_map_says(eyes):
    face = face_at(250, 200, eyes)
    matrix = first_crop(face)
    crop = cut(ramp(), matrix)
    assert crop.shape == (SIZE, SIZE, 3)
    grid = np.stack(np.meshgrid(np.arange(40, 216, 8) + 0.5, np.arange(40, 216, 8) + 0.5), -1).reshape(-1, 2)
    there = apply(invert(matrix), grid)
    inside = ((there > 4) & (there < [496, 396])).all(1)
    got = crop[grid[inside, 1].astype(int), grid[inside, 0].astype(int), :2].astype(float)
    assert np.abs(got - there[inside] / 2).max() < 2


def test_a_crop_at_the_border_is_reflected_not_black():
    crop = cut(np.full((200, 200, 3), 77, np.uint8), first_crop(face_at(5, 5)))
    assert (crop == 77).all()


def test_a_crop_of_a_one_pixel_picture_is_that_pixel():
    assert (cut(np.full((1, 1, 3), 9, np.uint8), first_crop(face_at(0, 0, 2))) == 9).all()


def test_the_mask_is_full_over_the_face_and_soft_outside():
    face = face_at(250, 200)
    crop = make_crop(ramp(), face, landmarks_of(face))
    inside = crop.landmarks.astype(int)
    assert (crop.mask[inside[:, 1].clip(0, 255), inside[:, 0].clip(0, 255)] == 1).all()
    assert crop.mask.min() == 0
    assert ((crop.mask > 0) & (crop.mask < 1)).any()


def test_the_mask_covers_the_detection_even_if_the_landmarks_shrink():
    face = face_at(250, 200)
    tight = landmarks_of(face)
    tight = (tight - tight.mean(0)) * 0.3 + tight.mean(0)
    crop = make_crop(ramp(), face, np.concatenate([tight[:468], landmarks_of(face)[468:]]))
    ellipse = apply(crop.crop_from_image, box_ellipse(face)).clip(0, SIZE - 1).astype(int)
    assert (crop.mask[ellipse[:, 1], ellipse[:, 0]] == 1).all()


def test_the_mask_grows_by_what_it_says():
    square = np.array([[100, 100], [150, 100], [150, 150], [100, 150]], float)
    mask = face_mask(square, square)
    row = mask[125]
    assert row[100 - int(GROWTH * SIZE / 2)] == 1
    assert row[100 - int(GROWTH * SIZE) - 2] == 0


def test_disagreement_is_in_face_sizes():
    face = face_at(250, 200)
    landmarks = landmarks_of(face)
    assert disagreement(face, landmarks) < 0.1
    assert disagreement(face, landmarks + [96, 0]) > 0.9


def upright(side: float, turn: float, centre=(250.0, 200.0)) -> np.ndarray:
    """(2, 3) crop_from_image of SIZE px of a square with this side, turned by so many degrees."""
    cos, sin = SIZE / side * np.cos(np.radians(turn)), SIZE / side * np.sin(np.radians(turn))
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.concatenate([linear, (SIZE / 2 - linear @ np.array(centre))[:, None]], 1)


def side_and_turn(matrix: np.ndarray) -> tuple[float, float]:
    return SIZE / float(np.hypot(*matrix[0, :2])), float(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))


def test_a_trembling_side_and_angle_are_steadied_and_the_centre_is_not():
    rng = np.random.default_rng(0)
    said = [upright(200 * np.exp(0.006 * rng.standard_normal()), 0.5 * rng.standard_normal()) for _ in range(60)]
    crops = [said[0]]
    for one in said[1:]:
        one[:, 2] += rng.standard_normal(2)
        crops.append(steadied(one, crops[-1], SIZE))
    raw, steady = (np.array([side_and_turn(one) for one in rows])[10:] for rows in (said, crops))
    assert (np.diff(steady, axis=0).std(0) < 0.5 * np.diff(raw, axis=0).std(0)).all()
    for one, crop in zip(said, crops, strict=True):
        assert apply(crop, apply(invert(one), np.full(2, SIZE / 2))) == pytest.approx(np.full(2, SIZE / 2))


def test_a_face_that_comes_near_or_tilts_is_followed_at_once():
    followed = steadied(upright(240, 350), upright(200, 0), SIZE)
    assert side_and_turn(followed) == pytest.approx((240, -10))


def test_a_crop_stays_as_large_as_a_moment_ago_at_any_size_of_crops():
    where = face_at(250, 200)
    alone = make_crop(ramp(), where, landmarks_of(where), 128)
    side, _ = side_and_turn(alone.crop_from_image * 2)
    before = upright(side * 1.004, 0)
    crop = make_crop(ramp(), where, landmarks_of(where), 128, before=before)
    assert side < side_and_turn(crop.crop_from_image * 2)[0] < side * 1.004


@pytest.mark.parametrize("small", [0.9, 0.7, 0.55])
def test_a_detection_larger_than_its_landmarks_say_is_masked_whole(small):
    where = face_at(250, 200)
    middle = where.box.reshape(2, 2).mean(0)
    points = (landmarks_of(where) - middle) * small + middle
    crop = make_crop(ramp(), where, points)
    ellipse = apply(crop.crop_from_image, box_ellipse(where, share=0.8)).round().astype(int)
    assert (ellipse > 0).all()
    assert (ellipse < SIZE - 1).all()
    assert (crop.mask[ellipse[:, 1], ellipse[:, 0]] > 0).all()


def test_a_face_that_fits_keeps_its_square():
    where = face_at(250, 200)
    square = first_crop(where)
    assert np.array_equal(holding(square, box_ellipse(where), SIZE), square)
    assert side_and_turn(holding(square, box_ellipse(where, share=9.0), SIZE))[0] == pytest.approx(
        MOST_HELD * side_and_turn(square)[0]
    )
