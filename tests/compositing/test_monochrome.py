"""A picture of one tone is known as one, and lends its tone."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, coffee

from deid_diffusion.compositing.monochrome import STRAY, in_tone, tone_of

PORTRAIT = np.ascontiguousarray(astronaut()[0:256, 96:352])
SEPIA = np.array([1.0, 0.85, 0.65])


def toned(colours: np.ndarray) -> np.ndarray:
    """(256, 256, 3) uint8: the portrait's lightness times a colour."""
    grey = cv2.cvtColor(PORTRAIT, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(grey * colours).astype(np.uint8)


def compressed(picture: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.parametrize("picture", [PORTRAIT, coffee(), PORTRAIT[:32, :32], PORTRAIT[100:130, 100:130]])
def test_a_coloured_picture_has_no_tone(picture):
    assert tone_of(np.ascontiguousarray(picture)) is None


@pytest.mark.parametrize("colours", [np.ones(3), SEPIA, SEPIA[::-1]])
@pytest.mark.parametrize("kept", [lambda p: p, compressed])
def test_a_toned_picture_lends_its_tone(colours, kept):
    picture = kept(toned(colours))
    curve = tone_of(picture)
    assert curve.shape == (256, 3)
    again = in_tone(picture.astype(np.float32), curve)
    assert np.quantile(np.abs(again - picture), 0.98) < STRAY
    painted = in_tone(np.random.default_rng(0).uniform(40, 200, (64, 64, 3)).astype(np.float32), curve)
    ratio = painted.mean((0, 1)) / painted.mean((0, 1))[0]
    assert ratio == pytest.approx(colours / colours[0], abs=0.05)


def test_grey_stays_grey_to_the_bit():
    picture = toned(np.ones(3))
    painted = in_tone(PORTRAIT.astype(np.float32), tone_of(picture))
    assert (painted == painted[..., :1]).all()


def test_a_plain_surface_tells_no_tone_unless_it_is_grey():
    assert tone_of(np.full((4, 4, 3), (120, 100, 80), np.uint8)) is None
    assert (tone_of(np.full((4, 4, 3), 120, np.uint8)) == 0).all()
    assert (tone_of(np.zeros((1, 1, 3), np.uint8)) == 0).all()
