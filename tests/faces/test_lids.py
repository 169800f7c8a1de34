"""Lids that move, on a drawn eye."""

from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.lids import LOWER, UPPER, blinking, move_lids
from deid_diffusion.faces.task import FaceTask
from tests.faces.test_tracks import face

WIDTH, GAP = 40.0, 16.0
SHARES = np.linspace(0, 1, 9)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A skin-coloured crop with two dark eyes, and their landmarks."""
    points = np.zeros((478, 2))
    for side, centre in ((0, (80.0, 100.0)), (1, (176.0, 100.0))):
        along = centre[0] + (SHARES - 0.5) * WIDTH * (1 if side == 0 else -1)
        arch = GAP / 2 * np.sin(np.pi * SHARES)
        points[list(UPPER[side])] = np.stack([along, centre[1] - arch], 1)
        points[list(LOWER[side])] = np.stack([along, centre[1] + arch], 1)
    y, x = np.mgrid[:256, :256] + 0.5
    image = np.full((256, 256, 3), 200, np.uint8)
    for centre in (80.0, 176.0):
        share = np.clip((x - centre) / WIDTH + 0.5, 0, 1)
        image[np.abs(y - 100) < GAP / 2 * np.sin(np.pi * share)] = 20
    return image, points


@pytest.mark.parametrize("opening", [0.75, 0.5, 0.25, 1.2])
def test_both_eyes_open_as_far_as_they_are_asked_to(opening):
    image, points = drawn()
    dark = [(one[..., 0] < 110)[:, half].sum() for one in (image, move_lids(image, points, opening))
            for half in (slice(0, 128), slice(128, 256))]  # fmt: skip
    assert dark[2] / dark[0] == pytest.approx(opening, abs=0.12)
    assert dark[3] / dark[1] == pytest.approx(opening, abs=0.12)


def test_a_shut_eye_is_a_line_and_all_else_stays():
    image, points = drawn()
    shut = move_lids(image, points, 0.0)
    assert (shut[100, 70:90, 0] < 200).sum() <= 20
    assert (shut[..., 0] < 110).sum() < 0.2 * (image[..., 0] < 110).sum()
    away = np.ones((256, 256), bool)
    away[70:130] = False
    assert np.array_equal(shut[away], image[away])
    assert np.array_equal(image, drawn()[0])


def test_eyes_that_are_left_as_they_are_keep_their_bits():
    image, points = drawn()
    assert np.array_equal(move_lids(image, points, 1.0), image)


@pytest.mark.parametrize("odd", ["a point", "beyond the crop", "not finite"])
def test_no_eye_is_no_error(odd):
    image, points = drawn()
    points = {"a point": points * 0, "beyond the crop": points + 1000, "not finite": points * np.nan}[odd]
    assert np.array_equal(move_lids(image, points, 0.3), image)


def test_what_is_asked_of_the_model_is_the_eyes_of_the_track():
    task = FaceTask(face(100), 0, wanted=Attributes(eyes_open=0.17, smile=0.5))
    passed = blinking(task, 0.68)
    assert (passed.wanted.eyes_open, passed.wanted.smile) == (0.68, 0.5)
    assert passed.opening == pytest.approx(0.25)
    # Eyes that never open are generated open, and shut.
    shut = blinking(replace(task, wanted=Attributes(eyes_open=0.0)), 0.0)
    assert (shut.wanted.eyes_open, shut.opening) == (0.68, 0)
    assert blinking(task, None) is task
    unset = replace(task, wanted=Attributes(smile=0.5))
    assert blinking(unset, 0.68) is unset


def test_lids_can_be_moved_by_more_than_was_read():
    task = FaceTask(face(10, 10), 0, wanted=Attributes(eyes_open=0.6))
    assert blinking(task, 0.8, 2.0).opening == pytest.approx(0.5)
    assert blinking(task, 0.8).opening == pytest.approx(0.75)
    assert blinking(replace(task, wanted=Attributes(eyes_open=0.1)), 0.8, 2.0).opening == 0
    assert blinking(replace(task, wanted=Attributes(eyes_open=0.8)), 0.8, 2.0).opening == pytest.approx(1)
