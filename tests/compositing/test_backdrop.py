from dataclasses import replace

import cv2
import numpy as np
import pytest

from deid_diffusion.compositing.backdrop import settle_backdrop
from deid_diffusion.compositing.paste import Patch, paste_faces
from deid_diffusion.faces.backdrop import find_backdrop, left_over

from .test_paste import SIDE, crop_of, smooth_noise

WALL, SKIN = (196, 200, 202), (150, 110, 90)


def portrait(jaw: float = 0.24) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: a face of one colour before a wall, with a neck that goes on below."""
    image = np.full((SIDE, SIDE, 3), WALL, np.uint8)
    cv2.rectangle(image, (52, 80), (76, SIDE), SKIN, -1)
    cv2.ellipse(image, (64, 66), (round(jaw * SIDE), 40), 0, 0, 360, SKIN, -1)
    return image


@pytest.fixture
def crop():
    return crop_of(portrait(), np.eye(2, 3))


def settled(image: np.ndarray, crop, source: np.ndarray | None = None) -> np.ndarray:
    mask = crop.mask > 0
    known = crop.image if source is None else source
    return settle_backdrop(image.astype(np.float32), known, mask, ~mask, crop.landmarks)[0]


def test_a_halo_beside_a_narrower_jaw_becomes_the_wall(crop):
    narrow = portrait(0.2)
    generated = np.where((narrow == WALL).all(-1)[..., None] & (crop.mask > 0)[..., None], narrow + 18, narrow)
    out = settled(generated, crop)
    inside = cv2.erode(crop.mask, np.ones((7, 7))) > 0  # the mask's rim is feather
    beside = inside & (cv2.dilate((narrow != WALL).any(-1).astype(np.uint8), np.ones((9, 9))) == 0)
    beside[: SIDE // 3] = False  # beside the hair nothing is known
    assert beside.sum() > 200
    assert np.abs(out - WALL)[beside].max() < 2
    face = cv2.erode((narrow != WALL).any(-1).astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(out - narrow)[face].max() < 1


@pytest.mark.parametrize("source", ["leaves", "a wall of the skin's colour"])
def test_where_the_surroundings_say_nothing_nothing_is_done(crop, source):
    around = smooth_noise(SIDE, SIDE, 2.0) if source == "leaves" else np.full((SIDE, SIDE, 3), SKIN, np.uint8)
    generated = portrait(0.2)
    assert np.array_equal(settled(generated, crop, around), generated)


def test_dark_hair_before_a_dark_backdrop_stays(crop):
    dark, hair = (25, 45, 62), (60, 45, 35)
    source = np.where(crop.image == WALL, np.array(dark), crop.image).astype(np.uint8)
    generated = source.copy()
    generated[40:70, 26:36] = hair
    assert np.abs(settled(generated, crop, source) - generated).max() < 6  # levels, along its edge; 35 if it went


def test_what_is_under_the_mask_is_not_read(crop):
    other = np.where((crop.mask > 0)[..., None], 255 - crop.image, crop.image)
    assert np.array_equal(settled(portrait(0.2), crop), settled(portrait(0.2), crop, other))


def test_an_old_ear_does_not_shine_through_the_feather(crop):
    source = crop.image.copy()
    cv2.circle(source, (22, 70), 4, SKIN, -1)  # an ear's rim, partly under the mask's outermost part
    crop = replace(crop, image=source)
    rest = left_over(source, crop.mask <= 0, crop.mask > 0, crop.landmarks)
    crop = replace(crop, mask=np.maximum(crop.mask, rest))
    out, changed = paste_faces(source, [Patch(portrait(0.2), crop)])
    rim = (source != crop_of(portrait(), np.eye(2, 3)).image).any(-1)
    assert (rim & changed).sum() == rim.sum()
    assert np.abs(out[rim].astype(int) - WALL).max() < 30  # levels; the skin is 90 away


@pytest.mark.parametrize("what", ["rim", "rim far off", "shoulder"])
def test_only_what_ends_beside_the_mask_is_left_over(crop, what):
    image = crop.image.copy()
    if what == "shoulder":
        cv2.rectangle(image, (0, 84), (24, SIDE), (90, 20, 20), -1)
    else:
        cv2.circle(image, (19 if what == "rim" else 6, 70), 3, SKIN, -1)
    found = left_over(image, crop.mask <= 0, crop.mask > 0, crop.landmarks)
    assert found.any() == (what == "rim")
    assert not (found & (crop.mask > 0)).any()


def test_backdrop_goes_on_behind_the_face(crop):
    slope = np.linspace(150, 220, SIDE)[None, :, None]
    image = np.where(crop.image == WALL, slope, crop.image).astype(np.uint8)
    found = find_backdrop(image, crop.mask <= 0, crop.mask > 0, crop.landmarks, np.array(SKIN, np.float32))
    off = np.abs(found.colour - slope)[70, [28, 100]]
    assert off.max() < 6
    assert not found.seen[crop.mask > 0].any()
