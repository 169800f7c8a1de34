"""Skin is as rough afterwards as it was before, and no rougher."""

import cv2
import numpy as np
import pytest

from deid_diffusion.compositing.grain import crispen, match_detail
from deid_diffusion.compositing.texture import MOST, add_texture
from deid_diffusion.faces.skin_texture import BLURS, TEXTURE_STEP, octaves, skin_texture
from tests.tiny import tiny_shape

RNG = np.random.default_rng(0)


def rough_picture(amplitude: float, size: int = 400, level: float = 150) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((size, size)).astype(np.float32), (0, 0), 0.8)
    return np.clip(level + amplitude * noise[..., None] / noise.std() * np.ones(3), 0, 255).astype(np.float32)


def landmarks(scale: float, size: int = 400) -> np.ndarray:
    return tiny_shape().mean[:, :2] * scale + size / 2 - [0, 0.3 * scale]


def test_octaves_and_what_they_leave_are_the_picture():
    grey = rough_picture(5)[..., 0]
    assert sum(octaves(grey)) + cv2.GaussianBlur(grey, (0, 0), BLURS[-1]) == pytest.approx(grey, abs=1e-3)


@pytest.mark.parametrize("amplitude", [0.0, 2.0, 4.0])
def test_skin_is_read_as_rough_as_it_is_in_whole_steps(amplitude):
    picture = rough_picture(amplitude, 700)
    found = skin_texture(np.rint(picture).astype(np.uint8), landmarks(150, 700))
    true = [one.std() for one in octaves(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))]
    assert found == pytest.approx(true, rel=0.15, abs=0.5 * TEXTURE_STEP + 0.1)
    assert (found % TEXTURE_STEP == 0).all()


def test_octaves_as_coarse_as_features_are_not_texture_nor_those_that_a_painter_can_paint():
    """A rash of noise is worse than wax, and so is sand on a face that came as large as it was painted."""
    picture = np.rint(rough_picture(4, 700)).astype(np.uint8)
    known = [(skin_texture(picture, landmarks(eyes, 700)) > 0).tolist() for eyes in (35, 64, 90, 150)]
    assert known == [[False] * 3, [False] * 3, [True, True, False], [True, True, True]]


def test_a_beard_on_one_cheek_or_a_fringe_is_not_skin():
    picture, points = rough_picture(2, 700), landmarks(150, 700)
    plain = skin_texture(picture.astype(np.uint8), points)
    for place in (0.5 * points[468] + 0.5 * points[61], points[[105, 334]].mean(0) - (0, 50)):
        x, y = place.astype(int)
        worse = picture.copy()
        worse[y - 45 : y + 45, x - 45 : x + 45] += 40 * RNG.standard_normal((90, 90, 1))
        assert skin_texture(np.clip(worse, 0, 255).astype(np.uint8), points) == pytest.approx(plain, rel=0.25)


@pytest.mark.parametrize("scale", [3.0, 80.0])
def test_faces_too_small_or_half_outside_say_nothing(scale):
    """The second one's cheeks are off the picture."""
    points = landmarks(scale) - (0 if scale < 10 else 200)
    assert (skin_texture(rough_picture(3).astype(np.uint8), points) == 0).all()


def test_a_smooth_patch_becomes_as_rough_as_wanted_and_a_rough_one_stays():
    wanted, inside = np.array([1.5, 1.2, 1.0], np.float32), np.ones((400, 400), bool)
    smooth = add_texture(rough_picture(0), wanted, inside, np.random.default_rng(2))
    found = [one.std() for one in octaves(cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY))]
    assert found == pytest.approx(wanted, rel=0.3)
    rough = rough_picture(12)
    assert np.abs(add_texture(rough, wanted, inside, np.random.default_rng(2)) - rough).mean() < 0.15
    again = add_texture(rough_picture(0), wanted, inside, np.random.default_rng(2))
    assert (again == smooth).all()


def test_dark_skin_gets_as_much_less_as_it_is_darker():
    inside, added = np.ones((400, 400), bool), []
    for gain in (1.0, 0.4):
        patch = np.full((400, 400, 3), 130.0, np.float32) * gain
        added.append((add_texture(patch, np.ones(3, np.float32), inside, np.random.default_rng(2)) - patch).std())
    assert added[1] == pytest.approx(0.4 * added[0], rel=0.05)


def test_shade_is_smoother_and_nothing_is_rougher_than_skin_gets():
    patch, inside = rough_picture(0), np.ones((400, 400), bool)
    patch[:, 200:] *= 0.2
    inside[:, 200:] = False
    out = add_texture(patch, np.full(3, 50.0, np.float32), inside, np.random.default_rng(2)) - patch
    assert out[:, 260:].std() < 0.3 * out[:, :140].std()
    assert max(one[:, :140].std() for one in octaves(out[..., 0])) < 1.3 * MOST


@pytest.mark.parametrize("backdrop", [(225, 228, 230), (120, 125, 130), (250, 250, 250)])
def test_backdrop_beside_a_face_gets_none(backdrop):
    patch, inside = np.full((400, 400, 3), (190, 140, 115), np.float32), np.ones((400, 400), bool)
    patch[:, 240:] = backdrop
    added = add_texture(patch, np.full(3, 2.0, np.float32), inside, np.random.default_rng(2)) - patch
    assert added[:, :200].std() > 2
    assert added[:, 280:].std() < 0.25


def test_without_texture_or_face_a_patch_stays():
    patch = rough_picture(3)
    for wanted, inside in ((np.zeros(3), np.ones((400, 400), bool)), (np.ones(3), np.zeros((400, 400), bool))):
        assert add_texture(patch, wanted, inside, np.random.default_rng(0)) is patch


def test_a_pasted_face_gets_the_texture_it_is_told():
    """The surroundings are as smooth as the patch: all roughness is what was read off the skin."""
    target, alpha = rough_picture(0).astype(np.uint8), np.zeros((400, 400), np.float32)
    alpha[100:300, 100:300] = 1
    core = (slice(130, 270),) * 2
    for texture, rougher in ((None, False), (np.array([2.0, 2.0, 2.0], np.float32), True)):
        patch = match_detail(rough_picture(0), target, alpha, np.random.default_rng(0), texture)
        assert (patch[core].std() > 2) == rougher


@pytest.mark.parametrize(("cycles", "gain"), [(0.05, 1.0), (0.15, 1.02), (0.25, 1.12), (0.35, 1.28), (0.45, 1.42)])
def test_the_finest_detail_gets_the_gain_that_is_promised(cycles, gain):
    wave = np.cos(2 * np.pi * cycles * np.arange(64))[None, :, None].repeat(64, 0).repeat(3, 2)
    painted = (120 + 20 * wave).astype(np.float32)
    inner = (slice(8, -8), slice(8, -8))
    crisp = crispen(painted, np.ones((64, 64), bool))
    assert ((crisp - 120) * wave)[inner].sum() / ((painted - 120) * wave)[inner].sum() == pytest.approx(gain, abs=0.01)
    assert np.array_equal(crispen(painted, np.zeros((64, 64), bool)), painted)
