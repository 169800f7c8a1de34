"""Where a carried face's pixels come from."""

import cv2
import numpy as np
import pytest

from deid_diffusion.methods.carrying import face_flow, flow_between, moved, source_flow, wrong_share
from deid_diffusion.types import FaceCrop


def test_an_expression_goes_its_own_way_and_the_rest_with_the_source():
    flow = np.full((256, 256, 2), 3.0, np.float32)
    here = np.random.default_rng(0).uniform(100, 150, (478, 2))
    # The source's own lips move there, which is not to be followed.
    flow[120:130, 120:130] = -20
    there = here + [0.0, -6.0]
    mixed = face_flow(flow, here, there)
    assert mixed[125, 125] == pytest.approx([3, -3], abs=1.5)
    assert mixed[10, 10] == pytest.approx([3, 3])
    assert np.array_equal(face_flow(flow, here, here + 0.2), flow)
    assert mixed.shape == flow.shape


def test_landmarks_beyond_the_crop_move_nothing():
    flow = np.full((64, 64, 2), 1.0, np.float32)
    assert np.array_equal(face_flow(flow, np.full((478, 2), 900.0), np.full((478, 2), 10.0)), flow)


def test_the_source_is_followed_and_what_cannot_be_is_told():
    rng = np.random.default_rng(1)
    image = np.repeat(np.repeat(rng.integers(0, 256, (32, 32, 3), np.uint8), 8, 0), 8, 1)
    mask, points, matrix = np.ones((256, 256), np.float32), np.zeros((478, 2)), np.eye(2, 3)
    mask[:16] = mask[-16:] = mask[:, :16] = mask[:, -16:] = 0
    there, here, other = (FaceCrop(one, mask, points, matrix) for one in
                          (image, np.roll(image, 4, axis=1), rng.integers(0, 256, image.shape, np.uint8)))  # fmt: skip
    flow, wrong = source_flow(here, there)
    assert np.median(flow[..., 0]) == pytest.approx(-4, abs=0.3)
    assert wrong < 0.15
    assert np.abs(moved(image, flow)[64:192, 64:192].astype(int) - here.image[64:192, 64:192]).mean() < 10
    assert source_flow(here, other)[1] > 0.5


def test_what_came_before_a_face_is_told_though_its_levels_are_alike():
    """A hand of the skin's own colour: each pixel finds one of its level, but not the way back."""
    rng = np.random.default_rng(0)
    texture, hand = (
        cv2.resize(rng.integers(110, 134, (16, 16)).astype(np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    )
    now, inside = texture.copy(), np.zeros((256, 256), bool)
    now[64:192, 64:192] = hand[64:192, 64:192]
    inside[64:192, 64:192] = True
    flow = flow_between(now, texture)
    assert (np.abs(moved(texture, flow)[inside].astype(int) - now[inside]) > 24).mean() < 0.01
    assert wrong_share(flow, now, texture, inside) > 0.2
    still = flow_between(np.roll(texture, 3, 1), texture)
    assert wrong_share(still, np.roll(texture, 3, 1), texture, inside) < 0.05
    assert wrong_share(flow, now, texture, np.zeros_like(inside)) == 1
